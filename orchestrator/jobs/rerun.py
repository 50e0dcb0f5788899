"""Rerun: an ended job once more, all of it or from some task on. What is kept is succeeded at once, with its outputs.

The new job is a copy of the old one's rows, so it is the same work, whatever became of its job file since.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, select

from orchestrator.jobs import layers, progress, turns
from orchestrator.jobs.expansion import written
from orchestrator.jobs.fits import Needs
from orchestrator.jobs.graph import some
from orchestrator.jobs.spec import SpecError, asked_in
from orchestrator.jobs.submit import Submitted, earlier_with, no_vault, scoped_token
from orchestrator.model.states import JobState, TaskState
from orchestrator.model.tables import Client, Job, Pool, Task, TaskNeed, table
from orchestrator.store.writer import Tx

jobs, tasks, needs, pools, clients = (table(m) for m in (Job, Task, TaskNeed, Pool, Client))
_RESULTS = ("outputs", "exit_code", "started_at", "finished_at")
_FRESH: dict[str, Any] = {
    **dict.fromkeys(("params", "progress", "progress_note", "skipped_because", "run_after", "queued_at", *_RESULTS)),
    **dict.fromkeys(("attempts", "job_failures", "infrastructure_failures"), 0),
    "turn": 0.0,
}
"""What a task that runs again begins with; whatever else its row says was asked for."""


@dataclass(frozen=True, slots=True)
class Rerun:
    """What runs again: all; or what did not succeed, with `from_` and all that needs any of it."""

    from_: Sequence[str] = ()
    failed: bool = False
    params: Mapping[str, str] = field(default_factory=dict)
    seal: Callable[[str], str] = no_vault

    @property
    def partial(self) -> bool:
        return self.failed or bool(self.from_)


def rerun(tx: Tx, job_id: int, asked: Rerun, *, actor: str, idempotency_key: str | None = None) -> Submitted:
    """A new job that does an ended one again. Raises SpecError; nothing is created then."""
    old = tx.connection.execute(select(jobs).where(jobs.c.id == job_id)).one()
    client = str(tx.connection.execute(select(clients.c.name).where(clients.c.id == old.client_id)).scalar_one())
    if (earlier := earlier_with(tx, idempotency_key, client)) is not None:
        return earlier
    rows = tx.connection.execute(select(tasks).where(tasks.c.job_id == job_id).order_by(tasks.c.id)).all()
    edges = [
        (row.task_id, row.needs_id)
        for row in tx.connection.execute(
            select(needs).join(tasks, tasks.c.id == needs.c.task_id).where(tasks.c.job_id == job_id)
        )
    ]
    _check_pools(tx, rows)
    again = _again(rows, edges, asked) if asked.partial else {row.id for row in rows}
    if not any(row.id in again and row.kind == "run" for row in rows):
        raise SpecError([("failed", f"all of job {job_id} succeeded; name a task under from, or run all of it again")])
    new_id, token = _store_job(tx, old, client, asked, len(again), actor, idempotency_key)
    ready, undecided = _store_tasks(tx, rows, edges, again, _Copy(old, new_id, token, client))
    kept = len(rows) - len(again)
    told = f"job {job_id} again" + (f", {kept} of {len(rows)} task(s) kept" if kept else "")
    tx.record("job", new_id, None, JobState.QUEUED, told, None, actor, {"job_id": new_id})
    progress.became_ready(tx, ready, undecided)
    return Submitted(new_id)


def _again(rows: Sequence[Any], edges: Iterable[tuple[int, int]], asked: Rerun) -> set[int]:
    """The ids of what runs again. Deploy and undeploy tasks always do: the machines of the old job are gone."""
    named = {name: [row.id for row in rows if name in (row.name, written(row.name))] for name in asked.from_}
    known = {written(row.name) for row in rows}
    if unknown := [name for name, ids in named.items() if not ids]:
        raise SpecError([("from", f"no task is named {name!r}; the tasks are {some(known)}") for name in unknown])
    dependents: dict[int, list[int]] = defaultdict(list)
    for task_id, needs_id in edges:
        dependents[needs_id].append(task_id)
    again: set[int] = set()
    pending = [id_ for ids in named.values() for id_ in ids]
    pending += [row.id for row in rows if row.state != TaskState.SUCCEEDED]
    while pending:
        if (id_ := pending.pop()) not in again:
            again.add(id_)
            pending += dependents[id_]
    return again | {row.id for row in rows if row.kind != "run"}


def _check_pools(tx: Tx, rows: Sequence[Any]) -> None:
    used = {row.pool_id for row in rows if row.pool_id is not None}
    gone = select(pools.c.name).where(pools.c.id.in_(used), pools.c.deleted_at.is_not(None))
    if names := tx.connection.execute(gone).scalars().all() if used else []:
        raise SpecError([("infrastructure.pool", f"pool {names[0]!r} is deleted; submit the job file with another one")])


def _store_job(
    tx: Tx, old: Any, client: str, asked: Rerun, open_tasks: int, actor: str, key: str | None
) -> tuple[int, str | None]:
    given = {name: layers.kept_as(old.params.get(name), value, asked.seal) for name, value in asked.params.items()}
    sources = {**old.spec.get("params_from", {}), **dict.fromkeys(given, "launch")}
    params = {**old.params, **given}
    values = dict(old._mapping) | {
        **dict.fromkeys(("started_at", "finished_at", "cancel_requested_at", "token")),
        "spec": {**old.spec, "params_from": sources} if given else old.spec,
        "params": params,
        "rerun_of": old.id,
        "turn": 0.0,
        "state": JobState.QUEUED,
        "reason": f"job {old.id} again",
        "open_tasks": open_tasks,
        "idempotency_key": key,
        "submitted_by": actor,
        "submitted_at": tx.now,
    }
    del values["id"]
    new_id = int(tx.connection.execute(insert(jobs).values(values).returning(jobs.c.id)).scalar_one())
    block = asked_in(old.spec)
    if block.token is None:
        return new_id, None
    token = scoped_token(client, block.token, new_id)
    tx.connection.execute(jobs.update().where(jobs.c.id == new_id).values(token=token))
    pool = select(pools.c.id).where(pools.c.name == block.pool, pools.c.deleted_at.is_(None))
    target = progress.Target(
        token, tx.connection.execute(pool).scalar(), block.count, block.image, block.instance_type, block.operation,
        block.relaunches,
    )  # fmt: skip
    if progress.deploys(target):
        progress.open_deployment(tx, new_id, None, target)
    return new_id, token


@dataclass(frozen=True, slots=True)
class _Copy:
    """From which job to which, and the new one's token."""

    old: Any
    new_id: int
    token: str | None
    client: str

    def row(self, task: Any, *, again: bool, waiting_on: int, now: Any) -> dict[str, Any]:
        values = dict(task._mapping) | {"job_id": self.new_id, "waiting_on": waiting_on}
        results = {name: values[name] for name in _RESULTS}
        values |= _FRESH
        del values["id"]
        self._retoken(values)
        if not again:
            kept = task.reason if not task.attempts and task.kind == "run" else f"kept from job {self.old.id}"
            return values | results | {"state": TaskState.SUCCEEDED, "reason": kept}
        waits = waiting_on > 0 or task.condition is not None
        state = TaskState.WAITING if waits else TaskState.QUEUED
        return values | {"state": state, "reason": "submitted", "queued_at": None if waits else now}

    def _retoken(self, values: dict[str, Any]) -> None:
        """Its own token with the new job's number in it, or the new job's."""
        spec = values["spec"]
        if "target" not in spec:
            values["token"] = self.token
        elif "token" in spec:
            values["token"] = scoped_token(self.client, spec["token"], self.new_id)
            values["spec"] = {**spec, "target": {**spec["target"], "token": values["token"]}}


def _store_tasks(
    tx: Tx, rows: Sequence[Any], edges: Sequence[tuple[int, int]], again: set[int], copy: _Copy
) -> tuple[list[progress.Ready], list[int]]:
    waiting_on = Counter(task_id for task_id, needs_id in edges if needs_id in again)
    made = [copy.row(row, again=row.id in again, waiting_on=waiting_on[row.id], now=tx.now) for row in rows]
    queued = [_ready(place, row) for place, row in enumerate(made) if row["state"] == TaskState.QUEUED]
    for place, turn in turns.give_released(tx, queued).items():
        made[place]["turn"] = turn
    inserted = insert(tasks).returning(tasks.c.id, sort_by_parameter_order=True)
    ids = tx.connection.execute(inserted, made).scalars().all()
    new = {row.id: id_ for row, id_ in zip(rows, ids, strict=True)}
    if edges:
        tx.connection.execute(insert(needs), [{"task_id": new[waits], "needs_id": new[need]} for waits, need in edges])
    stored = list(zip(ids, made, strict=True))
    _machines_of_the_kept(tx, stored)
    ready = [_ready(id_, row) for id_, row in stored if row["state"] == TaskState.QUEUED]
    return ready, [id_ for id_, row in stored if row["state"] == TaskState.WAITING and not row["waiting_on"]]


def _ready(id_: int, row: Mapping[str, Any]) -> progress.Ready:
    needs = Needs(row["slots"], row["memory_mb"], tuple(row["labels"] or ()))
    return progress.Ready(id_, row["job_id"], row["kind"], row["token"], row["pool_id"], row["spec"], needs)


def _machines_of_the_kept(tx: Tx, stored: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """Machines that a kept task had asked for, and that were to serve others after it, are asked for at once."""
    wanted = {row["token"] for _, row in stored if row["state"] != TaskState.SUCCEEDED and row["kind"] == "run"}
    for id_, row in stored:
        if row["state"] == TaskState.SUCCEEDED and row["token"] in wanted and "target" in row["spec"]:
            target = progress.Target(**row["spec"]["target"])
            if progress.deploys(target) and target.operation != "deploy_and_undeploy":
                progress.open_deployment(tx, row["job_id"], id_, target)
