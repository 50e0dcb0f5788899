"""What an attempt's end means for its task: a pure function of the rules, the counts and the outcome (law 8).

Failures of the job and failures of the infrastructure are counted apart and have budgets of their own. Which of the two
it was is said by what happened to the process, never by what the process printed or returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orchestrator.model.states import AttemptState, JobState, TaskState

INFRASTRUCTURE = frozenset({"lost", "start_failed"})
"""Outcomes that are not the job's fault."""

LONGEST_DELAY_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Control:
    """What the job itself asked for in its control file: another try after so many seconds, or never; parameters for the
    next try. `trouble` says why the file was not understood; then nothing of it counts."""

    retry_after_s: float | None = None
    never: bool = False
    params: Mapping[str, str] | None = None
    trouble: str | None = None
    progress: float | None = None  # the last it reported
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Artifacts:
    """What became of the artifacts that were to be kept after this end: `told` in words, `whole` when all are."""

    told: str
    whole: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: `exited`, `timed_out`, `killed`, `cancelled`, `returned` (never started), or one of
    INFRASTRUCTURE. `exit_code` is negative for a signal."""

    kind: str
    exit_code: int | None = None
    detail: str | None = None
    control: Control | None = None
    artifacts: Artifacts | None = None

    @property
    def reason(self) -> str:
        """By which word `retry.on_reasons` knows a failure of the job."""
        if self.kind != "exited":
            return self.kind
        return "signal" if self.exit_code is not None and self.exit_code < 0 else "exit"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the attempt and of its task, and which budget pays. `params` are for the attempts to come; None
    leaves those that an earlier attempt asked for."""

    attempt: AttemptState
    task: TaskState
    reason: str
    run_after: datetime | None = None
    job_failures: int = 0
    infrastructure_failures: int = 0
    params: Mapping[str, str] | None = None


def judge(
    outcome: Outcome,
    retry: Mapping[str, Any],
    *,
    job_failures: int,
    infrastructure_failures: int,
    cancelling: bool,
    now: datetime,
) -> Verdict:
    """`retry` is the task's rule (see `spec.Retry`); the two counts are those before this attempt.

    A control file counts only where the job's own process failed: success stays success, and what the machine did to the
    job is not the job's to tell."""
    if outcome.kind == "exited" and outcome.exit_code == 0 and (outcome.artifacts is None or outcome.artifacts.whole):
        kept = f", {outcome.artifacts.told}" if outcome.artifacts is not None else ""
        return Verdict(AttemptState.SUCCEEDED, TaskState.SUCCEEDED, f"exit status 0{kept}")
    if cancelling:
        ended = AttemptState.LOST if outcome.kind == "lost" else AttemptState.CANCELLED
        return Verdict(ended, TaskState.CANCELLED, "cancelled on request")
    if outcome.kind in ("returned", "cancelled"):
        return Verdict(AttemptState.CANCELLED, TaskState.QUEUED, outcome.detail or "handed back before it started")
    if outcome.kind in INFRASTRUCTURE:
        return _after_infrastructure_failure(outcome, retry, infrastructure_failures + 1)
    return _after_job_failure(outcome, retry, job_failures + 1, now)


def job_outcome(states: Mapping[Any, int], *, cancelled: bool) -> tuple[JobState, str]:
    """A finished job's state and reason from how many of its tasks ended in which state."""
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    if states.get(TaskState.FAILED):
        return JobState.FAILED, f"tasks: {told}"
    if states.get(TaskState.CANCELLED) or (cancelled and states.get(TaskState.SKIPPED)):
        return JobState.CANCELLED, f"tasks: {told}"
    return JobState.SUCCEEDED, f"tasks: {told}"


def _after_infrastructure_failure(outcome: Outcome, retry: Mapping[str, Any], failures: int) -> Verdict:
    budget = retry.get("infrastructure_attempts", 3)
    what = outcome.detail or outcome.kind
    if failures >= budget:
        reason = f"{what}; that was infrastructure failure {failures} of {budget} allowed"
        return Verdict(AttemptState.LOST, TaskState.FAILED, reason, infrastructure_failures=1)
    reason = f"{what}; queued again (infrastructure failure {failures} of {budget} allowed)"
    return Verdict(AttemptState.LOST, TaskState.QUEUED, reason, infrastructure_failures=1)


def _after_job_failure(outcome: Outcome, retry: Mapping[str, Any], failures: int, now: datetime) -> Verdict:
    ended = {"timed_out": AttemptState.TIMED_OUT, "killed": AttemptState.KILLED}.get(outcome.kind, AttemptState.FAILED)
    asked = outcome.control or Control()
    what = outcome.detail or _told(outcome)
    if outcome.artifacts is not None:
        what += f", {'' if outcome.artifacts.whole else 'but '}{outcome.artifacts.told}"
    if asked.trouble:
        what += f"; its control file {asked.trouble}, and counts for nothing"
    attempts = retry.get("attempts", 1)
    allowed, why_not = _may_retry(outcome, asked, retry, failures, attempts)
    if not allowed:
        reason = f"{what}; {why_not}" if why_not else what
        return Verdict(ended, TaskState.FAILED, reason, job_failures=1)
    delay_s = asked.retry_after_s
    if delay_s is None:
        delay_s = retry.get("delay", 0.0) * retry.get("backoff", 1.0) ** (failures - 1)
    delay_s = min(delay_s, LONGEST_DELAY_S)
    run_after = now + timedelta(seconds=delay_s) if delay_s >= 0.001 else None
    when = f"in {delay_s:g} s" if run_after else "at once"
    by_wish = ", as it asked" if asked.retry_after_s is not None else ""
    reason = f"{what}; attempt {failures + 1} of {attempts} {when}{by_wish}"
    if asked.params:
        reason += f", with its own {', '.join(sorted(asked.params))[:200]}"
    return Verdict(ended, TaskState.QUEUED, reason, run_after=run_after, job_failures=1, params=asked.params)


def _may_retry(
    outcome: Outcome, asked: Control, retry: Mapping[str, Any], failures: int, attempts: int
) -> tuple[bool, str]:
    """The rule's prohibitions and the budget stand whatever the job asks; what the rule leaves out, it may ask for."""
    if asked.never:
        return False, "no retry: it asked for none"
    code, reason = outcome.exit_code, outcome.reason
    if code is not None and code in retry.get("never_on", []):
        return False, f"no retry: {code} is in never_on"
    if reason in retry.get("never_on_reasons", []):
        return False, f"no retry: {reason} is in never_on_reasons"
    if asked.retry_after_s is None and (why_not := _left_out(outcome, retry)):
        return False, f"no retry: {why_not}"
    if failures >= attempts:
        wished = "it asked for a retry, but " if asked.retry_after_s is not None else ""
        return False, f"{wished}attempt {failures} of {attempts}, none left" if attempts > 1 or wished else ""
    return True, ""


def _left_out(outcome: Outcome, retry: Mapping[str, Any]) -> str:
    """Why the rule's lists do not let this failure be tried again; "" where they do. Either of the two lists suffices;
    exit codes alone say nothing about what ended otherwise."""
    codes, reasons = retry.get("on_exit_codes"), retry.get("on_reasons")
    by_code = codes is not None and outcome.kind == "exited"
    if outcome.reason in (reasons or ()) or (by_code and outcome.exit_code in (codes or ())):
        return ""
    if by_code:
        return f"{outcome.exit_code} is not in on_exit_codes"
    return f"{outcome.reason} is not in on_reasons" if reasons is not None else ""


def _told(outcome: Outcome) -> str:
    if outcome.kind == "timed_out":
        return "over its time limit, ended by TERM"
    if outcome.kind == "killed":
        return "over its time limit, ended by KILL after the grace period"
    if outcome.exit_code is not None and outcome.exit_code < 0:
        return f"ended by signal {-outcome.exit_code}"
    return f"exit status {outcome.exit_code}"
