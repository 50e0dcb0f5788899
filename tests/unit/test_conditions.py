"""Conditions: what they say of facts, what is refused with its fix, and that nothing else gets through."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.jobs.conditions import ConditionError, Facts, TaskFact, evaluate, first_at, parse

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
FACTS = Facts(
    now=NOW,
    submitted_at=NOW.replace(hour=7),
    tasks={
        "good": [TaskFact("succeeded", 0, {"ROWS": "12", "NAME": "it's"})],
        "bad": [TaskFact("failed", 3)],
        "left-out": [TaskFact("skipped")],
        "shard": [TaskFact("succeeded", 0), TaskFact("failed", 1)],
        "shard[1]": [TaskFact("failed", 1)],
        "shards": [TaskFact("succeeded", 0), TaskFact("succeeded", 0)],
    },
    others={("nightly", "load"): [TaskFact("succeeded", 0, {"DAY": "monday"})]},
    ends={"nightly": "succeeded"},
    outcome="failed",
    params={"REGION": "eu"},
)


@pytest.mark.parametrize(
    "text",
    [
        "ok(good)",
        "ok('good') and not ok(bad) and not ok('left-out')",
        "err(bad) and not err(good) and not err('left-out')",
        "finished(good) and finished(bad) and not finished('left-out')",
        "result(bad) == 3",
        "result(bad) in (3, 4) and result(good) not in [3, 4]",
        "0 <= result(good) < 3 <= result(bad)",
        "result('left-out') == None and not result('left-out') < 1 and not result('left-out') >= 1",
        "output(good, 'ROWS') == '12'",
        "number(output(good, 'ROWS')) > 9.5",
        "number(output(good, 'NAME')) == None",
        "output(good, 'NOTHING') == None",
        'output(good, NAME) == "it\'s"',
        "ok(shards) and finished(shard) and err(shard) and not ok(shard) and err(shard[1])",
        "ok('nightly', 'load') and ok(nightly, load) and result(nightly, load) == 0",
        "output('nightly', 'load', 'DAY') == 'monday'",
        "not ok('nightly', 'other') and not err('weekly', 'load') and not finished('weekly', 'load')",
        "job_end('nightly') == 'succeeded' and job_end('weekly') == None",
        "job_end() == 'failed'",
        "param('REGION') == 'eu' and param(ZONE) == None",
        "before('08:01') and after('08:00') and before('06:30')",
        "before('10:00', 'Europe/Paris') and after('09:00', 'Europe/Paris')",
        "  ok(good)  ",
    ],
)
def test_it_holds(text: str) -> None:
    assert evaluate(text, FACTS).holds, evaluate(text, FACTS)


def test_it_tells_what_it_looked_at_and_nothing_twice() -> None:
    told = evaluate("ok(good) and ok(good) and (result(bad) == 0 or number(output(bad, 'N')) == 1)", FACTS)
    assert (told.holds, told.told) == (False, "ok(good) = true, result(bad) = 3, output(bad, N) = unknown")


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("", "is no expression"),
        ("ok(", "write one such as ok(extract)"),
        ("x = 1", "is no expression"),
        ("a", "unknown name 'a'; write ok(a)"),
        ("ok", "unknown name 'ok'"),
        ("okay(a)", "unknown function 'okay'; there are ok(), err()"),
        ("ok()", "write ok(task)"),
        ("ok(a, b, c)", "write ok(task)"),
        ("ok(task=a)", "plain arguments"),
        ("ok(*a)", "plain arguments"),
        ("ok(load-2)", "not load - 2; write a name such as 'load-2' in quotes"),
        ("ok(1)", "wants plain names, not 1"),
        ("ok(ok(a))", "wants plain names"),
        ("output(a)", 'write output(task, "KEY")'),
        ("before('25:00')", "write before("),
        ("before('8:00')", "write before("),
        ("before('08:00', 'Paris')", "write before("),
        ("before('08:00', '../../etc/passwd')", "write before("),
        ("job_end(a, b)", "write job_end("),
        ("param()", "write param("),
        ("ok(a).x", "may not have Attribute"),
        ("ok(a)[0]", "may not have Subscript"),
        ("[x for x in ok(a)]", "may not have ListComp"),
        ("lambda: 1", "may not have Lambda"),
        ("f'{1}'", "may not have JoinedStr"),
        ("9**9**9", "may not have BinOp"),
        ("ok.__class__(a)", "unknown function 'there'"),
        ("b'x' == 1", "may not have b'x'"),
        ("not " * 30 + "1", "nested more than 20 deep"),
        ("(" * 150 + "1" + ")" * 150 + " == " + "1", ""),
        ("ok(a) and " * 200 + "ok(a)", "1000 are the most"),
    ],
)
def test_it_is_refused_with_its_fix(text: str, fix: str) -> None:
    if fix == "":  # the parser's own limits: any answer but a crash
        parse(text)
        return
    with pytest.raises(ConditionError) as refused:
        parse(text)
    assert fix in str(refused.value)


def test_text_against_number_says_how_to_mend_it() -> None:
    with pytest.raises(ConditionError, match=r"cannot be decided: .*output\(good, ROWS\) = 12.*number"):
        evaluate("output(good, 'ROWS') > 9", FACTS)


def test_what_it_asks_about_is_known_without_evaluating_it() -> None:
    asked = parse("ok(a) or result('b-2') == 1 or err(nightly, 'c') or job_end() == 'x' or job_end('weekly') == 'y'")
    assert (asked.tasks, asked.single) == ({"a", "b-2"}, {"b-2"})
    assert (asked.others, asked.jobs, asked.at_the_end) == ({("nightly", "c")}, {"weekly"}, True)


@given(st.text(max_size=60) | st.text(alphabet="ok(a) and_orn.[]'\"=<1,lt-*", max_size=60))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        parse(text)
        evaluate(text, FACTS)
    except ConditionError as error:
        assert str(error)


_values: Any = st.one_of(
    st.sampled_from(["ok(good)", "err(bad)", "finished('left-out')", "result(bad)", "number('7')", "output(good, 'ROWS')"]),
    st.integers(-5, 5).map(str),
)
_expressions = st.recursive(
    _values,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or", "==", "!=", "<", ">="]), inner).map(lambda t: f"({' '.join(t)})"),
        inner.map(lambda each: f"(not {each})"),
    ),
    max_leaves=6,
)


@given(_expressions)
def test_the_library_agrees_with_python(text: str) -> None:
    """Where nothing is unknown, an expression means what it means in Python."""
    plain = text
    for call, value in [("ok(good)", "True"), ("err(bad)", "True"), ("finished('left-out')", "False"), ("result(bad)", "3"),
                        ("number('7')", "7"), ("output(good, 'ROWS')", "'12'")]:  # fmt: skip
        plain = plain.replace(call, value)
    try:
        expected: object = bool(eval(plain, {}))
    except TypeError:
        expected = ConditionError
    try:
        found: object = evaluate(text, FACTS).holds
    except ConditionError:
        found = ConditionError
    assert found == expected


def test_times_are_the_next_after_the_submission() -> None:
    def at(clock: str, zone: str, *since: int) -> datetime:
        return first_at(clock, zone, datetime(*since, tzinfo=UTC))  # type: ignore[misc, arg-type]

    assert at("05:00", "UTC", 2026, 3, 2, 23, 30) == datetime(2026, 3, 3, 5, 0, tzinfo=UTC)
    assert at("05:00", "UTC", 2026, 3, 2, 5, 0) == datetime(2026, 3, 3, 5, 0, tzinfo=UTC)
    assert at("05:00", "UTC", 2026, 3, 2, 4, 59) == datetime(2026, 3, 2, 5, 0, tzinfo=UTC)
    summer = at("05:00", "Europe/Paris", 2026, 3, 28, 20)  # the clocks go forward in that night
    assert summer == datetime(2026, 3, 29, 3, 0, tzinfo=UTC)
