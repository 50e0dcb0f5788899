"""The reads behind the faces: rows as dictionaries, a page at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Select, case, func, literal_column, or_, select

from orchestrator.model.states import NODE_LIVE, TASK_ENDED, AttemptState, TaskState
from orchestrator.model.tables import (
    Artifact,
    Attempt,
    Client,
    Deployment,
    Event,
    Job,
    Launch,
    Node,
    Pool,
    Task,
    Template,
    TemplateVersion,
    table,
)

jobs, tasks, attempts, nodes = (table(m) for m in (Job, Task, Attempt, Node))
pools, clients, events, deployments, launches = (table(m) for m in (Pool, Client, Event, Deployment, Launch))
templates, versions = table(Template), table(TemplateVersion)
artifacts = table(Artifact)
Rows = list[dict[str, Any]]
ALLOWED = (
    pools.c.heartbeat_timeout_s,
    *(pools.c[f"{name}_strikes"].label(f"{name}_most") for name in ("cloud", "agent", "engine")),
)
"""How silent and how bad a node's signals may be: what `fleet.health` wants of its pool beside the node's columns."""


def list_jobs(
    connection: Connection,
    limit: int,
    before: int | None,
    state: str | None = None,
    client: str | None = None,
    only_client: str | None = None,
) -> Rows:
    """`client` is what is asked for, `only_client` what the caller may see at all."""
    query = _jobs()
    if state is not None:
        query = query.where(jobs.c.state == state)
    for name in (client, only_client):
        if name is not None:
            query = query.where(clients.c.name == name)
    return _page(connection, query, jobs.c.id, limit, before)


def get_job(connection: Connection, job_id: int) -> dict[str, Any] | None:
    return _one(connection, _jobs().where(jobs.c.id == job_id))


def runs_before(connection: Connection, rerun_of: int | None) -> list[int]:
    """The jobs that this one is a rerun of, the nearest first."""
    chain: list[int] = []
    while rerun_of is not None and len(chain) < 100:
        chain.append(rerun_of)
        rerun_of = connection.execute(select(jobs.c.rerun_of).where(jobs.c.id == rerun_of)).scalar()
    return chain


def reruns_of(connection: Connection, job_id: int, most: int = 100) -> list[int]:
    """The jobs that did this one again."""
    query = select(jobs.c.id).where(jobs.c.rerun_of == job_id, jobs.c.id > job_id).order_by(jobs.c.id).limit(most)
    return list(connection.execute(query).scalars())


def params_of_job(connection: Connection, job_id: int) -> list[tuple[str, Any, str | None]] | None:
    """Name, value as stored, and who gave it; None where there is no such job."""
    row = connection.execute(select(jobs.c.params, jobs.c.spec).where(jobs.c.id == job_id)).first()
    if row is None:
        return None
    sources = row.spec.get("params_from", {})
    return [(name, value, sources.get(name)) for name, value in sorted(row.params.items())]


def list_tasks(
    connection: Connection,
    job_id: int,
    limit: int,
    after: int = 0,
    name: str | None = None,
    state: str | None = None,
) -> Rows:
    """A page of the job's tasks in the order of its file, with the node and id of each one's last attempt. The name of an
    array is that of all its elements."""
    query = select(tasks, pools.c.name.label("pool")).join(pools, pools.c.id == tasks.c.pool_id, isouter=True)
    query = query.where(tasks.c.job_id == job_id, tasks.c.id > after)
    if name is not None:
        query = query.where(or_(tasks.c.name == name, tasks.c.name.startswith(f"{name}[", autoescape=True)))
    if state is not None:
        query = query.where(tasks.c.state == state)
    rows = _all(connection, query.order_by(tasks.c.id).limit(limit))
    latest = _latest_attempts(connection, [row["id"] for row in rows])
    for row in rows:
        row["attempt_id"], row["node_id"] = latest.get(row["id"], (None, None))
    return rows


def _latest_attempts(connection: Connection, task_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Id and node of each task's last attempt."""
    latest: dict[int, tuple[int, int]] = {}
    for start in range(0, len(task_ids), 500):
        mine = attempts.c.task_id.in_(task_ids[start : start + 500])
        query = select(attempts.c.task_id, attempts.c.id, attempts.c.node_id).where(mine)
        for task_id, attempt_id, node_id in connection.execute(query.order_by(attempts.c.id)):
            latest[task_id] = (attempt_id, node_id)
    return latest


def summary_of_tasks(connection: Connection, job_id: int) -> Rows:
    """How many tasks are in which state and how far they are, by the names in the job file: an array is one name."""
    element = func.rtrim(func.rtrim(func.rtrim(tasks.c.name, "]"), "0123456789"), "[")
    name = case((tasks.c.name.endswith("]"), element), else_=tasks.c.name).label("name")
    progress = func.sum(case((tasks.c.state == TaskState.RUNNING, func.coalesce(tasks.c.progress, 0)), else_=0))
    query = select(name, tasks.c.state, func.count(), func.min(tasks.c.id).label("first"), progress)
    query = query.where(tasks.c.job_id == job_id).group_by(name, tasks.c.state).order_by("first")
    found: dict[str, dict[str, Any]] = {}
    for called, state, count, first, done in connection.execute(query):
        row = found.setdefault(called, {"name": called, "tasks": 0, "states": {}, "progress": 0.0, "first": first})
        row["tasks"] += count
        row["states"][state] = count
        row["progress"] += count if state in TASK_ENDED else done
    for row in found.values():
        row["progress"] /= row["tasks"]
    return sorted(found.values(), key=lambda row: int(row.pop("first")))


def list_attempts(connection: Connection, job_id: int, limit: int, before: int | None) -> Rows:
    query = select(attempts, tasks.c.name.label("task")).join(tasks, tasks.c.id == attempts.c.task_id)
    return _page(connection, query.where(tasks.c.job_id == job_id), attempts.c.id, limit, before)


def last_attempts(connection: Connection, job_id: int, task: str | None = None, number: int | None = None) -> Rows:
    """Of each task of the job its last attempt, or that of this number, in the order of their ids."""
    query = _attempts_of(job_id, task, number)
    if number is None:
        last = select(func.max(attempts.c.id)).join(tasks, tasks.c.id == attempts.c.task_id)
        query = query.where(attempts.c.id.in_(last.where(tasks.c.job_id == job_id).group_by(attempts.c.task_id)))
    return _all(connection, query)


def attempts_after(connection: Connection, job_id: int, task: str | None, number: int | None, after: int) -> Rows:
    return _all(connection, _attempts_of(job_id, task, number).where(attempts.c.id > after))


def states_of_attempts(connection: Connection, attempt_ids: Sequence[int]) -> dict[int, str]:
    query = select(attempts.c.id, attempts.c.state).where(attempts.c.id.in_(attempt_ids))
    return {row.id: row.state for row in connection.execute(query)}


def list_artifacts(
    connection: Connection, job_id: int, limit: int, after: int = 0, task: str | None = None, every: bool = False
) -> Rows:
    """Of each task those of its newest attempt that has any, or of every attempt; in the order they were stored."""
    query = _artifacts().where(artifacts.c.job_id == job_id, artifacts.c.id > after).order_by(artifacts.c.id).limit(limit)
    if not every:
        newest = select(func.max(artifacts.c.attempt_id)).where(artifacts.c.job_id == job_id).group_by(artifacts.c.task_id)
        query = query.where(artifacts.c.attempt_id.in_(newest))
    return _all(connection, query.where(tasks.c.name == task) if task is not None else query)


def get_artifact(connection: Connection, artifact_id: int) -> dict[str, Any] | None:
    return _one(connection, _artifacts().where(artifacts.c.id == artifact_id))


def list_pools(connection: Connection, name: str | None = None) -> Rows:
    """Pools that are not gone, with the number of their nodes by state."""
    query = select(pools).where(pools.c.gone_at.is_(None)).order_by(pools.c.name)
    rows = _all(connection, query.where(pools.c.name == name) if name is not None else query)
    counted = select(nodes.c.pool_id, nodes.c.state, func.count()).where(nodes.c.state.in_(NODE_LIVE))
    states: dict[int, dict[str, int]] = {}
    for pool_id, state, count in connection.execute(counted.group_by(nodes.c.pool_id, nodes.c.state)):
        states.setdefault(pool_id, {})[state] = count
    for row in rows:
        row["nodes"] = states.get(row["id"], {})
        row["state"], row["state_reason"] = _pool_state(row)
    return rows


def list_nodes(
    connection: Connection,
    limit: int,
    before: int | None,
    state: str | None = None,
    pool: str | None = None,
    live: bool = False,
) -> Rows:
    query = _nodes()
    if state is not None:
        query = query.where(nodes.c.state == state)
    if live:
        query = query.where(nodes.c.state.in_(NODE_LIVE))
    if pool is not None:
        query = query.where(pools.c.name == pool)
    return _page(connection, query, nodes.c.id, limit, before)


def get_node(connection: Connection, node_id: int) -> dict[str, Any] | None:
    return _one(connection, _nodes().where(nodes.c.id == node_id))


def nodes_of_machines(connection: Connection, instance_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Id and state of the node that each of these machines is of, where it is a node's."""
    query = select(nodes.c.id, nodes.c.state, nodes.c.instance_id).where(nodes.c.instance_id.in_(instance_ids))
    return {row["instance_id"]: row for row in _all(connection, query)}


def machine_of(connection: Connection, node_id: int) -> dict[str, Any] | None:
    """Where the machine of a node is, and the console that was kept of it."""
    query = select(nodes.c.instance_id, nodes.c.console, launches.c.cloud)
    return _one(connection, query.join(launches, launches.c.id == nodes.c.launch_id).where(nodes.c.id == node_id))


def list_events(
    connection: Connection,
    limit: int,
    before: int | None,
    after: int | None,
    *,
    actor: str | None = None,
    requests: bool = False,
    only_client_id: int | None = None,
    **links: int | None,
) -> Rows:
    """Newest first; with `after`, oldest first from there, to catch up. `requests`: only calls on record; `only_client_id`:
    only what happened to this client's jobs."""
    query = select(events)
    if actor is not None:
        query = query.where(events.c.actor == actor)
    if requests:
        query = query.where(events.c.subject == literal_column("'request'"))  # as it stands in the index
    if only_client_id is not None:
        query = query.join(jobs, jobs.c.id == events.c.job_id).where(jobs.c.client_id == only_client_id)
    for name, value in links.items():
        if value is not None:
            query = query.where(events.c[name] == value)
    if after is not None:
        return _all(connection, query.where(events.c.id > after).order_by(events.c.id).limit(limit))
    return _page(connection, query, events.c.id, limit, before)


def jobs_of_client(connection: Connection, client_id: int, job_ids: Collection[int]) -> set[int]:
    """Which of these jobs are the client's."""
    return set(connection.execute(select(jobs.c.id).where(jobs.c.client_id == client_id, jobs.c.id.in_(job_ids))).scalars())


def _attempts_of(job_id: int, task: str | None, number: int | None) -> Select[Any]:
    columns = (attempts.c.id, attempts.c.number, attempts.c.state, attempts.c.log_size, tasks.c.name.label("task"))
    query = select(*columns, attempts.c.task_id).join(tasks, tasks.c.id == attempts.c.task_id)
    query = query.where(tasks.c.job_id == job_id).order_by(attempts.c.id)
    if task is not None:
        query = query.where(tasks.c.name == task)
    return query.where(attempts.c.number == number) if number is not None else query


def _artifacts() -> Select[Any]:
    query = select(artifacts, tasks.c.name.label("task"), attempts.c.number)
    return query.join(tasks, tasks.c.id == artifacts.c.task_id).join(attempts, attempts.c.id == artifacts.c.attempt_id)


def _pool_state(row: dict[str, Any]) -> tuple[str, str | None]:
    if row["deleted_at"]:
        return "deleting", "its nodes are leaving; it is gone when the last has"
    if row["paused_at"]:
        return "paused", row["paused_reason"]
    if row["frozen_reason"]:
        return "frozen", row["frozen_reason"]
    return "active", None


def _jobs() -> Select[Any]:
    columns = [column for column in jobs.c if column.name not in ("spec", "params")]
    waiting = (
        select(func.max(deployments.c.waiting))
        .where(deployments.c.job_id == jobs.c.id, deployments.c.closed_at.is_(None))
        .scalar_subquery()
    )
    template = (templates.c.name.label("template"), versions.c.number.label("template_version"))
    named = select(*columns, clients.c.name.label("client"), waiting.label("waiting"), *template)
    return (
        named.join(clients, clients.c.id == jobs.c.client_id)
        .join(versions, versions.c.id == jobs.c.template_version_id, isouter=True)
        .join(templates, templates.c.id == versions.c.template_id, isouter=True)
    )


def _nodes() -> Select[Any]:
    running = (
        select(attempts.c.node_id, func.count().label("busy"))
        .where(attempts.c.state == AttemptState.RUNNING)
        .group_by(attempts.c.node_id)
        .subquery()
    )
    return (
        select(
            *(column for column in nodes.c if column.name != "console"),
            pools.c.name.label("pool"),
            *ALLOWED,
            launches.c.cloud,
            launches.c.label.label("kind"),
            func.coalesce(running.c.busy, 0).label("busy"),
        )
        .join(pools, pools.c.id == nodes.c.pool_id)
        .join(launches, launches.c.id == nodes.c.launch_id)
        .join(running, running.c.node_id == nodes.c.id, isouter=True)
    )


def _page(connection: Connection, query: Select[Any], id_: Any, limit: int, before: int | None) -> Rows:
    if before is not None:
        query = query.where(id_ < before)
    return _all(connection, query.order_by(id_.desc()).limit(limit))


def _all(connection: Connection, query: Select[Any]) -> Rows:
    return [dict(row) for row in connection.execute(query).mappings()]


def _one(connection: Connection, query: Select[Any]) -> dict[str, Any] | None:
    row = connection.execute(query).mappings().first()
    return dict(row) if row else None
