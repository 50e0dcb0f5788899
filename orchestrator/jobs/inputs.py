"""What tasks wrote for later ones: the outputs of the tasks in a task's `needs` are variables of its environment.

A task that wrote nothing costs nothing: only one whose needs wrote something is marked, and only for those is there a look.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from orchestrator.model.tables import Task, TaskNeed, table
from orchestrator.store.writer import Tx

tasks, needs = table(Task), table(TaskNeed)
CHUNK = 500  # ids in one IN (…)


def mark(tx: Tx, wrote: Sequence[int]) -> None:
    """Note at the tasks that need these, which wrote outputs, that there is something for them."""
    for start in range(0, len(wrote), CHUNK):
        dependents = select(needs.c.task_id).where(needs.c.needs_id.in_(wrote[start : start + CHUNK]))
        tx.connection.execute(update(tasks).where(tasks.c.id.in_(dependents)).values(has_inputs=True))


def inputs_of(connection: Connection, task_id: int) -> dict[str, str]:
    """The outputs of the task's needs. Where two wrote the same key, the task that stands later in the job file wins."""
    query = select(tasks.c.outputs).join(needs, needs.c.needs_id == tasks.c.id).where(needs.c.task_id == task_id)
    found: dict[str, str] = {}
    for outputs in connection.execute(query.where(tasks.c.outputs.is_not(None)).order_by(tasks.c.id)).scalars():
        found |= outputs
    return found
