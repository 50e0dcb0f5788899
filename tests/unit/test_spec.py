"""The job file: every mistake is refused with its path and its fix, and nothing but a mistake is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.jobs.duration import seconds
from orchestrator.jobs.spec import JobSpec, SpecError, parse

ONE = {"name": "job", "client": "acme", "run": "true"}


def job(**values: Any) -> dict[str, Any]:
    return {**ONE, **values}


def tasks(*units: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {"name": "job", "client": "acme", "tasks": list(units), **values}


def problems(document: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as refused:
        parse(document)
    assert str(refused.value)
    return dict(refused.value.problems)


A = {"name": "a", "run": "true"}


@pytest.mark.parametrize(
    ("document", "path", "fix"),
    [
        ([], "$", "begin with name:, client: and run: or tasks:"),
        ("just text", "$", "begin with name:"),
        ("", "$", "begin with name:"),
        ("name: [\n", "line 2, column 1", "mend it there"),
        ("name: x\n\tclient: y", "line 2, column 1", "mend it there"),
        (b"\xff\xfe\x00", "$", "not valid YAML"),
        ({"client": "acme", "run": "true"}, "name", "is missing; add name:"),
        ({"name": "job", "run": "true"}, "client", "is missing; add client:"),
        ({"name": "job", "client": "acme"}, "tasks", "is missing; add tasks:"),
        (job(client="with space"), "client", "pattern"),
        (job(name="-begins-badly"), "name", "pattern"),
        (job(name=5), "name", "string"),
        (job(nmae="typo"), "nmae", "unknown field; remove it or mend its spelling"),
        (job(tasks=[A]), "$", "run and tasks exclude each other; move the command into a task"),
        (tasks(), "tasks", "at least 1"),
        (tasks({"name": "a"}), "tasks[0]", "add run: './command', or kind: deploy / undeploy"),
        (tasks({"name": "a", "kind": "deploy", "run": "x"}), "tasks[0]", "remove run"),
        (tasks({"name": "a", "kind": "sleep"}), "tasks[0].kind", "'run', 'deploy' or 'undeploy'"),
        (tasks(A, {"name": "a", "run": "true"}), "tasks", "the name 'a' stands twice; give each task its own"),
        (tasks({**A, "needs": ["b"]}), "tasks[0].needs[0]", "no task is named 'b'; the tasks are a"),
        (tasks({**A, "needs": ["a"]}), "tasks", "needs go in a circle: a → a; remove one of them"),
        (tasks({**A, "needs": ["b"]}, {"name": "b", "run": "x", "needs": ["a"]}), "tasks", "circle"),
        (tasks({**A, "when": "ok(b)"}), "tasks[0].when", "no task is named 'b'; the tasks are a"),
        (tasks({**A, "when": "ok(a)"}), "tasks", "needs go in a circle: a → a"),
        (tasks({**A, "when": "ok(a"}), "tasks[0].when", "is no expression"),
        (tasks({**A, "array": 2}, {"name": "b", "run": "x", "when": "result(a) == 0"}), "tasks[1].when", "such as a[0]"),
        (tasks({**A, "array": 2}, {"name": "b", "run": "x", "needs": ["a[2]"]}), "tasks[1].needs[0]", "no task is named"),
        (tasks({**A, "array": 0}), "tasks[0].array", "a number of elements such as 100"),
        (tasks({**A, "array": True}), "tasks[0].array", "a number of elements such as 100"),
        (tasks({**A, "array": "9-1"}), "tasks[0].array", 'such as "0-99"'),
        (tasks({**A, "array": 10_001}), "tasks[0].array", "makes 10001 tasks; a job has at most 10000"),
        (tasks({**A, "array": "0-999999999"}), "tasks[0].array", "makes 1000000000 tasks"),
        (tasks({**A, "array": 9_999}, {"name": "b", "run": "x", "array": 2}), "tasks", "make 10001 tasks"),
        (tasks({**A, "array": 2, "matrix": {"OS": [1]}}), "tasks[0]", "exclude each other"),
        (tasks({**A, "matrix": {"OS": []}}), "tasks[0].matrix.OS", "at least 1"),
        (tasks({**A, "matrix": {"A": list(range(200)), "B": list(range(200))}}), "tasks[0].matrix", "makes 40000 tasks"),
        (tasks({**A, "matrix": {"OS": [1], "exclude": [{"OS": 1}]}}), "tasks[0].matrix", "leave some"),
        (tasks({**A, "matrix": {"OS": [1], "exclude": [{"ARCH": 1}]}}), "tasks[0]", "such as {OS: value}"),
        (tasks({**A, "array": 500}, {"name": "b", "run": "x", "array": 500, "needs": ["a"]}), "tasks[1].needs", "250000 pairs"),
        (tasks({"name": "a", "kind": "deploy", "token": "t", "array": 2}), "tasks[0]", "remove array and matrix"),
        (tasks({**A, "until": "ok(a)"}), "tasks[0].until", "unknown field"),
        (job(priority=1001), "priority", "1000"),
        (job(priority=True), "priority", "integer"),
        (job(priority="high"), "priority", "integer"),
        (job(params={"1X": "y"}), "params.1X.[key]", "pattern"),
        (job(params={"N": 5}), "params.N", "put it in quotes, or say its type: {type: integer, default: 5}"),
        (job(params={"N": {"type": "integer", "default": "x"}}), "params.N", "'x' is no integer; write one such as 5"),
        (job(params={"N": {"type": "number", "default": "nan"}}), "params.N", "is no number; write one such as 0.5"),
        (job(params={"N": {"type": "boolean", "default": "yes"}}), "params.N", "write true or false"),
        (job(params={"N": {"type": "choice", "choices": ["a"], "default": "b"}}), "params.N", "write one of a"),
        (job(params={"N": {"type": "choice"}}), "params.N", "write {type: choice, choices: [a, b]}"),
        (job(params={"N": {"choices": ["a"]}}), "params.N", "write {type: choice, choices: [a, b]}"),
        (job(params={"N": {"secret": True, "default": "hush"}}), "params.N", "a secret has no default in the file"),
        (job(params={"N": {"secret": True, "type": "integer"}}), "params.N", "a secret is text; remove type"),
        (job(params={"N": {"kind": "text"}}), "params.N.kind", "unknown field"),
        (job(schedule="sometimes"), "schedule", "write now, never, or one such as"),
        (job(schedule={}), "schedule", "write one of daily, weekly, monthly and cron"),
        (job(schedule={"daily": "05:00", "cron": "0 5 * * *"}), "schedule", "says daily and cron"),
        (job(schedule={"daily": 750}), "schedule.daily[0]", 'write "05:00", in quotes'),
        (job(schedule={"daily": ["05:00", "25:00"]}), "schedule.daily[1]", 'write "05:00", in quotes'),
        (job(schedule={"weekly": "monday 05:00"}), "schedule.weekly[0]", 'write "mon 05:00", in quotes'),
        (job(schedule={"monthly": "32 05:00"}), "schedule.monthly[0]", 'write "1 05:00", in quotes'),
        (job(schedule={"cron": "0 5 * *"}), "schedule.cron", "has 4 fields; write five"),
        (job(schedule={"cron": "0 24 * * *"}), "schedule.cron", "'24' is no hour; write *, 0-23, a list, or */5"),
        (job(schedule={"cron": "5-1 * * * *"}), "schedule.cron", "'5-1' is no minute"),
        (job(schedule={"daily": "05:00", "timezone": "Mars"}), "schedule.timezone", "such as Europe/Paris or UTC"),
        (job(description=5), "description", "string"),
        (job(env={"A": "x" * 32_769}), "env.A", "32768"),
        (job(timeout="soon"), "timeout.after", "such as 15m"),
        (job(timeout=-1), "timeout.after", "such as 15m"),
        (job(timeout={"after": "1m", "grace": "1 week"}), "timeout.grace", "such as 15m"),
        (job(timeout={"grace": "1s"}), "timeout.after", "is missing; add after:"),
        (job(timeout="9" * 400 + "d"), "timeout.after", "such as 15m"),
        (job(retry={"attempts": 0}), "retry.attempts", "1"),
        (job(retry={"attempts": 101}), "retry.attempts", "100"),
        (job(retry={"backoff": 0.5}), "retry.backoff", "1"),
        (job(retry={"backoff": float("nan")}), "retry.backoff", ""),
        (job(retry={"delay": float("inf")}), "retry.delay", "such as 15m"),
        (job(retry={"on_exit_codes": [2**70]}), "retry.on_exit_codes[0]", ""),
        (job(retry={"never_on": ["1"]}), "retry.never_on[0]", "integer"),
        (job(retry={"on_reasons": ["lost"]}), "retry.on_reasons[0]", "'exit', 'signal', 'timed_out' or 'killed'"),
        (job(retry={"never_on_reasons": "exit"}), "retry.never_on_reasons", "list"),
        (job(infrastructure={"count": 0}), "infrastructure.count", "1"),
        (job(infrastructure={"count": 1001}), "infrastructure.count", "1000"),
        (job(infrastructure={"count": "2"}), "infrastructure.count", "integer"),
        (job(infrastructure={"count": True}), "infrastructure.count", "integer"),
        (job(infrastructure={"size": "LARGE"}), "infrastructure.size", "unknown field"),
        (job(infrastructure={"operation": "DEPLOY"}), "infrastructure.operation", "'deploy'"),
        (job(token="a/b"), "token", "pattern"),
        (job(token=""), "token", "pattern"),
        (job(token="x${JOB_ID}"), "token", "pattern"),
        (job(token="x$TODAY"), "token", "only $JOB_ID is replaced"),
        (job(token="x$"), "token", "only $JOB_ID is replaced"),
        (job(run="a\0b"), "$.run", "NUL byte"),
        (job(env={"A": "\ud800"}), "$.env.A", "surrogate"),
        (job(env={"A\0": "x"}), "$.env, a key", "NUL byte"),
        (job(generic_information={"IAAS_INSTANCE_NB": 2**70}), "generic_information.IAAS_INSTANCE_NB.constrained-int", ""),
    ],
)  # fmt: skip
def test_refused_with_path_and_fix(document: Any, path: str, fix: str) -> None:
    found = problems(document)
    assert path in found, found
    assert fix in found[path], found


def test_all_mistakes_are_told_at_once() -> None:
    found = problems(tasks({**A, "needs": ["x"]}, {"name": "b", "run": "t", "needs": ["y"]}, infrastructure={"count": 1}))
    assert {"tasks[0].needs[0]", "tasks[1].needs[0]", "infrastructure.pool"} <= set(found)


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "out/../../*", "out//a", "out/", "", "a\\b", "x" * 201])
def test_artifacts_lie_below_the_work_folder(pattern: str) -> None:
    assert set(problems(job(artifacts=["*.csv", pattern]))) == {"tasks[0].artifacts[1]"}
    assert parse(job(artifacts=["*.csv", "out/**"], artifacts_on="always")).tasks[0].artifacts == ["*.csv", "out/**"]
    assert "leaves no files" in str(problems(tasks({"name": "a", "kind": "deploy", "token": "t", "artifacts": ["a"]})))


def test_one_task_may_stand_alone() -> None:
    spec = parse(ONE)
    assert [(task.name, task.run) for task in spec.tasks] == [("job", "true")]
    assert parse("name: job\nclient: acme\nrun: 'true'\n") == spec
    assert parse(json.dumps(ONE)) == spec
    assert parse(json.dumps(ONE).encode()) == spec
    assert parse(tasks({"name": "job", "run": "true"})) == spec


def test_a_canonical_file_parses_to_itself() -> None:
    document = tasks(
        {**A, "env": {"X": "1"}, "timeout": {"after": "30m", "grace": "20s"}, "retry": {"attempts": 3, "delay": "15m"}},
        {"name": "b", "run": "x", "needs": ["a"], "token": "t", "infrastructure": {"count": 1}},
        infrastructure={"pool": "p", "count": 2, "token": "j-$JOB_ID", "operation": "deploy_and_undeploy"},
        params={"REGION": "eu"},
        timeout="2h",
        priority=3,
    )
    spec = parse(document)
    assert parse(spec.model_dump(mode="json", exclude_none=True)) == spec
    assert spec.timeout is not None
    assert (spec.timeout.after, spec.timeout.grace) == (7200, 10)


def test_a_diamond_of_names_in_any_order() -> None:
    last = {"name": "z", "run": "x", "needs": ["b", "c", "b"]}
    parse(tasks(last, {"name": "b", "run": "x", "needs": ["a"]}, {"name": "c", "run": "x", "needs": ["a"]}, A))


def test_ten_thousand_tasks_and_no_more() -> None:
    many = [{"name": f"t{i}", "run": "x", **({"needs": [f"t{i - 1}"]} if i else {})} for i in range(10_000)]
    assert len(parse(tasks(*many)).tasks) == 10_000
    assert "tasks" in problems(tasks(*many, {"name": "one-more", "run": "x"}))


# ---- files that want to break the reader -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "name: &a {x: *a}",
        "env: &e {A: *e}\nname: x\nclient: c\nrun: r",
        "needs: " + "[" * 500 + "]" * 500,
        "[" * 3000,
        "{" * 3000,
        "a: 0x" + "f" * 6000,
        "0x" + "f" * 6000 + ": a",
        "priority: 0x" + "f" * 6000 + "\nname: x\nclient: c\nrun: r",
        "? [a, b]\n: c",
        "? {a: b}\n: c",
        "name: 2024-13-45",
        "name: 2024-01-01\nclient: c\nrun: r",
        "1: 2\nname: x\nclient: c\nrun: r",
        "null: 2\nname: x\nclient: c\nrun: r",
        "!!python/object/apply:os.system ['true']",
        "<<: 5",
        "--- a\n--- b",
        "name: !!set {a, b}\nclient: c\nrun: r",
        "- " * 2000,
    ],
)
def test_hostile_yaml_is_refused_in_words(text: str) -> None:
    assert problems(text)


def test_a_bomb_of_aliases_is_refused_quickly() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    found = problems(bomb + "name: x\nclient: c\nrun: r\nenv: {A: *a29}")
    assert "aliases are resolved" in found["$"]


def test_shared_anchors_are_fine() -> None:
    text = "name: j\nclient: c\ntasks:\n- &t {name: a, run: r, env: &e {A: b}}\n- {name: b, run: r, env: *e}\n"
    assert parse(text).tasks[1].env == {"A": "b"}


WORDS = st.sampled_from(
    ["name", "client", "run", "tasks", "needs", "kind", "token", "infrastructure", "generic_information", "env", "params",
     "retry", "timeout", "priority", "pool", "count", "operation", "deploy", "IAAS_INSTANCE_NB", "NODE_ACCESS_TOKEN",
     "attempts", "after", "a", "b", "$JOB_ID", "job", "acme"]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), WORDS, st.sampled_from(["2h", "15m", "-1"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(WORDS, st.text(max_size=5), st.integers()), inner, max_size=5),
    ),
    max_leaves=12,
)
TASKS = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "c"])},
    optional={
        "run": st.just("true"), "kind": st.sampled_from(["run", "deploy", "undeploy"]), "token": WORDS,
        "needs": st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=2), "infrastructure": VALUES,
        "generic_information": st.dictionaries(WORDS, SCALARS, max_size=3), "timeout": VALUES, "retry": VALUES,
    },
)  # fmt: skip
JOBS = st.fixed_dictionaries(
    {"name": st.just("job"), "client": st.just("acme"), "tasks": st.lists(TASKS, min_size=1, max_size=3)},
    optional={"token": WORDS, "infrastructure": VALUES, "generic_information": VALUES, "env": VALUES, "params": VALUES},
)


def storable(spec: JobSpec) -> None:
    """What is accepted can be written down."""
    import orjson

    orjson.dumps(spec.model_dump(mode="json"))


def parses_or_refuses(document: Any) -> None:
    try:
        spec = parse(document)
    except SpecError as error:
        assert error.problems
        for path, message in error.problems:
            assert path
            assert message
            f"{path}: {message}".encode()
    else:
        assert isinstance(spec, JobSpec)
        storable(spec)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_any_value(document: Any) -> None:
    parses_or_refuses(document)


@settings(max_examples=120, deadline=None)
@given(JOBS)
def test_nearly_right_jobs(document: Any) -> None:
    parses_or_refuses(document)


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(st.text(max_size=60), st.binary(max_size=60), JOBS.map(lambda job: yaml.safe_dump(job, allow_unicode=True)))
)
def test_any_text(text: str | bytes) -> None:
    parses_or_refuses(text)


# ---- durations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [(90, 90), (0, 0), (1.5, 1.5), ("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("1.5h", 5400),
     (" 10 m ", 600)],
)  # fmt: skip
def test_durations(written: Any, meant: float) -> None:
    assert seconds(written) == meant


@pytest.mark.parametrize(
    "written", [-1, "-1", "", "m", "1w", "1h30m", "1e3", True, None, [], float("nan"), float("inf"), 1e9, "99999d", "²h"]
)
def test_no_durations(written: Any) -> None:
    with pytest.raises(ValueError, match="such as 15m"):
        seconds(written)
