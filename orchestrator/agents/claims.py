"""Claims: queued tasks become attempts on a node, by the token rule, each once.

The token rule: a node's token and a task's token are equal or there is no match, and none equals only none. So a task
with a token runs only on nodes carrying it, a task without one never on a protected node; the client's name is part of
the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, func, insert, or_, select

from orchestrator.agents.within import OneOf, Within
from orchestrator.jobs.fits import EVERYBODY, Room, plain
from orchestrator.jobs.inputs import inputs_of
from orchestrator.model.states import AttemptState, JobState, NodeState, TaskState
from orchestrator.model.tables import Attempt, Client, Job, Node, Pool, Task, table
from orchestrator.store.doors import Move, advance
from orchestrator.store.prepared import Prepared
from orchestrator.store.writer import Tx

jobs, tasks, attempts, nodes, pools, clients = (table(m) for m in (Job, Task, Attempt, Node, Pool, Client))

AHEAD = 32
"""Attempts a node may hold beyond its slots, so that short tasks never wait for the network."""

DRY = "sleep 1"
"""What a job that was submitted with dry commands runs in place of each."""

PATIENCE = timedelta(minutes=1)
"""How long smaller tasks may pass one that does not fit now. After it nodes keep themselves free for it."""

_claimable = (
    tasks.c.id, tasks.c.job_id, tasks.c.name, tasks.c.spec, tasks.c.attempts, tasks.c.token,
    tasks.c.slots, tasks.c.memory_mb, tasks.c.queued_at,
    tasks.c.params.label("resume"), tasks.c["values"].label("fixed"), tasks.c.has_inputs,
    jobs.c.params, jobs.c.state.label("job_state"), jobs.c.name.label("job_name"), jobs.c.dry_run,
)  # fmt: skip
_insert_attempt = Prepared(
    insert(attempts).returning(attempts.c.id), ("task_id", "node_id", "number", "state", "log_size", "claimed_at")
)
_holder = Prepared(
    select(nodes.c.id, nodes.c.pool_id, nodes.c.token, nodes.c.slots, nodes.c.state, nodes.c.memory_mb)
    .where(nodes.c.id == bindparam("node_id"))
    .with_for_update(read=True)
)


_labels_of_pool = select(pools.c.labels).where(pools.c.id == bindparam("pool_id")).scalar_subquery()
_fits = or_(
    and_(tasks.c.slots == 1, tasks.c.memory_mb.is_(None)),
    and_(
        tasks.c.slots <= bindparam("slots"),
        func.coalesce(tasks.c.memory_mb, 0) <= bindparam("memory_mb"),
        or_(
            and_(tasks.c.slots <= bindparam("free_slots"), func.coalesce(tasks.c.memory_mb, 0) <= bindparam("free_mb")),
            tasks.c.queued_at <= bindparam("overdue", type_=tasks.c.queued_at.type),
        ),
    ),
)
"""What could run on the node: now, or once it is free where its turn has come for too long."""


_clients_of_pool = select(pools.c.clients).where(pools.c.id == bindparam("pool_id")).scalar_subquery()
_client = select(clients.c.name).where(clients.c.id == jobs.c.client_id).scalar_subquery()
_let_in = or_(_clients_of_pool.is_(None), OneOf(_client, _clients_of_pool))
"""A pool may be for some clients only. Tokens need no such rule: each is one client's own."""


def _claim(token_rule: ColumnElement[bool]) -> Prepared:
    return Prepared(
        select(*_claimable)
        .join(jobs, jobs.c.id == tasks.c.job_id)
        .where(
            tasks.c.state == TaskState.QUEUED,
            token_rule,
            or_(tasks.c.pool_id.is_(None), tasks.c.pool_id == bindparam("pool_id")),
            or_(tasks.c.run_after.is_(None), tasks.c.run_after <= bindparam("now", type_=tasks.c.run_after.type)),
            _fits,
            or_(tasks.c.labels.is_(None), Within(tasks.c.labels, _labels_of_pool)),
        )
        .order_by(tasks.c.priority.desc(), tasks.c.turn, tasks.c.id)
        .limit(bindparam("wanted"))
        .with_for_update(skip_locked=True, of=tasks)
    )


_claim_unprotected = _claim(and_(tasks.c.token.is_(None), _let_in))
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
    memory_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What a node's live attempts take of it. `sized`: one of them is not plain."""

    slots: int = 0
    memory_mb: int = 0
    sized: bool = False

    @classmethod
    def of(cls, running: Sequence[Any]) -> Load:
        slots = memory_mb = 0
        sized = False
        for row in running:
            slots += row.slots
            memory_mb += row.memory_mb or 0
            sized = sized or not plain(row.slots, row.memory_mb)
        return cls(slots, memory_mb, sized)


NO_LOAD = Load()


def holder(tx: Tx, node_id: int) -> Holder:
    """The node's row, locked against a drain until this transaction ends."""
    [row] = _holder.rows(tx.connection, {"node_id": node_id})
    return Holder(*row)


def claim(tx: Tx, node: Holder, wanted: int, load: Load = NO_LOAD) -> list[dict[str, Any]]:
    """Give the node queued tasks it may run, for up to `wanted` slots, as the orders its agent carries out."""
    if wanted <= 0 or node.state != NodeState.READY:
        return []
    memory_mb = node.memory_mb or 0
    room = Room(wanted, node.slots - load.slots, memory_mb - load.memory_mb)
    overdue = tx.now - PATIENCE
    parameters = {
        "pool_id": node.pool_id,
        "now": tx.now,
        "wanted": wanted,
        "slots": node.slots,
        "memory_mb": memory_mb,
        "free_slots": min(room.slots, wanted),
        "free_mb": room.memory_mb,
        "overdue": overdue,
    }
    if node.token is None:
        chosen = _claim_unprotected.rows(tx.connection, parameters)
    else:
        chosen = _claim_by_token.rows(tx.connection, parameters | {"token": node.token})
    chosen = _that_fit(tx, chosen, room, overdue)
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


def _that_fit(tx: Tx, found: Sequence[Any], room: Room, overdue: datetime) -> list[Any]:
    """Those of the found that fit beside each other, in turn. Nothing passes one that has waited for too long: the node
    gets free for it."""
    chosen = []
    for task in found:
        if room.take(task.slots, task.memory_mb):
            chosen.append(task)
            if task.queued_at <= overdue and not plain(task.slots, task.memory_mb):
                tx.queued[task.token, None] += EVERYBODY  # other nodes may have kept themselves free for it
        elif task.queued_at <= overdue:
            break
    return chosen


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
    told = {
        "attempt": attempt_id,
        "run": DRY if task.dry_run else task.spec["run"],
        "env": env,
        "timeout_s": limit["after"] if limit else None,
        "grace_s": limit["grace"] if limit else 10.0,
        **more,
    }
    return told if task.slots == 1 else told | {"slots": task.slots}


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
