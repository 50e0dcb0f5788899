"""Why: plain sentences for a job, a node or a pool, from its rows, its events, and the same decision the planner makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select

from orchestrator.fleet import health, planner
from orchestrator.fleet.planner import Plan
from orchestrator.fleet.queued import why_no_node
from orchestrator.fleet.view import pool_view
from orchestrator.model.states import JOB_OPEN, NODE_LIVE, TASK_ENDED, AttemptState, NodeState, TaskState
from orchestrator.model.tables import Attempt, Deployment, Event, Job, Launch, Node, Pool, Task, TaskNeed, table
from orchestrator.store.queries import ALLOWED

jobs, tasks, needs, attempts, deployments = (table(m) for m in (Job, Task, TaskNeed, Attempt, Deployment))
nodes, pools, events, launches = (table(m) for m in (Node, Pool, Event, Launch))

SHOWN = 20  # tasks told of one by one


@dataclass(frozen=True, slots=True)
class Explanation:
    """`sentences` say how it is and why; `next` what is expected to happen, and when."""

    subject: str
    state: str
    sentences: list[str] = field(default_factory=list)
    next: str = ""


def explain_job(connection: Connection, job_id: int, now: datetime) -> Explanation | None:
    job = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
    if job is None:
        return None
    told = [f"It was submitted by {job.submitted_by} at {_at(job.submitted_at)}."]
    if job.state not in JOB_OPEN:
        told.append(f"It ended {job.state} at {_at(job.finished_at)}: {job.reason}.")
        told += _ends(connection, job_id)
        return Explanation(f"job {job_id}", job.state, told, "nothing more; its machines are released")
    if job.cancel_requested_at:
        told.append(f"Its cancellation was requested at {_at(job.cancel_requested_at)}.")
    decisions = {pool["id"]: (pool, _decision(connection, pool, now)) for pool in _pools(connection)}
    told += _deployments(connection, job_id, decisions)
    open_states = (TaskState.RUNNING, TaskState.QUEUED, TaskState.WAITING)
    query = select(tasks).where(tasks.c.job_id == job_id, tasks.c.state.in_(open_states)).order_by(tasks.c.id)
    rows = connection.execute(query.limit(SHOWN)).all()
    told += [f"Task {task.name}: {_task(connection, task, now)}" for task in rows]
    if (more := job.open_tasks - len(rows)) > 0:
        told.append(f"… and {more} more tasks are open.")
    return Explanation(f"job {job_id}", job.state, told, _next_of_job(rows))


def explain_node(connection: Connection, node_id: int, now: datetime) -> Explanation | None:
    allowed = (pools.c.name.label("pool"), pools.c.boot_timeout_s, *ALLOWED)
    query = select(nodes, launches.c.cloud, launches.c.label, *allowed).join(pools, pools.c.id == nodes.c.pool_id)
    query = query.join(launches, launches.c.id == nodes.c.launch_id)
    node = connection.execute(query.where(nodes.c.id == node_id)).first()
    if node is None:
        return None
    states = (events.c.node_id == node_id, events.c.subject == "node", events.c.to_state.is_not(None))
    first = select(events.c.reason).where(*states).order_by(events.c.id).limit(1)
    asked_because = connection.execute(first).scalar()
    told = [f"It exists because {asked_because}.", f"It is {node.state}: {node.reason}."]
    if node.instance_id:
        what = f"{node.instance_id} in cloud {node.cloud} ({node.label})"
        told.append(f"Its machine is {what}, of pool {node.pool}, launched at {_at(node.launched_at)}.")
    if node.state in NODE_LIVE:
        told += [_signal(signal) for signal in health.signals(dict(node._mapping), now)]
    if node.state == NodeState.BOOTING:
        told.append(f"Its boot has come as far as: {node.boot_phase or 'asked for'}{_since(node.boot_phase_at)}.")
    if node.reclaim_at:
        told.append(f"Its cloud takes the machine back at {_at(node.reclaim_at)}.")
    if node.console:
        told.append(f"Its console was kept: `orchestrator node console {node_id}`.")
    if node.protected:
        told.append("It is protected: no policy releases it.")
    running = (attempts.c.node_id == node_id, attempts.c.state == AttemptState.RUNNING)
    busy = connection.execute(select(func.count()).where(*running)).scalar_one()
    if node.state == NodeState.READY:
        told.append(f"It runs {busy} task(s) in {node.slots} slot(s).")
    recent = select(events.c.at, events.c.reason).where(events.c.node_id == node_id, events.c.subject == "node")
    latest = connection.execute(recent.order_by(events.c.id.desc()).limit(8)).all()
    told += [f"{_at(event.at)}: {event.reason}." for event in reversed(latest)]
    return Explanation(f"node {node_id}", node.state, told, _next_of_node(node))


def explain_pool(connection: Connection, pool_id: int, now: datetime) -> Explanation | None:
    row = connection.execute(select(pools).where(pools.c.id == pool_id)).mappings().first()
    if row is None:
        return None
    pool = dict(row)
    view = pool_view(connection, pool, now)
    decision = planner.decide(connection, view, pool)
    told = [f"{len(view.nodes)} node(s) of at most {pool['max_nodes']}, at least {pool['min_nodes']} without a token."]
    if held := planner.Bounds.of(pool, view).held:
        told.append(f"{held[0].upper()}{held[1:]}.")
    told += [
        f"{demand.owner} asks for {demand.count} with token {demand.token} since {_at(demand.since)}."
        for demand in view.demands
    ]
    told += [f"Waiting: {wait.reason}." for wait in decision.waits]
    told += [f"About to launch {place.count} ({place.rung.label}): {wish.reason}." for wish, place in decision.launches]
    state = "paused" if pool["paused_at"] else "frozen" if pool["frozen_reason"] else "active"
    nothing = "nothing until a job asks for machines"
    return Explanation(f"pool {pool['name']}", state, told, "" if view.demands or view.nodes else nothing)


def _pools(connection: Connection) -> Sequence[Mapping[str, Any]]:
    return [dict(row) for row in connection.execute(select(pools).where(pools.c.gone_at.is_(None))).mappings()]


def _decision(connection: Connection, pool: Mapping[str, Any], now: datetime) -> Plan:
    return planner.decide(connection, pool_view(connection, pool, now), pool)


def _deployments(
    connection: Connection, job_id: int, decisions: Mapping[int, tuple[Mapping[str, Any], Plan]]
) -> Iterator[str]:
    mine = (deployments.c.job_id == job_id, deployments.c.closed_at.is_(None))
    for row in connection.execute(select(deployments).where(*mine)).all():
        if row.pool_id not in decisions:
            continue
        pool, decision = decisions[row.pool_id]
        counted = select(nodes.c.state, func.count()).where(nodes.c.deployment_id == row.id).group_by(nodes.c.state)
        states = {state: count for state, count in connection.execute(counted) if state in NODE_LIVE}
        have = ", ".join(f"{count} {state}" for state, count in states.items()) or "none yet"
        yield f"It asked pool {pool['name']} for {row.machines} machine(s) with token {row.token}: {have}."
        for wait in decision.waits:
            if wait.demand_id == row.id:
                yield f"Waiting: {wait.reason}."


def _task(connection: Connection, task: Row[Any], now: datetime) -> str:
    if task.state == TaskState.RUNNING:
        query = select(attempts.c.node_id).where(attempts.c.task_id == task.id, attempts.c.state == AttemptState.RUNNING)
        return f"runs on node {connection.execute(query).scalar()} since {_at(task.started_at)}."
    if task.state == TaskState.WAITING:
        query = select(tasks.c.name, tasks.c.state).join(needs, needs.c.needs_id == tasks.c.id)
        met = TASK_ENDED if task.condition else (TaskState.SUCCEEDED,)
        unmet = connection.execute(
            query.where(needs.c.task_id == task.id, tasks.c.state.not_in(met)).limit(SHOWN + 1)
        ).all()
        more = ", …" if len(unmet) > SHOWN else ""
        named = ", ".join(f"{row.name} ({row.state})" for row in unmet[:SHOWN]) + more
        return f"waits for {named}" + (f", then for its condition {task.condition}." if task.condition else ".")
    if task.run_after is not None and task.run_after > now:
        return f"is tried again at {_at(task.run_after)}: {task.reason}."
    return why_no_node(connection, task, now)


def _ends(connection: Connection, job_id: int) -> Iterator[str]:
    bad = (TaskState.FAILED, TaskState.SKIPPED, TaskState.CANCELLED)
    query = select(tasks).where(tasks.c.job_id == job_id, tasks.c.state.in_(bad)).order_by(tasks.c.id).limit(SHOWN)
    for task in connection.execute(query):
        yield f"Task {task.name} ended {task.state}: {task.reason}."


def _next_of_job(open_tasks: Sequence[Row[Any]]) -> str:
    for state, told in (
        (TaskState.RUNNING, "the running tasks end"),
        (TaskState.QUEUED, "a node takes the queued tasks"),
        (TaskState.WAITING, "the tasks it waits for end"),
    ):
        if any(task.state == state for task in open_tasks):
            return told
    return "its last task ends"


def _next_of_node(node: Row[Any]) -> str:
    deadline = f"its agent calls home, or it is replaced {node.boot_timeout_s} s after its launch"
    return {
        NodeState.REQUESTED: "the cloud is asked for its machine",
        NodeState.LAUNCHING: "the cloud answers with its machine",
        NodeState.BOOTING: deadline,
        NodeState.READY: "it takes tasks until nothing asks for it",
        NodeState.DRAINING: "its last tasks end, then its machine",
        NodeState.TERMINATING: "a listing of the cloud no longer shows its machine; until then its end is asked again",
        NodeState.TERMINATED: "nothing more",
    }[NodeState(node.state)]


def _signal(signal: health.Signal) -> str:
    age = "" if signal.age_s is None else f", {signal.age_s:.0f} s ago"
    return f"Signal of the {signal.name}: {signal.told}{age}; {signal.strikes} of {signal.most} strikes."


def _since(moment: datetime | None) -> str:
    return f", at {_at(moment)}" if moment else ""


def _at(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "?"
