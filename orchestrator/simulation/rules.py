"""What rows promise each other from one look to the next: claims, budgets, holds, releases, and the events that tell of it.

Pure but for `Chain`: rows before, rows now, and the job files as people wrote them. A rule raises `Violation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.model.states import NODE_ON_ITS_WAY
from orchestrator.simulation.rows import AttemptRow, HoldRow, JobRow, Rows, TaskRow, Violation

Documents = Mapping[str, Mapping[str, Any]]
"""Job files by the names of their jobs."""

POLICY = ("job_done", "scaled_down")  # why a policy releases a node
FAILED = ("failed", "timed_out", "killed")  # attempts that the job pays for
ALLOWED = {
    "ok": {"succeeded"},
    "err": {"failed"},
    "finished": {"succeeded", "failed", "cancelled", "skipped"},
}  # states of what a task needs, by the condition that it has of it
GAVE_UP = "failed before they were of use"


def new_attempts(before: Rows, now: Rows) -> Iterator[tuple[AttemptRow, TaskRow, JobRow]]:
    for id_ in now.attempts.keys() - before.attempts.keys():
        attempt = now.attempts[id_]
        task = now.tasks[attempt.task_id]
        yield attempt, task, now.jobs[task.job_id]


def claims(before: Rows, now: Rows, documents: Documents) -> None:
    """What is claimed is wanted, its needs are done, and its last end allowed another try."""
    for attempt, task, job in new_attempts(before, now):
        earlier = before.jobs.get(job.id)
        if earlier is not None and earlier.cancel_requested_at is not None:
            raise Violation(f"a cancelled job begins nothing: attempt {attempt.id} of job {job.id} was claimed after that")
        document = documents[job.name]
        states = {other.name: other.state for other in now.tasks.values() if other.job_id == job.id}
        [wanted] = [each for each in document["tasks"] if each["name"] == task.name]
        if open_needs := [need for need in wanted.get("needs", ()) if states[need] not in _allowed(wanted, need)]:
            raise Violation(f"a task waits for its needs: {task.name} of job {job.id} was claimed before {open_needs}")
        tries = {other.number: other for other in now.attempts.values() if other.task_id == task.id}
        last = tries.get(attempt.number - 1)
        if last is not None and last.state == "failed" and last.exit_code in document["retry"].get("never_on", ()):
            raise Violation(
                f"never_on is never tried again: task {task.id} ended with {last.exit_code} and was claimed again"
            )


def _allowed(wanted: Mapping[str, Any], need: str) -> set[str]:
    """The states of this need in which the task may run. One that its condition does not name has ended, no more."""
    asks, _, of = wanted.get("when", "").partition("(")
    if not asks:
        return ALLOWED["ok"]
    return ALLOWED[asks if of == f"{need})" else "finished"]


def budgets(before: Rows, now: Rows, documents: Documents) -> None:
    """No budget is overdrawn, and none is thrown away: a task fails only when one of them is spent."""
    for id_, task in now.tasks.items():
        if task.kind != "run":
            continue
        was = before.tasks.get(id_)
        if was is not None and was == task:
            continue
        document = documents[now.jobs[task.job_id].name]
        retry = document["retry"]
        if task.job_failures > retry["attempts"] or task.infrastructure_failures > retry["infrastructure_attempts"]:
            raise Violation(
                f"budgets hold: task {id_} has {task.job_failures} failures of {retry['attempts']} of its own, "
                f"{task.infrastructure_failures} of {retry['infrastructure_attempts']} of the infrastructure"
            )
        if was is None or was.state == "failed" or task.state != "failed":
            continue
        spent = (
            task.job_failures == retry["attempts"]
            or task.infrastructure_failures == retry["infrastructure_attempts"]
            or task.exit_code in retry.get("never_on", ())
            or "never" in document["env"].get("SIMULATED_CONTROL", "")
            or GAVE_UP in (task.reason or "")
        )
        if not spent:
            raise Violation(f"a task fails when a budget is spent: task {id_} failed with some left ({task.reason})")


def holds(before: Rows, now: Rows) -> None:
    """A kind that is held is launched by one machine at a time, and by none before its pause is over."""
    earlier = {(hold.pool_id, hold.kind): hold for hold in before.holds.values() if _holds(before, hold)}
    later = {(hold.pool_id, hold.kind): hold for hold in now.holds.values()}
    for id_ in now.launches.keys() - before.launches.keys():
        launch = now.launches[id_]
        kind = (launch.pool_id, launch.kind)
        if kind not in earlier or kind not in later:
            continue
        hold = earlier[kind]
        if launch.requested_at < hold.until:
            raise Violation(f"a held kind rests: launch {id_} was written at {launch.requested_at}, not after {hold.until}")
        if not launch.probe or launch.machines != 1:
            raise Violation(f"a held kind is tried by one machine: launch {id_} asks for {launch.machines}")
        probes = {other.id for other in now.launches.values() if (other.pool_id, other.kind) == kind and other.probe}
        trying = [n for n in now.nodes.values() if n.launch_id in probes and n.state in NODE_ON_ITS_WAY[:-1]]
        if len(trying) > 1:
            raise Violation(f"a held kind is tried by one machine: launch {id_} makes {len(trying)} of them")


def _holds(rows: Rows, hold: HoldRow) -> bool:
    return hold.cause == "shortage" or hold.failures >= rows.pools[hold.pool_id].breaker_failures


def releases(before: Rows, now: Rows) -> None:
    """A policy's release spares who is protected or busy."""
    for id_, node in now.nodes.items():
        was = before.nodes.get(id_)
        left = was is not None and was.state in NODE_ON_ITS_WAY and node.state not in NODE_ON_ITS_WAY
        if was is None or not left or node.end_reason not in POLICY:
            continue
        if was.protected and node.protected:
            raise Violation(f"a protected node is never released: node {id_} left ({node.end_reason})")
        if busy := [a.id for a in now.attempts.values() if a.node_id == id_ and a.state == "running"]:
            raise Violation(f"a busy node is never released: node {id_} left ({node.end_reason}) with attempts {busy}")


class Chain:
    """Events and rows tell the same story: from the first event of each thing to its row no step is missing."""

    def __init__(self, query: Callable[[str], list[Any]]) -> None:
        self._query = query
        self._seen = 0
        self._last: dict[tuple[str, int], str] = {}

    def check(self, rows: Rows) -> None:
        for id_, subject, of, from_state, to_state, reason in self._query(_EVENTS.format(self._seen)):
            self._seen = id_
            known = self._last.get((subject, of), from_state)
            if known != from_state:
                raise Violation(f"each step has its event: {subject} {of} was {known}, event {id_} is from {from_state}")
            if not reason:
                raise Violation(f"each step has its reason: event {id_} of {subject} {of} has none")
            self._last[subject, of] = to_state
        for subject in ("node", "launch", "task", "job"):
            for of, row in rows.of(subject).items():
                told = self._last.get((subject, of), row.state)
                if told != row.state:
                    raise Violation(f"each step has its event: {subject} {of} is {row.state}, the last event says {told}")


_EVENTS = """
    SELECT id, subject, subject_id, from_state, to_state, reason FROM event
    WHERE to_state IS NOT NULL AND subject IN ('node', 'launch', 'task', 'job') AND id > {} ORDER BY id
"""
