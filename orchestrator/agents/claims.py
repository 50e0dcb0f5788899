"""Claims: queued tasks become attempts on a node, by the token rule, each once.

The token rule: a node's token and a task's token are equal or there is no match, and none equals only none. So a task
with a token runs only on nodes carrying it, a task without one never on a protected node; the client's name is part of
the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, bindparam, insert, or_, select

from orchestrator.jobs.inputs import inputs_of
from orchestrator.model.states import AttemptState, JobState, NodeState, TaskState
from orchestrator.model.tables import Attempt, Job, Node, Task, table
from orchestrator.store.doors import Move, advance
from orchestrator.store.prepared import Prepared
from orchestrator.store.writer import Tx

jobs, tasks, attempts, nodes = (table(m) for m in (Job, Task, Attempt, Node))

AHEAD = 32
"""Attempts a node may hold beyond its slots, so that short tasks never wait for the network."""

_claimable = (
    tasks.c.id, tasks.c.job_id, tasks.c.name, tasks.c.spec, tasks.c.attempts, tasks.c.token,
    tasks.c.params.label("resume"), tasks.c["values"].label("fixed"), tasks.c.has_inputs,
    jobs.c.params, jobs.c.state.label("job_state"), jobs.c.name.label("job_name"),
)  # fmt: skip
_insert_attempt = Prepared(
    insert(attempts).returning(attempts.c.id), ("task_id", "node_id", "number", "state", "log_size", "claimed_at")
)
_holder = Prepared(
    select(nodes.c.id, nodes.c.pool_id, nodes.c.token, nodes.c.slots, nodes.c.state)
    .where(nodes.c.id == bindparam("node_id"))
    .with_for_update(read=True)
)


def _claim(token_rule: ColumnElement[bool]) -> Prepared:
    return Prepared(
        select(*_claimable)
        .join(jobs, jobs.c.id == tasks.c.job_id)
        .where(
            tasks.c.state == TaskState.QUEUED,
            token_rule,
            or_(tasks.c.pool_id.is_(None), tasks.c.pool_id == bindparam("pool_id")),
            or_(tasks.c.run_after.is_(None), tasks.c.run_after <= bindparam("now", type_=tasks.c.run_after.type)),
        )
        .order_by(tasks.c.priority.desc(), tasks.c.id)
        .limit(bindparam("wanted"))
        .with_for_update(skip_locked=True, of=tasks)
    )


_claim_unprotected = _claim(tasks.c.token.is_(None))
_claim_by_token = _claim(tasks.c.token == bindparam("token"))
_still_queued = (
    select(jobs.c.id)
    .where(jobs.c.id.in_(bindparam("ids", expanding=True)), jobs.c.state == JobState.QUEUED)
    .order_by(jobs.c.id)
    .with_for_update()
)
_orders = (
    select(*_claimable, attempts.c.id.label("attempt_id"), attempts.c.number)
    .join(tasks, tasks.c.id == attempts.c.task_id)
    .join(jobs, jobs.c.id == tasks.c.job_id)
    .where(attempts.c.id.in_(bindparam("ids", expanding=True)))
)


@dataclass(frozen=True, slots=True)
class Holder:
    """The node that claims, as its row stands."""

    id: int
    pool_id: int
    token: str | None
    slots: int
    state: str


def holder(tx: Tx, node_id: int) -> Holder:
    """The node's row, locked against a drain until this transaction ends."""
    [row] = _holder.rows(tx.connection, {"node_id": node_id})
    return Holder(*row)


def claim(tx: Tx, node: Holder, wanted: int) -> list[dict[str, Any]]:
    """Give the node up to `wanted` queued tasks it may run, as the orders its agent carries out."""
    if wanted <= 0 or node.state != NodeState.READY:
        return []
    parameters = {"pool_id": node.pool_id, "now": tx.now, "wanted": wanted}
    if node.token is None:
        chosen = _claim_unprotected.rows(tx.connection, parameters)
    else:
        chosen = _claim_by_token.rows(tx.connection, parameters | {"token": node.token})
    if not chosen:
        return []
    rows = [
        {"task_id": task.id, "node_id": node.id, "number": task.attempts + 1,
         "state": AttemptState.RUNNING, "log_size": 0, "claimed_at": tx.now}
        for task in chosen
    ]  # fmt: skip
    attempt_ids = [row.id for row in _insert_attempt.each(tx.connection, rows)]
    _tell_claimed(tx, node, chosen, attempt_ids)
    return [
        order(tx, node, task, attempt_id, task.attempts + 1) for task, attempt_id in zip(chosen, attempt_ids, strict=True)
    ]


def orders_for(tx: Tx, node: Holder, attempt_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The orders of attempts already claimed: sent again when the reply that carried them was lost."""
    rows = tx.connection.execute(_orders, {"ids": attempt_ids})
    return [order(tx, node, row, row.attempt_id, row.number) for row in rows.all()]


def order(tx: Tx, node: Holder, task: Any, attempt_id: int, number: int) -> dict[str, Any]:
    """What the agent is told of one attempt. Parameters, what its needs wrote and the task's own variables become its
    environment; over them goes what the attempt before asked for."""
    inputs = inputs_of(tx.connection, task.id) if task.has_inputs else {}
    env = {**task.params, **inputs, **task.spec.get("env", {}), **(task.fixed or {}), **(task.resume or {})}
    env |= {
        "ORCHESTRATOR_JOB_ID": str(task.job_id),
        "ORCHESTRATOR_JOB": task.job_name,
        "ORCHESTRATOR_TASK": task.name,
        "ORCHESTRATOR_ATTEMPT": str(number),
        "ORCHESTRATOR_ATTEMPT_ID": str(attempt_id),
        "ORCHESTRATOR_TOKEN": task.token or "",
        "ORCHESTRATOR_NODE_ID": str(node.id),
        "JOB_ID": str(task.job_id),
    }
    limit = task.spec.get("timeout")
    more = {"artifacts": task.spec["artifacts"]} if "artifacts" in task.spec else {}
    return {
        "attempt": attempt_id,
        "run": task.spec["run"],
        "env": env,
        "timeout_s": limit["after"] if limit else None,
        "grace_s": limit["grace"] if limit else 10.0,
        **more,
    }


def _tell_claimed(tx: Tx, node: Holder, chosen: Sequence[Any], attempt_ids: Sequence[int]) -> None:
    moves = []
    for task, attempt_id in zip(chosen, attempt_ids, strict=True):
        links = {"job_id": task.job_id, "task_id": task.id, "attempt_id": attempt_id, "node_id": node.id}
        values = {"attempts": task.attempts + 1, "started_at": tx.now, "run_after": None}
        reason = f"node {node.id} took it"
        moves.append(Move(task.id, TaskState.QUEUED, TaskState.RUNNING, reason, values, links))
    advance(tx, Task, moves)
    started = {task.job_id for task in chosen if task.job_state == JobState.QUEUED}
    if started and tx.connection.dialect.name == "postgresql":  # another master may start the same job in this moment
        started = set(tx.connection.execute(_still_queued, {"ids": sorted(started)}).scalars())
    advance(
        tx,
        Job,
        [
            Move(
                job_id,
                JobState.QUEUED,
                JobState.RUNNING,
                "its first task runs",
                {"started_at": tx.now},
                {"job_id": job_id},
            )
            for job_id in sorted(started)
        ],
    )
