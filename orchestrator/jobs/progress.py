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

from orchestrator.jobs import inputs, turns
from orchestrator.jobs.announce import WISHES, announce
from orchestrator.jobs.fits import PLAIN, Needs, wakes
from orchestrator.jobs.outcomes import job_outcome
from orchestrator.model.states import JOB_OPEN, TaskState
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
_free = (
    tasks.c.id, tasks.c.job_id, tasks.c.kind, tasks.c.token, tasks.c.pool_id, tasks.c.spec, tasks.c.condition,
    tasks.c.slots, tasks.c.memory_mb, tasks.c.labels,
    tasks.c["values"].label("fixed"),
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
    needs: Needs = PLAIN


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that has just reached one of its last states."""

    id: int
    job_id: int
    state: TaskState
    spec: Mapping[str, Any]
    alone: bool = False  # its job has no other task, so nothing depends on it
    has_outputs: bool = False
    by_condition: bool = False  # skipped, and nothing had failed


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


def became_ready(tx: Tx, ready: Iterable[Ready], undecided: Sequence[int] = ()) -> None:
    """Queue what can run, start its machines, and do the deploy and undeploy tasks there and then. The undecided have a
    condition and nothing to wait for."""
    released, ended = _release(tx, undecided) if undecided else ([], [])
    if done := _begin(tx, [*ready, *released]) + ended:
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
        followed = [task for task in pending if not task.alone]
        skipped = _skip_dependents(tx, [task for task in followed if task.state != TaskState.SUCCEEDED])
        released, decided = _release(tx, _count_met(tx, followed))
        pending = _begin(tx, released) + skipped + decided
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
            tx.queued[task.token, task.pool_id] += wakes(task.needs)
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


def _count_met(tx: Tx, ended: Sequence[Ended]) -> list[int]:
    """Count the needs of tasks down by what ended: those that have a condition wait for any end, the others for success.
    Returns whose count changed."""
    met: Counter[int] = Counter()
    succeeded = [task.id for task in ended if task.state == TaskState.SUCCEEDED]
    others = [task.id for task in ended if task.state != TaskState.SUCCEEDED]
    for ids in _chunks(succeeded):
        met.update(tx.connection.execute(select(needs.c.task_id).where(needs.c.needs_id.in_(ids))).scalars())
    for ids in _chunks(others):
        asking = (needs.c.needs_id.in_(ids), tasks.c.condition.is_not(None))
        query = select(needs.c.task_id).join(tasks, tasks.c.id == needs.c.task_id).where(*asking)
        met.update(tx.connection.execute(query).scalars())
    by_count: dict[int, list[int]] = defaultdict(list)
    for task_id, times in met.items():
        by_count[times].append(task_id)
    for times, task_ids in by_count.items():
        for ids in _chunks(task_ids):
            counted = {"waiting_on": tasks.c.waiting_on - times}
            tx.connection.execute(update(tasks).where(tasks.c.id.in_(ids)).values(counted))
    return list(met)


def _release(tx: Tx, candidates: Sequence[int]) -> tuple[list[Ready], list[Ended]]:
    """Queue those that wait for nothing any more, unless their condition is against it."""
    free: list[Row[Any]] = []
    for ids in _chunks(candidates):
        waiting = (tasks.c.id.in_(ids), tasks.c.state == TaskState.WAITING, tasks.c.waiting_on == 0)
        free += tx.connection.execute(select(*_free).where(*waiting).order_by(tasks.c.id)).all()
    conditional = [task for task in free if task.condition is not None]
    why, ended = _decide(tx, conditional) if conditional else ({}, [])
    ready = [
        Ready(task.id, task.job_id, task.kind, task.token, task.pool_id, task.spec, Needs.of(task))
        for task in free
        if task.condition is None or task.id in why
    ]
    given = turns.give_released(tx, ready)
    moves = [
        Move(
            task.id,
            TaskState.WAITING,
            TaskState.QUEUED,
            why.get(task.id, "its needs are done"),
            {"queued_at": tx.now} | ({"turn": given[task.id]} if task.id in given else {}),
            {"job_id": task.job_id, "task_id": task.id},
        )
        for task in ready
    ]
    advance(tx, Task, moves)
    return ready, ended


def _decide(tx: Tx, conditional: Sequence[Row[Any]]) -> tuple[dict[int, str], list[Ended]]:
    """Who may run and why; the others are skipped, or failed where their condition is nonsense."""
    from orchestrator.jobs.conditions import Decision  # for those who use conditions
    from orchestrator.jobs.deciding import decide

    decisions = decide(tx, conditional)
    why, moves, ended = {}, [], []
    for task in conditional:
        decision = decisions[task.id]
        if isinstance(decision, Decision) and decision.holds:
            why[task.id] = f"its condition holds: {decision.told or task.condition}"
            continue
        values: dict[str, Any] = {"finished_at": tx.now}
        if isinstance(decision, Decision):
            to, reason = TaskState.SKIPPED, f"its condition {task.condition} is false: {decision.told or 'always'}"
            values["skipped_because"] = "condition"
        else:
            to, reason = TaskState.FAILED, f"its condition {task.condition} {decision}"
        links = {"job_id": task.job_id, "task_id": task.id}
        moves.append(Move(task.id, TaskState.WAITING, to, reason, values, links))
        ended.append(Ended(task.id, task.job_id, to, {}, by_condition=to == TaskState.SKIPPED))
    advance(tx, Task, moves)
    return why, ended


def _skip_dependents(tx: Tx, ended: Sequence[Ended]) -> list[Ended]:
    """Skip what needs the success of these. A failure among them tells more than a condition that was false."""
    causes: dict[int, Row[Any]] = {}
    columns = (tasks.c.id, tasks.c.job_id, needs.c.needs_id)
    names: dict[int, str] = {}
    by_id = {task.id: task for task in sorted(ended, key=lambda task: (task.by_condition, task.id))}
    for ids in _chunks(list(by_id)):
        names.update(tx.connection.execute(select(tasks.c.id, tasks.c.name).where(tasks.c.id.in_(ids))).tuples().all())
        waiting = (needs.c.needs_id.in_(ids), tasks.c.state == TaskState.WAITING, tasks.c.condition.is_(None))
        query = select(*columns).join(needs, needs.c.task_id == tasks.c.id).where(*waiting)
        rows = tx.connection.execute(query.order_by(tasks.c.id, needs.c.needs_id)).all()
        for row in sorted(rows, key=lambda row: by_id[row.needs_id].by_condition):
            causes.setdefault(row.id, row)
    moves, skipped = [], []
    for row in causes.values():
        cause = by_id[row.needs_id]
        why = "condition" if cause.by_condition else "upstream_failed"
        values = {"finished_at": tx.now, "skipped_because": why}
        reason, links = f"needs {names[row.needs_id]}, which {_was(cause)}", {"job_id": row.job_id, "task_id": row.id}
        moves.append(Move(row.id, TaskState.WAITING, TaskState.SKIPPED, reason, values, links))
        skipped.append(Ended(row.id, row.job_id, TaskState.SKIPPED, {}, by_condition=cause.by_condition))
    advance(tx, Task, moves)
    return skipped


def _was(task: Ended) -> str:
    if task.state == TaskState.FAILED:
        return "failed"
    return "was skipped by its condition" if task.by_condition else f"was {task.state}"


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


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]
