"""What an attempt's end means: the table of verdicts (law 8)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.jobs.outcomes import Control, Outcome, Verdict, judge
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


@pytest.mark.parametrize(
    ("outcome", "retry", "task", "said"),
    [
        (Outcome("timed_out", -15), {"on_reasons": ["timed_out"]}, "queued", "attempt 2"),
        (Outcome("killed", -9), {"on_reasons": ["timed_out"]}, "failed", "killed is not in on_reasons"),
        (Outcome("exited", -9), {"on_reasons": ["signal"]}, "queued", "attempt 2"),
        (Outcome("exited", -9), {"on_reasons": ["exit"]}, "failed", "signal is not in on_reasons"),
        (FAIL, {"on_reasons": []}, "failed", "exit is not in on_reasons"),
        (FAIL, {"never_on_reasons": ["exit"]}, "failed", "exit is in never_on_reasons"),
        (
            Outcome("killed", -9),
            {"never_on_reasons": ["killed"], "on_reasons": ["killed"]},
            "failed",
            "in never_on_reasons",
        ),
        # Either list suffices; exit codes alone say nothing about other ends.
        (FAIL, {"on_exit_codes": [3], "on_reasons": ["timed_out"]}, "queued", "attempt 2"),
        (Outcome("timed_out", -15), {"on_exit_codes": [3], "on_reasons": ["timed_out"]}, "queued", "attempt 2"),
        (
            Outcome("killed", -9),
            {"on_exit_codes": [3], "on_reasons": ["timed_out"]},
            "failed",
            "killed is not in on_reasons",
        ),
        (FAIL, {"on_exit_codes": [4], "on_reasons": ["timed_out"]}, "failed", "3 is not in on_exit_codes"),
        (FAIL, {"on_exit_codes": [4], "on_reasons": ["exit"]}, "queued", "attempt 2"),
    ],
)
def test_retries_by_reason(outcome: Outcome, retry: dict[str, Any], task: str, said: str) -> None:
    given_ = verdict(outcome, {**THREE, **retry})
    assert given_.task == task
    assert said in given_.reason


NOW_PLEASE, LATER, NEVER = Control(retry_after_s=0.0), Control(retry_after_s=900.0), Control(never=True)


@pytest.mark.parametrize(
    ("outcome", "control", "retry", "failures", "task", "delay_s", "said"),
    [
        (FAIL, NOW_PLEASE, {**THREE, "delay": 60.0}, 0, "queued", 0, "attempt 2 of 3 at once, as it asked"),
        (FAIL, LATER, THREE, 0, "queued", 900, "attempt 2 of 3 in 900 s, as it asked"),
        (FAIL, Control(retry_after_s=9e8), THREE, 0, "queued", 7 * 86400, "as it asked"),
        (FAIL, NEVER, THREE, 0, "failed", 0, "no retry: it asked for none"),
        (FAIL, NOW_PLEASE, {}, 0, "failed", 0, "it asked for a retry, but attempt 1 of 1, none left"),
        (FAIL, NOW_PLEASE, THREE, 2, "failed", 0, "it asked for a retry, but attempt 3 of 3, none left"),
        (FAIL, NOW_PLEASE, {**THREE, "on_exit_codes": [4]}, 0, "queued", 0, "as it asked"),
        (FAIL, NOW_PLEASE, {**THREE, "on_reasons": ["signal"]}, 0, "queued", 0, "as it asked"),
        (FAIL, NOW_PLEASE, {**THREE, "never_on": [3]}, 0, "failed", 0, "3 is in never_on"),
        (FAIL, NOW_PLEASE, {**THREE, "never_on_reasons": ["exit"]}, 0, "failed", 0, "exit is in never_on_reasons"),
        (Outcome("timed_out", -15), LATER, THREE, 0, "queued", 900, "as it asked"),
        (Outcome("killed", -9), NEVER, THREE, 0, "failed", 0, "it asked for none"),
        (
            FAIL,
            Control(trouble="is not JSON"),
            THREE,
            0,
            "queued",
            0,
            "its control file is not JSON, and counts for nothing",
        ),
        (OK, NOW_PLEASE, THREE, 0, "succeeded", 0, "exit status 0"),
        (OK, NEVER, THREE, 0, "succeeded", 0, "exit status 0"),
    ],
)
def test_a_job_has_its_say_within_its_budget(
    outcome: Outcome, control: Control, retry: dict[str, Any], failures: int, task: str, delay_s: float, said: str
) -> None:
    given_ = verdict(replace(outcome, control=control), retry, job_failures=failures)
    assert given_.task == task
    assert given_.run_after == (NOW + timedelta(seconds=delay_s) if delay_s else None)
    assert said in given_.reason
    assert given_.infrastructure_failures == 0


def test_params_go_to_the_next_try_and_only_there() -> None:
    control = Control(params={"FROM": "1200"})
    asked = verdict(replace(FAIL, control=control), {**THREE, "delay": 10.0})
    assert (asked.params, asked.run_after) == ({"FROM": "1200"}, NOW + timedelta(seconds=10)), "the rule's own delay"
    assert "with its own FROM" in asked.reason
    assert verdict(replace(FAIL, control=control)).params is None, "there is no next try"
    assert verdict(FAIL, THREE).params is None, "those of an earlier attempt stay"
    assert verdict(replace(FAIL, control=Control(params={})), THREE).params == {}, "or are taken back"


@pytest.mark.parametrize("kind", ["lost", "start_failed", "returned", "cancelled"])
@pytest.mark.parametrize("control", [NOW_PLEASE, NEVER, Control(params={"A": "b"})])
def test_what_the_machine_did_to_a_job_is_not_the_job_s_to_tell(kind: str, control: Control) -> None:
    assert verdict(Outcome(kind, control=control), THREE) == verdict(Outcome(kind), THREE)


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
            "on_reasons": st.lists(st.sampled_from(["exit", "signal", "timed_out", "killed"])),
            "never_on_reasons": st.lists(st.sampled_from(["exit", "signal", "timed_out", "killed"])),
        },
    ),
    control=st.none()
    | st.builds(Control, st.none() | st.floats(0, 1e9), st.booleans(), st.none() | st.just({"A": "b"}), st.none()),
    job=st.integers(0, 100),
    infrastructure=st.integers(0, 100),
    cancelling=st.booleans(),
)
def test_every_verdict_is_a_step_that_the_doors_allow(
    kind: str,
    code: int | None,
    retry: dict[str, Any],
    control: Control | None,
    job: int,
    infrastructure: int,
    cancelling: bool,
) -> None:
    given_ = verdict(
        Outcome(kind, code, control=control),
        retry,
        cancelling=cancelling,
        job_failures=job,
        infrastructure_failures=infrastructure,
    )
    assert given_.attempt in ATTEMPT_STEPS["running"]
    assert given_.task in TASK_STEPS["running"]
    assert given_.run_after is None or NOW < given_.run_after <= NOW + timedelta(days=7)
    assert given_.job_failures + given_.infrastructure_failures <= 1
    assert given_.run_after is None or given_.task == "queued"
