"""What an attempt's end means: the table of verdicts (law 8)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.jobs.outcomes import Outcome, Verdict, judge
from orchestrator.model.states import ATTEMPT_STEPS, TASK_STEPS

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


def verdict(outcome: Outcome, retry: dict[str, Any] | None = None, *, cancelling: bool = False, **failures: int) -> Verdict:
    counts = {"job_failures": 0, "infrastructure_failures": 0, **failures}
    return judge(outcome, retry or {}, **counts, cancelling=cancelling, now=NOW)


OK, FAIL = Outcome("exited", 0), Outcome("exited", 3)
THREE = {"attempts": 3}


@pytest.mark.parametrize(
    ("outcome", "retry", "failures", "attempt", "task", "budgets"),
    [
        (OK, {}, {}, "succeeded", "succeeded", (0, 0)),
        (OK, THREE, {"job_failures": 2}, "succeeded", "succeeded", (0, 0)),
        (FAIL, {}, {}, "failed", "failed", (1, 0)),
        (FAIL, THREE, {}, "failed", "queued", (1, 0)),
        (FAIL, THREE, {"job_failures": 1}, "failed", "queued", (1, 0)),
        (FAIL, THREE, {"job_failures": 2}, "failed", "failed", (1, 0)),
        (FAIL, THREE, {"infrastructure_failures": 2}, "failed", "queued", (1, 0)),
        (FAIL, {**THREE, "never_on": [3]}, {}, "failed", "failed", (1, 0)),
        (FAIL, {**THREE, "on_exit_codes": [4]}, {}, "failed", "failed", (1, 0)),
        (FAIL, {**THREE, "on_exit_codes": [3]}, {}, "failed", "queued", (1, 0)),
        (FAIL, {**THREE, "on_exit_codes": [3], "never_on": [3]}, {}, "failed", "failed", (1, 0)),
        (FAIL, {**THREE, "on_exit_codes": []}, {}, "failed", "failed", (1, 0)),
        (Outcome("exited", -9), THREE, {}, "failed", "queued", (1, 0)),
        (Outcome("timed_out", -15), THREE, {}, "timed_out", "queued", (1, 0)),
        (Outcome("timed_out", 0), {}, {}, "timed_out", "failed", (1, 0)),
        (Outcome("killed", -9), {**THREE, "on_exit_codes": [3]}, {}, "killed", "queued", (1, 0)),
        (Outcome("killed", -9), {}, {}, "killed", "failed", (1, 0)),
        (Outcome("lost"), {}, {}, "lost", "queued", (0, 1)),
        (Outcome("lost"), {}, {"infrastructure_failures": 1}, "lost", "queued", (0, 1)),
        (Outcome("lost"), {}, {"infrastructure_failures": 2}, "lost", "failed", (0, 1)),
        (Outcome("lost"), {"infrastructure_attempts": 1}, {}, "lost", "failed", (0, 1)),
        (Outcome("start_failed"), {}, {"job_failures": 9}, "lost", "queued", (0, 1)),
        (Outcome("returned"), {}, {}, "cancelled", "queued", (0, 0)),
        (Outcome("cancelled", -15), {}, {}, "cancelled", "queued", (0, 0)),
    ],
)
def test_the_table(
    outcome: Outcome, retry: dict[str, Any], failures: dict[str, int], attempt: str, task: str, budgets: tuple[int, int]
) -> None:
    given_ = verdict(outcome, retry, **failures)
    assert (given_.attempt, given_.task) == (attempt, task)
    assert (given_.job_failures, given_.infrastructure_failures) == budgets
    assert given_.reason


@pytest.mark.parametrize("kind", ["exited", "timed_out", "killed", "lost", "start_failed", "returned", "cancelled"])
def test_nothing_is_tried_again_once_cancelled(kind: str) -> None:
    given_ = verdict(Outcome(kind, 1), {"attempts": 9, "infrastructure_attempts": 9}, cancelling=True)
    assert given_.task == "cancelled"
    assert (given_.job_failures, given_.infrastructure_failures) == (0, 0)


def test_what_was_done_before_the_cancel_came_counts() -> None:
    assert verdict(OK, cancelling=True).task == "succeeded"


@pytest.mark.parametrize("code", [1, 75, 137, 255, -9])
def test_a_job_cannot_forge_an_infrastructure_failure(code: int) -> None:
    """Whatever a process returns, its own budget pays."""
    given_ = verdict(Outcome("exited", code, detail="node lost, please"), {"infrastructure_attempts": 99})
    assert (given_.task, given_.job_failures, given_.infrastructure_failures) == ("failed", 1, 0)


@pytest.mark.parametrize(("failures", "delay_s"), [(0, 10), (1, 20), (2, 40), (3, 80)])
def test_delay_and_back_off(failures: int, delay_s: float) -> None:
    given_ = verdict(FAIL, {"attempts": 9, "delay": 10.0, "backoff": 2.0}, job_failures=failures)
    assert given_.run_after == NOW + timedelta(seconds=delay_s)
    assert f"in {delay_s} s" in given_.reason


def test_no_delay_is_at_once() -> None:
    given_ = verdict(FAIL, THREE)
    assert given_.run_after is None
    assert given_.reason == "exit status 3; attempt 2 of 3 at once"


def test_the_longest_delay_is_a_week() -> None:
    given_ = verdict(FAIL, {"attempts": 100, "delay": 9e8, "backoff": 10.0}, job_failures=98)
    assert given_.run_after == NOW + timedelta(days=7)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (FAIL, "exit status 3"),
        (Outcome("exited", -11), "ended by signal 11"),
        (Outcome("timed_out", -15), "over its time limit, ended by TERM"),
        (Outcome("killed", -9), "ended by KILL after the grace period"),
        (Outcome("lost", detail="node 7 ended (vanished)"), "node 7 ended (vanished)"),
        (
            Outcome("start_failed", detail="no such user"),
            "no such user; queued again (infrastructure failure 1 of 3 allowed)",
        ),
    ],
)
def test_reasons_are_sentences(outcome: Outcome, said: str) -> None:
    assert said in verdict(outcome).reason


@given(
    kind=st.sampled_from(["exited", "timed_out", "killed", "lost", "start_failed", "returned", "cancelled"]),
    code=st.one_of(st.none(), st.integers(-255, 2**31 - 1)),
    retry=st.fixed_dictionaries(
        {},
        optional={
            "attempts": st.integers(1, 100),
            "delay": st.floats(0, 1e9),
            "backoff": st.floats(1, 10),
            "infrastructure_attempts": st.integers(1, 100),
        },
    ),
    job=st.integers(0, 100),
    infrastructure=st.integers(0, 100),
    cancelling=st.booleans(),
)
def test_every_verdict_is_a_step_that_the_doors_allow(
    kind: str, code: int | None, retry: dict[str, Any], job: int, infrastructure: int, cancelling: bool
) -> None:
    given_ = verdict(
        Outcome(kind, code), retry, cancelling=cancelling, job_failures=job, infrastructure_failures=infrastructure
    )
    assert given_.attempt in ATTEMPT_STEPS["running"]
    assert given_.task in TASK_STEPS["running"]
    assert given_.run_after is None or NOW < given_.run_after <= NOW + timedelta(days=7)
    assert given_.job_failures + given_.infrastructure_failures <= 1
    assert given_.run_after is None or given_.task == "queued"
