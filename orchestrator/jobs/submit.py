"""Submission: a checked job file becomes rows, all or none, in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, exists, insert, select

from orchestrator.jobs import admission, graph, layers, progress, turns
from orchestrator.jobs.clients import client_id, params_of
from orchestrator.jobs.expansion import Element
from orchestrator.jobs.fits import Needs
from orchestrator.jobs.params import ParamValue
from orchestrator.jobs.spec import SIZES, Infrastructure, JobSpec, SpecError, TaskSpec
from orchestrator.model.states import JobState, TaskState
from orchestrator.model.tables import Client, ClientParam, Job, Pool, Task, TaskNeed, table
from orchestrator.store.prepared import Prepared
from orchestrator.store.writer import Tx

jobs, tasks, needs, pools, clients = (table(m) for m in (Job, Task, TaskNeed, Pool, Client))
client_params = table(ClientParam)
_insert_task = Prepared(
    insert(tasks).returning(tasks.c.id),
    ("job_id", "name", "kind", "spec", "token", "pool_id", "priority", "state", "reason", "waiting_on", "queued_at",
     "slots", "memory_mb", "labels", "turn", "attempts", "job_failures", "infrastructure_failures"),
)  # fmt: skip
_insert_special_task = Prepared(
    insert(tasks).returning(tasks.c.id),
    ("job_id", "name", "kind", "spec", "token", "pool_id", "priority", "state", "reason", "waiting_on", "queued_at",
     "slots", "memory_mb", "labels", "turn",
     "attempts", "job_failures", "infrastructure_failures", "values", "condition"),
)  # fmt: skip
_insert_job = Prepared(
    insert(jobs).returning(jobs.c.id),
    ("name", "client_id", "spec", "operation", "params", "priority", "turn", "dry_run", "state", "reason", "tasks",
     "open_tasks", "idempotency_key", "submitted_by", "submitted_at", "version", "template_version_id"),
)  # fmt: skip
_has_params = select(client_params.c.id).where(client_params.c.client_id == clients.c.id).exists().label("has_params")
_somebody_waits = exists().where(tasks.c.state == TaskState.QUEUED, tasks.c.token.is_(None)).label("somebody_waits")
_client_by_name = Prepared(
    select(clients.c.id, clients.c.weight, clients.c.priority, _has_params, _somebody_waits).where(
        clients.c.name == bindparam("name")
    )
)

Edges = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Submitted:
    job_id: int
    repeated: bool = False


def no_vault(_: str) -> str:
    raise TypeError("a secret parameter needs a Launch with `seal`")


@dataclass(frozen=True, slots=True)
class Launch:
    """What a submission brings beside the job file. `seal` encrypts a secret (`jobs.secrets.Vault`), `origin` says
    where the call came from. With `dry_commands` each command is replaced by a short sleep when it is handed out, and all
    else is as ever."""

    params: Mapping[str, ParamValue] = field(default_factory=dict)
    template_version_id: int | None = None
    seal: Callable[[str], str] = no_vault
    origin: str | None = None
    dry_commands: bool = False


PLAIN = Launch()
"""A job file and nothing else."""


def submit(tx: Tx, spec: JobSpec, *, actor: str, idempotency_key: str | None = None, launch: Launch = PLAIN) -> Submitted:
    """Store a job with its tasks, open what it deploys at once, and wake who can run it.

    The same idempotency key gives the client's job of the first call. Raises SpecError for a pool or size that is not
    there, and for parameters that are missing or do not fit; nothing is created then.
    """
    if (earlier := earlier_with(tx, idempotency_key, spec.client)) is not None:
        return earlier
    known = check_pools(tx.connection, spec)
    made, edges = graph.stored(spec.tasks)
    queued = _Queued.now(tx, spec, known, made)
    job_id = _store_job(tx, spec, queued, actor, idempotency_key, launch)
    ready, undecided = _store_tasks(tx, spec, queued, job_id, known, made, edges)
    tx.record("job", job_id, None, JobState.QUEUED, "submitted", launch.origin, actor, {"job_id": job_id})
    target = placed(spec.asked, spec, job_id, known)
    if progress.deploys(target):
        progress.open_deployment(tx, job_id, None, target)
    progress.became_ready(tx, ready, undecided)
    return Submitted(job_id)


@dataclass(frozen=True, slots=True)
class _Queued:
    """Who queues the job's tasks, with the client's parameters, what each task needs, and the turns of those that are
    queued at once and share nodes."""

    sharer: turns.Sharer
    of_client: Sequence[layers.OfClient]
    needs: Sequence[Needs]
    turns: Sequence[float]
    after: float  # where the client's next task is to stand

    @classmethod
    def now(cls, tx: Tx, spec: JobSpec, known: Mapping[str, Mapping[str, Any]], made: Sequence[Element]) -> _Queued:
        sharer, of_client = _client(tx, spec)
        needs = [spec.needs_of(element.task) for element in made]
        mine = [i for i, element in enumerate(made) if _shares(spec, element.task)]
        given, after = [0.0] * len(made), 0.0
        if mine:
            pools = [spec.target(made[i].task).pool for i in mine]
            wishes = [(known[pool]["id"] if pool else None, needs[i]) for i, pool in zip(mine, pools, strict=True)]
            shared, after = turns.give(tx, sharer, wishes)
            for i, turn in zip(mine, shared, strict=True):
                given[i] = turn
        return cls(sharer, of_client, needs, given, after)


def _shares(spec: JobSpec, task: TaskSpec) -> bool:
    """Whether it is queued at once, for nodes without a token."""
    waits = task.needs or task.when is not None
    return task.kind == "run" and not waits and not (task.asked.token or spec.asked.token)


def earlier_with(tx: Tx, idempotency_key: str | None, client: str) -> Submitted | None:
    """The client's job that was made with this key before. Raises SpecError where it is another client's."""
    if idempotency_key is None:
        return None
    query = select(jobs.c.id, clients.c.name).join(clients, clients.c.id == jobs.c.client_id)
    found = tx.connection.execute(query.where(jobs.c.idempotency_key == idempotency_key)).first()
    if found is not None and found.name != client:
        raise SpecError([("client", "this Idempotency-Key belongs to a job of another client; use another key")])
    return None if found is None else Submitted(found.id, repeated=True)


def scoped_token(client: str, token: str, job_id: int | str) -> str:
    """The token as nodes carry it. The client's name is part of it: two clients never share a token's nodes."""
    return f"{client}/{token.replace('$JOB_ID', str(job_id))}"


def check_pools(connection: Connection, spec: JobSpec) -> Mapping[str, Mapping[str, Any]]:
    """The rows of the pools that the job names. Raises SpecError for what is not there or refuses the job."""
    known = _pools_named_in(connection, spec)
    _check_against_pools(spec, known)
    return known


def _pools_named_in(connection: Connection, spec: JobSpec) -> dict[str, Mapping[str, Any]]:
    blocks = [spec.asked, *(spec.target(task) for task in spec.tasks)]
    names = {block.pool for block in blocks if block.pool is not None}
    if not names:
        return {}
    rows = connection.execute(select(pools).where(pools.c.name.in_(names), pools.c.deleted_at.is_(None))).mappings()
    return {row["name"]: dict(row) for row in rows}


def _check_against_pools(spec: JobSpec, known: Mapping[str, Mapping[str, Any]]) -> None:
    problems: list[tuple[str, str]] = []
    targets = [("infrastructure", spec.asked)]
    targets += [(f"tasks[{i}].infrastructure", task.asked.over(spec.asked)) for i, task in enumerate(spec.tasks)]
    for path, target in targets:
        if target.pool is None:
            continue
        pool = known.get(target.pool)
        if pool is None:
            problems.append((f"{path}.pool", f"no pool is named {target.pool!r}; see `orchestrator pool list`"))
        elif target.instance_type in SIZES[1:] and target.instance_type not in pool["launch"].get("sizes", {}):
            fix = f"give it a meaning under sizes: in pool {target.pool!r}, or write the cloud's own name"
            problems.append((f"{path}.instance_type", f"the size {target.instance_type} is unknown there; {fix}"))
    problems += admission.problems(spec, known)
    if problems:
        # A task that inherits the job's block has the job's mistake: say it once.
        inherited = {message for path, message in problems if path.startswith("infrastructure")}
        raise SpecError([p for p in problems if p[0].startswith("infrastructure") or p[1] not in inherited])


def _store_job(tx: Tx, spec: JobSpec, queued: _Queued, actor: str, idempotency_key: str | None, launch: Launch) -> int:
    params = layers.NONE
    if spec.params or queued.of_client or launch.params:
        params = layers.effective(spec.params, queued.of_client, launch.params, launch.seal)
    document = {key: value for key, value in spec.document.items() if key not in ("tasks", "params")}
    if params.sources:
        document["params_from"] = params.sources
    [row] = _insert_job.rows(
        tx.connection,
        {
            "name": spec.name,
            "client_id": queued.sharer.client_id,
            "spec": document,
            "operation": spec.asked.operation,
            "params": params.values,
            "priority": queued.sharer.priority,
            "turn": queued.after,
            "dry_run": launch.dry_commands,
            "state": JobState.QUEUED,
            "reason": "submitted",
            "tasks": len(queued.needs),
            "open_tasks": len(queued.needs),
            "idempotency_key": idempotency_key,
            "submitted_by": actor,
            "submitted_at": tx.now,
            "version": spec.version,
            "template_version_id": launch.template_version_id,
        },
    )
    job_id: int = row.id
    if token := spec.asked.token:
        tx.connection.execute(
            jobs.update().where(jobs.c.id == job_id).values(token=scoped_token(spec.client, token, job_id))
        )
    return job_id


def _client(tx: Tx, spec: JobSpec) -> tuple[turns.Sharer, list[layers.OfClient]]:
    """How it shares, and its parameters where it has any. Most have none and find nobody waiting, and cost one query."""
    if found := _client_by_name.rows(tx.connection, {"name": spec.client}):
        [row] = found
        sharer = turns.Sharer(row.id, row.weight, row.priority + spec.priority, alone=not row.somebody_waits)
        return sharer, params_of(tx.connection, row.id) if row.has_params else []
    return turns.Sharer(client_id(tx, spec.client), 1.0, spec.priority), []


def _store_tasks(
    tx: Tx,
    spec: JobSpec,
    queued: _Queued,
    job_id: int,
    known: Mapping[str, Mapping[str, Any]],
    made: Sequence[Element],
    edges: Edges,
) -> tuple[list[progress.Ready], list[int]]:
    """The tasks that can run at once, and the ids of those whose conditions can be decided at once."""
    job_token = spec.asked.token
    inherited = scoped_token(spec.client, job_token, job_id) if job_token else None
    targets = {task.name: placed(spec.target(task), spec, job_id, known) for task in spec.tasks}
    documents = {task.name: _task_document(spec, task, targets[task.name]) for task in spec.tasks}
    waiting_on = Counter(waits for waits, _ in edges)
    special = any(element.values is not None or element.task.when is not None for element in made)
    rows: list[dict[str, Any]] = []
    for place, element in enumerate(made):
        task, target = element.task, targets[element.task.name]
        waits = waiting_on[place] > 0 or task.when is not None
        row = {
            "job_id": job_id,
            "name": element.name,
            "kind": task.kind,
            "spec": documents[task.name],
            "token": target.token or inherited,
            "pool_id": target.pool_id,
            "priority": queued.sharer.priority,
            "turn": queued.turns[place],
            "state": TaskState.WAITING if waits else TaskState.QUEUED,
            "reason": "submitted",
            "waiting_on": waiting_on[place],
            "queued_at": None if waits else tx.now,
            "slots": queued.needs[place].slots,
            "memory_mb": queued.needs[place].memory_mb,
            "labels": list(queued.needs[place].labels) or None,
            "attempts": 0,
            "job_failures": 0,
            "infrastructure_failures": 0,
        }
        rows.append(row | {"values": element.values, "condition": task.when} if special else row)
    ids = [row.id for row in (_insert_special_task if special else _insert_task).each(tx.connection, rows)]
    if edges:
        tx.connection.execute(insert(needs), [{"task_id": ids[waits], "needs_id": ids[need]} for waits, need in edges])
    ready = [
        progress.Ready(id_, job_id, row["kind"], row["token"], row["pool_id"], row["spec"], asked)
        for id_, row, asked in zip(ids, rows, queued.needs, strict=True)
        if row["state"] == TaskState.QUEUED
    ]
    stored = zip(ids, rows, strict=True)
    return ready, [id_ for id_, row in stored if row["state"] == TaskState.WAITING and not row["waiting_on"]]


def placed(
    asked: Infrastructure, spec: JobSpec, job_id: int | str, known: Mapping[str, Mapping[str, Any]]
) -> progress.Target:
    """What is asked for, in the terms of rows: the scoped token, the pool's id."""
    return progress.Target(
        token=scoped_token(spec.client, asked.token, job_id) if asked.token else None,
        pool_id=known[asked.pool]["id"] if asked.pool else None,
        count=asked.count,
        image=asked.image,
        instance_type=asked.instance_type,
        operation=asked.operation,
        relaunches=asked.relaunches,
    )


def _task_document(spec: JobSpec, task: TaskSpec, target: progress.Target) -> dict[str, Any]:
    """What the queue needs to know of a task, without its job's file at hand."""
    document: dict[str, Any] = {}
    if task.run is not None:
        document["run"] = task.run
    if env := {**spec.env, **task.env}:
        document["env"] = env
    if retry := task.retry or spec.retry:
        document["retry"] = retry.model_dump(mode="json", exclude_defaults=True)
    if timeout := task.timeout or spec.timeout:
        document["timeout"] = timeout.model_dump(mode="json")
    if task.artifacts:
        document["artifacts"] = {"patterns": task.artifacts, "on": task.artifacts_on}
    if target.token is not None:
        document["target"] = target.document()
        if task.asked.token is not None and "$JOB_ID" in task.asked.token:
            document["token"] = task.asked.token  # a rerun has another number
    return document
