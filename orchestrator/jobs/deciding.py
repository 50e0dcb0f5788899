"""Decisions on `when:`: the facts that conditions ask about are read here, and `conditions` decides by them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, func, or_, select

from orchestrator.jobs.conditions import Condition, ConditionError, Decision, Facts, TaskFact, evaluate, parse
from orchestrator.jobs.expansion import written
from orchestrator.jobs.outcomes import job_outcome
from orchestrator.model.states import JOB_OPEN, TASK_OPEN
from orchestrator.model.tables import Job, Task, table
from orchestrator.store.writer import Tx

jobs, tasks = table(Job), table(Task)
LONGEST = 500  # characters of a reason


def decide(tx: Tx, undecided: Sequence[Any]) -> dict[int, Decision | ConditionError]:
    """What becomes of tasks whose inputs are all known: rows with `id`, `job_id`, `condition` and `fixed`, by their ids."""
    by_job: dict[int, list[Any]] = defaultdict(list)
    for task in undecided:
        by_job[task.job_id].append(task)
    found: dict[int, Decision | ConditionError] = {}
    for job_id, mine in by_job.items():
        facts = _facts(tx, job_id, [parse(text) for text in {task.condition for task in mine}])
        for task in mine:
            found[task.id] = _decided(task, facts)
    return found


def _decided(task: Any, facts: Facts) -> Decision | ConditionError:
    try:
        decision = evaluate(task.condition, replace(facts, params={**facts.params, **(task.fixed or {})}))
    except ConditionError as error:
        return error
    return Decision(decision.holds, decision.told[:LONGEST])


def _facts(tx: Tx, job_id: int, conditions: Sequence[Condition]) -> Facts:
    connection = tx.connection
    job = connection.execute(select(jobs.c.client_id, jobs.c.params, jobs.c.submitted_at).where(jobs.c.id == job_id)).one()
    others: dict[tuple[str, str], Sequence[TaskFact]] = {}
    ends: dict[str, str] = {}
    wanted: dict[str, set[str]] = {name: set() for condition in conditions for name in condition.jobs}
    for condition in conditions:
        for other, name in condition.others:
            wanted.setdefault(other, set()).add(name)
    for other, names in wanted.items():
        if (run := _latest_end(connection, job.client_id, other)) is not None:
            ends[other] = run.state
            others |= {(other, name): found for name, found in _tasks(connection, run.id, names).items()}
    own = {name for condition in conditions for name in condition.tasks}
    at_the_end = any(condition.at_the_end for condition in conditions)
    return Facts(
        now=tx.now,
        submitted_at=job.submitted_at,
        tasks=_tasks(connection, job_id, own),
        others=others,
        ends=ends,
        outcome=_so_far(connection, job_id) if at_the_end else "",
        params=job.params,
    )


def _tasks(connection: Connection, job_id: int, names: Iterable[str]) -> dict[str, Sequence[TaskFact]]:
    """The facts of a job's tasks by the names they were asked for: of all elements by the name of their array."""
    wanted = sorted(names)
    if not wanted:
        return {}
    called = or_(tasks.c.name.in_(wanted), *(tasks.c.name.startswith(f"{name}[", autoescape=True) for name in wanted))
    columns = (tasks.c.name, tasks.c.state, tasks.c.exit_code, tasks.c.outputs)
    found: dict[str, list[TaskFact]] = {name: [] for name in wanted}
    for row in connection.execute(select(*columns).where(tasks.c.job_id == job_id, called).order_by(tasks.c.id)):
        for name in {row.name, written(row.name)} & found.keys():
            found[name].append(TaskFact(row.state, row.exit_code, row.outputs))
    return dict(found)


def _latest_end(connection: Connection, client_id: int, name: str) -> Any:
    """The client's last job of that name, by number, that has ended."""
    mine = (jobs.c.client_id == client_id, jobs.c.name == name, jobs.c.state.not_in(JOB_OPEN))
    return connection.execute(select(jobs.c.id, jobs.c.state).where(*mine).order_by(jobs.c.id.desc()).limit(1)).first()


def _so_far(connection: Connection, job_id: int) -> str:
    """How the job would end by what of it has ended."""
    ended = (tasks.c.job_id == job_id, tasks.c.state.not_in(TASK_OPEN))
    counted = connection.execute(select(tasks.c.state, func.count()).where(*ended).group_by(tasks.c.state))
    return job_outcome(dict(counted.tuples().all()), cancelled=False)[0].value
