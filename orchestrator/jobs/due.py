"""Tasks whose `run_after` has come: nobody else's doing wakes them, so this step does."""

from __future__ import annotations

from sqlalchemy import and_, case, func, select

from orchestrator.jobs.fits import EVERYBODY
from orchestrator.model.states import TaskState
from orchestrator.model.tables import Task, table
from orchestrator.store.writer import Tx

tasks = table(Task)


def wake_due(tx: Tx) -> float | None:
    """Wake nodes for the tasks that are due, and return in how many seconds the next one is (None: none waits)."""
    waiting = (tasks.c.state == TaskState.QUEUED, tasks.c.run_after.is_not(None))
    plain = and_(tasks.c.slots == 1, tasks.c.memory_mb.is_(None), tasks.c.labels.is_(None))
    wakes = func.sum(case((plain, 1), else_=EVERYBODY))
    counted = select(tasks.c.token, tasks.c.pool_id, wakes).where(*waiting, tasks.c.run_after <= tx.now)
    for token, pool_id, count in tx.connection.execute(counted.group_by(tasks.c.token, tasks.c.pool_id)):
        tx.queued[token, pool_id] += count
    next_at = tx.connection.execute(
        select(tasks.c.run_after).where(*waiting, tasks.c.run_after > tx.now).order_by(tasks.c.run_after).limit(1)
    ).scalar()
    return (next_at - tx.now).total_seconds() if next_at else None
