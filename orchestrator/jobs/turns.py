"""Turns: how clients share the nodes without a token. Of one priority, the task with the smallest turn is taken first.

This is start-time fair queuing (Goyal, Vin and Cheng, 1996). A task that is queued stands behind its client's one before,
by the share of the nodes that this one costs: its slots over the client's weight. A client that had nothing queued begins
where the queue is now, at the turn of its first task: what it left unused before is not saved up, and what it used is not
held against it. So ten thousand tasks of one client stand between each other's, and the next client's one near the front.

Turns are given when a task is queued, and only where there is somebody to share with: with a token a node is one client's
own, and its tasks go by their age. A task that is tried again keeps its turn. Nothing is locked: two masters that queue for
one client in the same moment do not see each other's turns, so a client gains at most a share a master by that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select, text, update

from orchestrator.jobs.fits import PLAIN, Needs
from orchestrator.model.states import JOB_OPEN, TaskState
from orchestrator.model.tables import Client, Job, Task, table
from orchestrator.store.prepared import Prepared
from orchestrator.store.writer import Tx

jobs, tasks, clients = (table(m) for m in (Job, Task, Client))
LOOKED_AT = 20  # of a client's latest jobs: those on top may have been cancelled

_shared_queue = (
    select(tasks.c.turn, tasks.c.pool_id, tasks.c.slots, tasks.c.memory_mb, tasks.c.labels, tasks.c.run_after)
    .where(
        tasks.c.state == TaskState.QUEUED, tasks.c.token.is_(None), tasks.c.priority == bindparam("priority")
    )
    .order_by(tasks.c.turn, tasks.c.id)
    .limit(1)
)  # fmt: skip
_first = Prepared(_shared_queue)
_first_anybody_can_run = Prepared(
    _shared_queue.where(
        tasks.c.pool_id.is_not_distinct_from(bindparam("pool_id", type_=tasks.c.pool_id.type)),
        tasks.c.run_after.is_(None), tasks.c.labels.is_(None), tasks.c.memory_mb.is_(None), tasks.c.slots == 1,
    )
)  # fmt: skip
_has_turn = text("job.turn > 0")  # as the index says it: with a parameter it would not be used
_latest_jobs = Prepared(
    select(jobs.c.turn, jobs.c.state)
    .where(jobs.c.client_id == bindparam("client_id"), jobs.c.priority == bindparam("priority"), _has_turn)
    .order_by(jobs.c.id.desc())
    .limit(LOOKED_AT)
)
_note = Prepared(update(jobs).where(jobs.c.id == bindparam("_id")).values(turn=bindparam("turn")))
_sharers = (
    select(jobs.c.id, jobs.c.client_id, jobs.c.priority, clients.c.weight)
    .join(clients, clients.c.id == jobs.c.client_id)
    .where(jobs.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(jobs.c.id)
)


@dataclass(frozen=True, slots=True)
class Sharer:
    """Who queues, among those of which priority. `alone`: it is known that nobody waits."""

    client_id: int
    weight: float
    priority: int
    alone: bool = False


Wish = tuple[int | None, Needs]
"""The pool that a task names, and what it needs."""


def give(tx: Tx, sharer: Sharer, wishes: Iterable[Wish]) -> tuple[list[float], float]:
    """The turns of tasks without a token that the client queues now, in their order, and where its next one is to stand."""
    stands: dict[int | None, float] = {}
    turns = []
    for pool_id, needs in wishes:
        if pool_id not in stands:
            stands[pool_id] = _start(tx, sharer, pool_id)
        turns.append(stands[pool_id])
        stands[pool_id] += needs.slots / sharer.weight
    return turns, max(stands.values(), default=0.0)


def give_released(tx: Tx, released: Sequence[Any]) -> dict[int, float]:
    """Turns by task for those of a graph that are queued only now (`progress.Ready`), noted on their jobs."""
    by_job: dict[int, list[Any]] = defaultdict(list)
    for task in released:
        if task.token is None and task.kind == "run":
            by_job[task.job_id].append(task)
    turns: dict[int, float] = {}
    for job in tx.connection.execute(_sharers, {"ids": list(by_job)}) if by_job else ():
        mine = by_job[job.id]
        given, after = give(
            tx, Sharer(job.client_id, job.weight, job.priority), [(task.pool_id, task.needs) for task in mine]
        )
        turns |= zip((task.id for task in mine), given, strict=True)
        _note.many(tx.connection, [{"_id": job.id, "turn": after}])
    return turns


def _start(tx: Tx, sharer: Sharer, pool_id: int | None) -> float:
    """Where the client's next task begins: behind its own, and not before where the queue is now."""
    found = [] if sharer.alone else _first.rows(tx.connection, {"priority": sharer.priority})
    if not found:
        return 0.0  # nobody waits: all begin anew
    if (found[0].pool_id, found[0].run_after) != (pool_id, None) or Needs.of(found[0]) != PLAIN:
        # That one may wait for long while others pass: it does not say how far the queue is.
        asked = {"priority": sharer.priority, "pool_id": pool_id}
        found = _first_anybody_can_run.rows(tx.connection, asked) or found
    key = {"client_id": sharer.client_id, "priority": sharer.priority}
    own = [row.turn for row in _latest_jobs.rows(tx.connection, key) if row.state in JOB_OPEN]
    return max(found[0].turn, *own) if own else float(found[0].turn)
