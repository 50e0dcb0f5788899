"""Ten clients on the nodes they share: nine queue from 200 to 2,000 tasks, the tenth one task now and then.

The store, the claims and the turns are the real ones; time is virtual, 16 slots run each task for 10 s. Figures: how long
the small client's tasks wait, against a queue without the others; and Jain's index of what the nine were given while all of
them had something queued (1: all alike). Floors: a small task waits at most for two tasks' time; the index is 0.95.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert

from benchmarks.lab import percentile, report
from orchestrator.agents.claims import claim, holder
from orchestrator.agents.results import Result, accept
from orchestrator.fleet import pools
from orchestrator.jobs import spec
from orchestrator.jobs.outcomes import Outcome
from orchestrator.jobs.submit import submit
from orchestrator.model.states import LaunchState, NodeState
from orchestrator.model.tables import Launch, Node, Pool, table
from orchestrator.store.engine import open_engine
from orchestrator.store.migrate import upgrade
from orchestrator.store.writer import Tx, Writer

SLOTS, TASK_S, EVERY_S, ROUNDS = 16, 10, 50, 40
LARGE = {f"large-{i}": 200 * (i + 1) for i in range(9)} | {"large-8": 2000}
MOST_WAIT_S, LEAST_JAIN = 2.0 * TASK_S, 0.95


def main() -> int:
    alone, _ = _served({})
    waits, given = _served(LARGE)
    jain = sum(given.values()) ** 2 / (len(given) * sum(count**2 for count in given.values()))
    return report(
        "fairness", max(waits) <= MOST_WAIT_S and jain >= LEAST_JAIN,
        clients=len(LARGE) + 1, queued=sum(LARGE.values()), slots=SLOTS, task_s=TASK_S,
        small_wait_p50_s=percentile(waits, 0.5), small_wait_most_s=max(waits), small_wait_alone_s=max(alone),
        jain=jain, least_given=min(given.values()), most_given=max(given.values()),
        floors={"small_wait_most_s": MOST_WAIT_S, "jain": LEAST_JAIN},
    )  # fmt: skip


class _Clock:
    """Virtual time."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@contextmanager
def _store(clock: _Clock) -> Iterator[Writer]:
    with tempfile.TemporaryDirectory(prefix="eo-fairness-") as folder:
        engine = open_engine(f"sqlite:///{folder}/fairness.db")
        upgrade(engine)
        writer = Writer(engine, clock, inline=True)
        yield writer
        writer.close()
        engine.dispose()


def _served(load: dict[str, int]) -> tuple[list[float], Counter[str]]:
    """The small client's waits in seconds, and how many tasks each of the others was given in the first rounds."""
    clock = _Clock()
    waits: list[float] = []
    given: Counter[str] = Counter(dict.fromkeys(load, 0))
    with _store(clock) as writer:
        node = writer.write(_node)
        for client, tasks in load.items():
            _submit(writer, client, tasks)
        small_since: dict[int, datetime] = {}
        running: list[int] = []
        for round_ in range(ROUNDS):
            clock.now += timedelta(seconds=TASK_S)
            done = [Result(attempt, Outcome("exited", 0)) for attempt in running]
            orders: list[dict[str, Any]] = writer.write(lambda tx, done=done: _exchange(tx, node, done))  # type: ignore[misc]
            running = [order["attempt"] for order in orders]
            for order in orders:
                if (since := small_since.pop(int(order["env"]["JOB_ID"]), None)) is not None:
                    waits.append((clock.now - since).total_seconds())
                else:
                    given[order["env"]["ORCHESTRATOR_JOB"]] += 1
            if round_ % (EVERY_S // TASK_S) == 0:
                small_since[_submit(writer, "small", 1)] = clock.now
    return waits, given


def _submit(writer: Writer, client: str, tasks: int) -> int:
    units = [{"name": f"t{i}", "run": "true"} for i in range(tasks)]
    job = spec.parse({"name": client, "client": client, "tasks": units})
    return writer.write(lambda tx: submit(tx, job, actor="bench")).job_id


def _exchange(tx: Tx, node: int, done: list[Result]) -> list[dict[str, Any]]:
    accept(tx, node, done)
    return claim(tx, holder(tx, node), SLOTS)


def _node(tx: Tx) -> int:
    """One ready node with all the slots."""
    pool = Pool(name="main", cloud="none", slots=SLOTS).model_dump(exclude={"id", "created_at"})
    pool_id = pools.create(tx, pool, actor="bench")
    launch = Launch(
        pool_id=pool_id, cloud="none", kind="k", label="k", state=LaunchState.LAUNCHED, machines=1, image="i",
        instance_type="t", requested_at=tx.now,
    )  # fmt: skip
    made = insert(table(Launch)).values(launch.model_dump(exclude={"id"})).returning(table(Launch).c.id)
    launch_id = tx.connection.execute(made).scalar_one()
    node = Node(pool_id=pool_id, launch_id=launch_id, state=NodeState.READY, slots=SLOTS, requested_at=tx.now)
    inserted = insert(table(Node)).values(node.model_dump(exclude={"id"})).returning(table(Node).c.id)
    return int(tx.connection.execute(inserted).scalar_one())


if __name__ == "__main__":
    sys.exit(main())
