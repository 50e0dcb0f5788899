"""The rows that the invariants look at, as the driver reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Violation(Exception):
    """A promise was not kept."""


class NodeRow(NamedTuple):
    id: int
    state: str
    instance_id: str | None
    pool_id: int
    token: str | None
    launch_id: int
    end_reason: str | None
    protected: int
    deployment_id: int | None


class AttemptRow(NamedTuple):
    id: int
    state: str
    task_id: int
    node_id: int
    number: int
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
    exit_code: int | None
    reason: str | None
    skipped_because: str | None


class LaunchRow(NamedTuple):
    id: int
    state: str
    pool_id: int
    machines: int
    kind: str
    probe: int
    requested_at: str


class JobRow(NamedTuple):
    id: int
    state: str
    name: str
    cancel_requested_at: str | None


class PoolRow(NamedTuple):
    id: int
    name: str
    max_nodes: int
    breaker_failures: int
    frozen_reason: str | None
    paused_at: str | None


class DeploymentRow(NamedTuple):
    id: int
    closed_at: str | None


class HoldRow(NamedTuple):
    id: int
    pool_id: int
    kind: str
    cause: str
    failures: int
    until: str


@dataclass(frozen=True, slots=True)
class Rows:
    """All of them at one moment, by id."""

    nodes: dict[int, NodeRow]
    attempts: dict[int, AttemptRow]
    tasks: dict[int, TaskRow]
    launches: dict[int, LaunchRow]
    jobs: dict[int, JobRow]
    pools: dict[int, PoolRow]
    deployments: dict[int, DeploymentRow]
    holds: dict[int, HoldRow]
    by_machine: dict[str, NodeRow]

    def of(self, name: str) -> Mapping[int, Any]:
        """The rows of the table of this name."""
        return {  # type: ignore[return-value]
            "node": self.nodes, "attempt": self.attempts, "task": self.tasks, "launch": self.launches, "job": self.jobs,
        }[name]  # fmt: skip

    @classmethod
    def read(cls, query: Callable[[str], list[Any]], since: Mapping[str, int] | None = None) -> Rows:
        """`since`: the first id of each table that still matters; a long life would be read again and again."""
        first = since or {}

        def table(name: str, row: Any) -> dict[int, Any]:
            fields = ", ".join(row._fields)
            found = query(f"SELECT {fields} FROM {name} WHERE id >= {first.get(name, 0)}")  # noqa: S608
            return {values[0]: row(*values) for values in found}

        nodes = table("node", NodeRow)
        return cls(
            nodes,
            table("attempt", AttemptRow),
            table("task", TaskRow),
            table("launch", LaunchRow),
            table("job", JobRow),
            table("pool", PoolRow),
            table("deployment", DeploymentRow),
            table("hold", HoldRow),
            {node.instance_id: node for node in nodes.values() if node.instance_id},
        )
