"""The only door to a state: compare-and-set along an allowed step, with its event in the same transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sqlalchemy import bindparam, update
from sqlmodel import SQLModel

from orchestrator.model.states import (
    ATTEMPT_STEPS,
    JOB_STEPS,
    LAUNCH_STEPS,
    NODE_STEPS,
    NOTIFICATION_STEPS,
    TASK_STEPS,
    Steps,
)
from orchestrator.model.tables import Attempt, Job, Launch, Node, Notification, Task, table
from orchestrator.store.prepared import Prepared
from orchestrator.store.writer import Conflict, Tx

STEPS: dict[type[SQLModel], Steps] = {
    Node: NODE_STEPS,
    Launch: LAUNCH_STEPS,
    Task: TASK_STEPS,
    Attempt: ATTEMPT_STEPS,
    Job: JOB_STEPS,
    Notification: NOTIFICATION_STEPS,
}


class StepForbidden(Exception):
    """The step is not drawn in `model.states`: a mistake in the program, not a race."""


class StateConflict(Conflict):
    """The row was no longer in the state the step begins from: somebody else moved it first."""


@dataclass(frozen=True, slots=True)
class Move:
    """One row's step. `values` are set with it; `links` name what else the event is about.

    `told_elsewhere` leaves out the event where another one of the same transaction tells it (a task's tells its
    attempt's).
    """

    id: int
    from_state: str
    to: str
    reason: str
    values: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, int | None] = field(default_factory=dict)
    detail: str | None = None
    actor: str = "master"
    told_elsewhere: bool = False


def advance(tx: Tx, model: type[SQLModel], moves: Sequence[Move]) -> None:
    """Move rows along allowed steps, all or none.

    Raises StepForbidden for a step that is not drawn, StateConflict when any row was not in its `from_state`; the
    caller's transaction is rolled back by either.
    """
    steps = STEPS[model]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for move in moves:
        if move.to not in steps[move.from_state]:
            raise StepForbidden(f"{model.__name__} {move.id}: {move.from_state} → {move.to} ({move.reason})")
        row = {"_id": move.id, "_from": move.from_state, "state": move.to, "reason": move.reason, **move.values}
        groups[tuple(sorted(row))].append(row)
    for columns, rows in groups.items():
        changed = _update(model, columns).many(tx.connection, rows)
        if changed != len(rows):
            ids = [row["_id"] for row in rows]
            raise StateConflict(f"{model.__name__} {ids}: {len(rows) - changed} of {len(rows)} had moved on")
    for move in moves:
        if not move.told_elsewhere:
            tx.record(
                model.__name__.lower(),
                move.id,
                move.from_state,
                move.to,
                move.reason,
                move.detail,
                move.actor,
                dict(move.links),
            )


@lru_cache(maxsize=256)
def _update(model: type[SQLModel], columns: tuple[str, ...]) -> Prepared:
    rows = table(model)
    guard = (rows.c.id == bindparam("_id"), rows.c.state == bindparam("_from"))
    values: dict[str, Any] = {name: bindparam(name) for name in columns if not name.startswith("_")}
    return Prepared(update(rows).where(*guard).values(values))
