"""A job's end becomes notifications: rows in the transaction that ends it, so that none is lost; `notify` sends them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import case, insert, select

from orchestrator.jobs.notify import places, shown
from orchestrator.model.states import NotificationState
from orchestrator.model.tables import Client, Job, Notification, table
from orchestrator.store.writer import Tx

jobs, clients, notifications = table(Job), table(Client), table(Notification)
_clients_own = select(clients.c.notify).where(clients.c.id == jobs.c.client_id).correlate(jobs).scalar_subquery()
WISHES = (
    case((jobs.c.open_tasks == 0, jobs.c.spec["notify"])).label("notify"),
    case((jobs.c.open_tasks == 0, _clients_own)).label("client_notify"),
)
"""What the job's file and its client want told, read where the last task is counted down: no query of its own."""


def announce(tx: Tx, ended: Iterable[tuple[Any, str]]) -> None:
    """Note who is to hear of these jobs' ends: rows with WISHES, and the state each job ended in."""
    for job, outcome in ended:
        if not (job.notify or job.client_notify):
            continue
        for place in places((job.notify, job.client_notify), outcome):
            values = {
                "job_id": job.id,
                "target": place,
                "state": NotificationState.PENDING,
                "tries": 0,
                "created_at": tx.now,
            }
            made = insert(notifications).values(values).returning(notifications.c.id)
            id_ = tx.connection.execute(made).scalar_one()
            reason = f"{shown(place)} is to hear that the job {outcome}"
            tx.record("notification", id_, None, NotificationState.PENDING, reason, None, "master", {"job_id": job.id})
