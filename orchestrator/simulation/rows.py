"""The rows that the invariants look at, as the driver reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class NodeRow(NamedTuple):
    id: int
    state: str
    instance_id: str | None
    pool_id: int
    token: str | None
    launch_id: int
    end_reason: str | None


class AttemptRow(NamedTuple):
    id: int
    state: str
    task_id: int
    node_id: int
    exit_code: int | None
    log_size: int


class TaskRow(NamedTuple):
    id: int
    state: str
    job_id: int
    name: str
    kind: str
    token: str | None
    job_failures: int
    infrastructure_failures: int
    skipped_because: str | None


class LaunchRow(NamedTuple):
    id: int
    state: str
    pool_id: int
    machines: int


class JobRow(NamedTuple):
    id: int
    state: str


class PoolRow(NamedTuple):
    id: int
    name: str
    max_nodes: int
    frozen_reason: str | None
    paused_at: str | None


@dataclass(frozen=True, slots=True)
class Rows:
    """All of them at one moment, by id."""

    nodes: dict[int, NodeRow]
    attempts: dict[int, AttemptRow]
    tasks: dict[int, TaskRow]
    launches: dict[int, LaunchRow]
    jobs: dict[int, JobRow]
    pools: dict[int, PoolRow]
    by_machine: dict[str, NodeRow]

    def of(self, name: str) -> Mapping[int, Any]:
        """The rows of the table of this name."""
        return {  # type: ignore[return-value]
            "node": self.nodes, "attempt": self.attempts, "task": self.tasks, "launch": self.launches, "job": self.jobs,
        }[name]  # fmt: skip

    @classmethod
    def read(cls, query: Callable[[str], list[Any]]) -> Rows:
        def table(name: str, row: Any) -> dict[int, Any]:
            return {values[0]: row(*values) for values in query(f"SELECT {', '.join(row._fields)} FROM {name}")}  # noqa: S608

        nodes = table("node", NodeRow)
        return cls(
            nodes,
            table("attempt", AttemptRow),
            table("task", TaskRow),
            table("launch", LaunchRow),
            table("job", JobRow),
            table("pool", PoolRow),
            {node.instance_id: node for node in nodes.values() if node.instance_id},
        )
