"""Cancelling: what has not started ends now; what runs is asked to stop and ends when its agent says so."""

from __future__ import annotations

from sqlalchemy import select, update

from orchestrator.jobs import progress
from orchestrator.model.states import JOB_OPEN, TaskState
from orchestrator.model.tables import Job, Task, table
from orchestrator.store.doors import Move, advance
from orchestrator.store.writer import Tx

jobs, tasks = table(Job), table(Task)


def cancel(tx: Tx, job_id: int, *, actor: str) -> bool:
    """Ask the job to stop. False if there was nothing left to stop; asking twice is fine."""
    row = tx.connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).one()
    if row.state not in JOB_OPEN:
        return False
    if row.cancel_requested_at is None:
        tx.connection.execute(update(jobs).where(jobs.c.id == job_id).values(cancel_requested_at=tx.now))
        tx.tell("job", job_id, "cancel requested", actor=actor, job_id=job_id)
    columns = (tasks.c.id, tasks.c.state, tasks.c.spec)
    unstarted = (tasks.c.job_id == job_id, tasks.c.state.in_((TaskState.WAITING, TaskState.QUEUED)))
    rows = tx.connection.execute(select(*columns).where(*unstarted).with_for_update()).all()
    links = {"job_id": job_id}
    moves = [
        Move(task.id, task.state, TaskState.CANCELLED, "cancelled on request",
             {"finished_at": tx.now}, links | {"task_id": task.id}, actor=actor)
        for task in rows
    ]  # fmt: skip
    advance(tx, Task, moves)
    if rows:
        progress.settle(tx, [progress.Ended(task.id, job_id, TaskState.CANCELLED, task.spec) for task in rows])
    return True
