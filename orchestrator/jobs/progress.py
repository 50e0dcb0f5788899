"""The progress of a job's graph: what becomes ready, what is skipped, which machines are asked for, when the job ends.

Every function runs inside the caller's transaction. A `deploy` or `undeploy` task runs nowhere: it is done in the moment
it becomes ready, so a step here may make the next one; the work list in `settle` ends because the graph has no circle.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, bindparam, func, insert, select, update

from orchestrator.jobs import inputs
from orchestrator.jobs.announce import WISHES, announce
from orchestrator.model.states import JOB_OPEN, JobState, TaskState
from orchestrator.model.tables import Deployment, Job, Task, TaskNeed, table
from orchestrator.store.doors import Move, advance
from orchestrator.store.prepared import Prepared
from orchestrator.store.writer import Tx

jobs, tasks, needs, deployments = (table(m) for m in (Job, Task, TaskNeed, Deployment))
RELAUNCHES = 10  # machines that fail before they are of use and are replaced, unless the job says otherwise
CHUNK = 500  # ids in one IN (…)

_counted_down = Prepared(
    update(jobs)
    .where(jobs.c.id == bindparam("_id"))
    .values(open_tasks=jobs.c.open_tasks - bindparam("by"))
    .returning(
        jobs.c.id, jobs.c.state, jobs.c.tasks, jobs.c.open_tasks,
        jobs.c.token, jobs.c.operation, jobs.c.cancel_requested_at, *WISHES,
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """The machines that a job or a task asks for. `token` is the scoped one; None where none stands on the target."""

    token: str | None
    pool_id: int | None = None
    count: int | None = None
    image: str | None = None
    instance_type: str | None = None
    operation: str | None = None
    relaunches: int | None = None

    def document(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Ready:
    """A task whose needs are done and which is queued now."""

    id: int
    job_id: int
    kind: str
    token: str | None
    pool_id: int | None
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that has just reached one of its last states."""

    id: int
    job_id: int
    state: TaskState
    spec: Mapping[str, Any]
    alone: bool = False  # its job has no other task, so nothing depends on it
    has_outputs: bool = False


def deploys(target: Target) -> bool:
    """True where machines are to be started: a token of its own, a pool, a count, and not only an undeploy."""
    return None not in (target.token, target.pool_id, target.count) and target.operation != "undeploy"


def open_deployment(tx: Tx, job_id: int, task_id: int | None, target: Target) -> None:
    """Ask for the target's machines from now on. The planner sees to them."""
    values = {
        "job_id": job_id,
        "task_id": task_id,
        "pool_id": target.pool_id,
        "token": target.token,
        "machines": target.count,
        "relaunches": RELAUNCHES if target.relaunches is None else target.relaunches,
        "image": target.image,
        "instance_type": target.instance_type,
        "opened_at": tx.now,
    }
    id_ = tx.connection.execute(insert(deployments).values(**values).returning(deployments.c.id)).scalar_one()
    owner = f"task {task_id} of job {job_id}" if task_id else f"job {job_id}"
    reason = f"{owner} asks for {target.count} machine(s) with token {target.token}"
    tx.tell("deployment", id_, reason, job_id=job_id, task_id=task_id, pool_id=target.pool_id)


def close_deployments(tx: Tx, reason: str, **match: object) -> None:
    """End the asking; nodes without other work go at the planner's next look, which this event brings on at once."""
    condition: list[ColumnElement[bool]] = [deployments.c.closed_at.is_(None)]
    for column, value in match.items():
        if isinstance(value, Sequence) and not isinstance(value, str):
            condition.append(deployments.c[column].in_(value))
        else:
            condition.append(deployments.c[column] == value)
    columns = (deployments.c.id, deployments.c.job_id, deployments.c.task_id, deployments.c.pool_id)
    rows = tx.connection.execute(select(*columns).where(*condition)).all()
    if not rows:
        return
    ids = [row.id for row in rows]
    tx.connection.execute(update(deployments).where(deployments.c.id.in_(ids)).values(closed_at=tx.now, reason=reason))
    for row in rows:
        tx.tell("deployment", row.id, reason, job_id=row.job_id, task_id=row.task_id, pool_id=row.pool_id)


def became_ready(tx: Tx, ready: Iterable[Ready]) -> None:
    """Queue what can run, start its machines, and do the deploy and undeploy tasks there and then."""
    if done := _begin(tx, ready):
        settle(tx, done)


def fail_queued(tx: Tx, job_id: int, token: str, why: str) -> None:
    """End the job's tasks that wait for a node with this token, which will not come."""
    waiting = (tasks.c.job_id == job_id, tasks.c.token == token, tasks.c.state == TaskState.QUEUED)
    rows = tx.connection.execute(select(tasks.c.id, tasks.c.spec).where(*waiting).with_for_update()).all()
    links = {"job_id": job_id}
    ended = {"finished_at": tx.now, "run_after": None}
    moves = [Move(row.id, TaskState.QUEUED, TaskState.FAILED, why, ended, links | {"task_id": row.id}) for row in rows]
    advance(tx, Task, moves)
    if rows:
        settle(tx, [Ended(row.id, job_id, TaskState.FAILED, row.spec) for row in rows])


def settle(tx: Tx, ended: Sequence[Ended]) -> None:
    """Follow the graph from tasks that ended to what they make ready or skipped, and to the end of their jobs."""
    all_ended: list[Ended] = []
    pending = list(ended)
    while pending:
        all_ended += pending
        for task in pending:
            _undeploy_after(tx, task)
        inputs.mark(tx, [task.id for task in pending if task.has_outputs and not task.alone])
        succeeded = [task for task in pending if not task.alone and task.state == TaskState.SUCCEEDED]
        others = [task for task in pending if not task.alone and task.state != TaskState.SUCCEEDED]
        pending = _begin(tx, _release_dependents(tx, succeeded)) + _skip_dependents(tx, others)
    _count_down(tx, all_ended)


def _begin(tx: Tx, ready: Iterable[Ready]) -> list[Ended]:
    done = []
    for task in ready:
        target = Target(**task.spec["target"]) if "target" in task.spec else None
        if task.kind == "undeploy":
            close_deployments(tx, f"undeploy task {task.id}", job_id=task.job_id, token=task.token)
            done.append(task)
        elif target is not None and deploys(target):
            open_deployment(tx, task.job_id, task.id, target)
        if task.kind == "deploy":
            done.append(task)
        elif task.kind == "run":
            tx.queued[task.token, task.pool_id] += 1
    moves = [
        Move(
            task.id,
            TaskState.QUEUED,
            TaskState.SUCCEEDED,
            f"{task.kind} asked for",
            {"finished_at": tx.now},
            {"job_id": task.job_id, "task_id": task.id},
        )
        for task in done
    ]
    advance(tx, Task, moves)
    return [Ended(task.id, task.job_id, TaskState.SUCCEEDED, {}) for task in done]


def _undeploy_after(tx: Tx, task: Ended) -> None:
    target = task.spec.get("target", {})
    if target.get("operation") == "deploy_and_undeploy":
        close_deployments(tx, f"task {task.id} is done", task_id=task.id)
    elif target.get("operation") == "undeploy":
        close_deployments(tx, f"task {task.id} is done", job_id=task.job_id, token=target["token"])


def _release_dependents(tx: Tx, succeeded: Sequence[Ended]) -> list[Ready]:
    met: Counter[int] = Counter()
    for ids in _chunks([task.id for task in succeeded]):
        met.update(tx.connection.execute(select(needs.c.task_id).where(needs.c.needs_id.in_(ids))).scalars())
    by_count: dict[int, list[int]] = defaultdict(list)
    for task_id, times in met.items():
        by_count[times].append(task_id)
    for times, task_ids in by_count.items():
        for ids in _chunks(task_ids):
            counted = {"waiting_on": tasks.c.waiting_on - times}
            tx.connection.execute(update(tasks).where(tasks.c.id.in_(ids)).values(counted))
    ready = []
    columns = (tasks.c.id, tasks.c.job_id, tasks.c.kind, tasks.c.token, tasks.c.pool_id, tasks.c.spec)
    for ids in _chunks(list(met)):
        free = (tasks.c.id.in_(ids), tasks.c.state == TaskState.WAITING, tasks.c.waiting_on == 0)
        ready += [Ready(*row) for row in tx.connection.execute(select(*columns).where(*free).order_by(tasks.c.id))]
    moves = [
        Move(
            task.id,
            TaskState.WAITING,
            TaskState.QUEUED,
            "its needs are done",
            {"queued_at": tx.now},
            {"job_id": task.job_id, "task_id": task.id},
        )
        for task in ready
    ]
    advance(tx, Task, moves)
    return ready


def _skip_dependents(tx: Tx, ended: Sequence[Ended]) -> list[Ended]:
    names: dict[int, str] = {}
    columns = (tasks.c.id, tasks.c.job_id, tasks.c.spec, needs.c.needs_id)
    rows: list[Row[Any]] = []
    for ids in _chunks([task.id for task in ended]):
        names.update(tx.connection.execute(select(tasks.c.id, tasks.c.name).where(tasks.c.id.in_(ids))).tuples().all())
        waiting = (needs.c.needs_id.in_(ids), tasks.c.state == TaskState.WAITING)
        rows += tx.connection.execute(select(*columns).join(needs, needs.c.task_id == tasks.c.id).where(*waiting)).all()
    states = {task.id: task.state for task in ended}
    first_cause = {row.id: row for row in reversed(rows)}
    moves = [
        Move(
            row.id,
            TaskState.WAITING,
            TaskState.SKIPPED,
            f"needs {names[row.needs_id]}, which {_was(states[row.needs_id])}",
            {"finished_at": tx.now},
            {"job_id": row.job_id, "task_id": row.id},
        )
        for row in first_cause.values()
    ]
    advance(tx, Task, moves)
    return [Ended(row.id, row.job_id, TaskState.SKIPPED, {}) for row in first_cause.values()]


def _was(state: TaskState) -> str:
    return "failed" if state == TaskState.FAILED else f"was {state}"


def _count_down(tx: Tx, ended: Sequence[Ended]) -> None:
    counts = Counter(task.job_id for task in ended)
    rows = _counted_down.each(tx.connection, [{"_id": id_, "by": count} for id_, count in sorted(counts.items())])
    finished = [row for row in rows if row.open_tasks == 0 and row.state in JOB_OPEN]
    if finished:
        _finish_jobs(tx, finished, {task.job_id: task for task in ended})


def _finish_jobs(tx: Tx, finished: Sequence[Any], last: Mapping[int, Ended]) -> None:
    moves = []
    for job in finished:
        states = {last[job.id].state: 1} if job.tasks == 1 else _task_states(tx, job.id)
        to, reason = job_outcome(states, cancelled=job.cancel_requested_at is not None)
        moves.append(Move(job.id, job.state, to, reason, {"finished_at": tx.now}, {"job_id": job.id}))
    advance(tx, Job, moves)
    announce(tx, zip(finished, (move.to for move in moves), strict=True))
    alone = {job.id: last[job.id].spec for job in finished if job.tasks == 1}
    # A lone task without a target, that ran, can have asked for nothing; a deploy task ends without its document.
    nothing = {id_ for id_, spec in alone.items() if "run" in spec and "target" not in spec}
    asking = [job.id for job in finished if job.token or job.id not in nothing]
    if asking:
        close_deployments(tx, "its job is done", job_id=asking)
    for job in finished:
        if job.token and job.operation == "undeploy":
            close_deployments(tx, f"job {job.id} is done and undeploys its token", token=job.token)


def _task_states(tx: Tx, job_id: int) -> dict[str, int]:
    counted = select(tasks.c.state, func.count()).where(tasks.c.job_id == job_id).group_by(tasks.c.state)
    return dict(tx.connection.execute(counted).tuples().all())


def job_outcome(states: Mapping[Any, int], *, cancelled: bool) -> tuple[JobState, str]:
    """A finished job's state and reason from how many of its tasks ended in which state."""
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    if states.get(TaskState.FAILED):
        return JobState.FAILED, f"tasks: {told}"
    if states.get(TaskState.CANCELLED) or (cancelled and states.get(TaskState.SKIPPED)):
        return JobState.CANCELLED, f"tasks: {told}"
    return JobState.SUCCEEDED, f"tasks: {told}"


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]
