"""Results: an attempt's outcome counts once, for the task's one live attempt, and moves its job on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, select

from orchestrator.jobs import progress
from orchestrator.jobs.fits import Needs, wakes
from orchestrator.jobs.outcomes import INFRASTRUCTURE, Artifacts, Outcome, judge
from orchestrator.model.states import AttemptState, TaskState
from orchestrator.model.tables import Attempt, Job, Task, table
from orchestrator.store.doors import Move, advance
from orchestrator.store.prepared import Prepared
from orchestrator.store.writer import Tx

jobs, tasks, attempts = (table(m) for m in (Job, Task, Attempt))

_with_tasks = (
    select(
        attempts.c.id.label("attempt_id"), attempts.c.node_id, attempts.c.state.label("attempt_state"),
        tasks.c.id, tasks.c.job_id, tasks.c.spec, tasks.c.token, tasks.c.pool_id, tasks.c.queued_at,
        tasks.c.slots, tasks.c.memory_mb, tasks.c.labels,
        tasks.c.job_failures, tasks.c.infrastructure_failures,
        jobs.c.cancel_requested_at, jobs.c.tasks.label("job_tasks"),
    )
    .join(tasks, tasks.c.id == attempts.c.task_id)
    .join(jobs, jobs.c.id == tasks.c.job_id)
    .with_for_update(of=attempts)
)  # fmt: skip
_reported = Prepared(_with_tasks.where(attempts.c.id == bindparam("attempt_id")))
_running_on = Prepared(
    _with_tasks.where(attempts.c.node_id == bindparam("node_id"), attempts.c.state == AttemptState.RUNNING)
)


@dataclass(frozen=True, slots=True)
class Result:
    """What an agent says of one attempt that ended. Times are the node's own clock."""

    attempt: int
    outcome: Outcome
    log_size: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outputs: Mapping[str, str] | None = None
    outputs_trouble: str | None = None


def accept(tx: Tx, node_id: int, results: Sequence[Result]) -> None:
    """Take the results of the node's live attempts; store those of lost ones as late; refuse the rest with an event.

    A result that was taken before is passed over in silence: the agent repeats until it is acknowledged.
    """
    by_attempt = {result.attempt: result for result in results}
    rows = _reported.each(tx.connection, [{"attempt_id": attempt_id} for attempt_id in sorted(by_attempt)])
    live = [row for row in rows if row.node_id == node_id and row.attempt_state == AttemptState.RUNNING]
    end_attempts(tx, [(row, by_attempt[row.attempt_id]) for row in live])
    for row in rows:
        lost = row.node_id == node_id and row.attempt_state == AttemptState.LOST
        if lost and by_attempt[row.attempt_id].outcome.kind not in INFRASTRUCTURE:  # else it says no more than we know
            _store_late(tx, row, by_attempt[row.attempt_id])
    mine = {row.attempt_id for row in rows if row.node_id == node_id}
    for attempt_id in by_attempt.keys() - mine:
        tx.tell("node", node_id, f"a result for attempt {attempt_id} was refused: it is not of this node", node_id=node_id)


def lose_attempts(tx: Tx, node_id: int, why: str) -> int:
    """The node is gone or silent: its live attempts are lost, their tasks queued again. Returns how many."""
    rows = _running_on.rows(tx.connection, {"node_id": node_id})
    end_attempts(tx, [(row, Result(row.attempt_id, Outcome("lost", detail=why))) for row in rows])
    return len(rows)


def end_attempts(tx: Tx, ends: Sequence[tuple[Any, Result]]) -> None:
    """Move live attempts and their tasks on by what `judge` says, and follow their jobs' graphs."""
    if not ends:
        return
    attempt_moves, task_moves, settled = [], [], []
    for row, result in ends:
        verdict = judge(
            _with_artifacts(result.outcome, row.spec.get("artifacts")),
            row.spec.get("retry", {}),
            job_failures=row.job_failures,
            infrastructure_failures=row.infrastructure_failures,
            cancelling=row.cancel_requested_at is not None,
            now=tx.now,
        )
        links = {"job_id": row.job_id, "task_id": row.id, "attempt_id": row.attempt_id, "node_id": row.node_id}
        ended = {
            "exit_code": result.outcome.exit_code,
            "log_size": result.log_size,
            "started_at": result.started_at,
            "finished_at": result.finished_at or tx.now,
        }
        attempt_moves.append(
            Move(row.attempt_id, AttemptState.RUNNING, verdict.attempt, verdict.reason, ended, told_elsewhere=True)
        )
        open_again = verdict.task == TaskState.QUEUED
        values = {
            "exit_code": result.outcome.exit_code,
            "job_failures": row.job_failures + verdict.job_failures,
            "infrastructure_failures": row.infrastructure_failures + verdict.infrastructure_failures,
            "run_after": verdict.run_after,
            "finished_at": None if open_again else tx.now,
            "queued_at": tx.now if open_again else row.queued_at,
        }
        if verdict.params is not None:
            values["params"] = dict(verdict.params)
        if open_again:
            values |= {"progress": None, "progress_note": None}
        else:
            values |= _said(result)
        reason = verdict.reason
        if result.outputs_trouble:
            reason += f"; its output file: {result.outputs_trouble}"
        task_moves.append(Move(row.id, TaskState.RUNNING, verdict.task, reason, values, links))
        if open_again:
            tx.queued[row.token, row.pool_id] += wakes(Needs.of(row))
        else:
            settled.append(
                progress.Ended(row.id, row.job_id, verdict.task, row.spec, row.job_tasks == 1, bool(result.outputs))
            )
    advance(tx, Attempt, attempt_moves)
    advance(tx, Task, task_moves)
    if settled:
        progress.settle(tx, settled)


def _said(result: Result) -> dict[str, Any]:
    """What is kept of what a task that has ended said of itself: nothing for most."""
    values: dict[str, Any] = {}
    if result.outputs:
        values["outputs"] = dict(result.outputs)
    asked = result.outcome.control
    if asked is not None and (asked.progress, asked.note) != (None, None):
        values |= {"progress": asked.progress, "progress_note": asked.note}
    return values


def _with_artifacts(outcome: Outcome, declared: Mapping[str, Any] | None) -> Outcome:
    """A success of a task with artifacts says what became of them; an agent of the version before cannot."""
    succeeded = outcome.kind == "exited" and outcome.exit_code == 0
    if declared is None or outcome.artifacts is not None or not succeeded or declared["on"] == "failure":
        return outcome
    return replace(outcome, artifacts=Artifacts("its agent is too old to upload artifacts; end the node", whole=False))


def _store_late(tx: Tx, row: Any, result: Result) -> None:
    outcome = result.outcome
    reason = (
        f"came after the attempt was given up: {outcome.kind} {outcome.exit_code if outcome.exit_code is not None else ''}"
    )
    links = {"job_id": row.job_id, "task_id": row.id, "attempt_id": row.attempt_id, "node_id": row.node_id}
    values = {"exit_code": outcome.exit_code, "log_size": result.log_size}
    advance(tx, Attempt, [Move(row.attempt_id, AttemptState.LOST, AttemptState.LATE, reason.strip(), values, links)])
