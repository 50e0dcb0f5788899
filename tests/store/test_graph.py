"""The graph of a job: what becomes ready, what is skipped, how it ends; drawn by hand and at random."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.agents.claims import claim, holder, orders_for
from orchestrator.agents.results import Result, accept, lose_attempts
from orchestrator.jobs.outcomes import Outcome
from orchestrator.jobs.progress import job_outcome
from orchestrator.model.tables import Attempt, Event, Job, Node, Task

if TYPE_CHECKING:
    from conftest import Store

DIAMOND = [
    {"name": "a", "run": "true"},
    {"name": "b", "run": "true", "needs": ["a"]},
    {"name": "c", "run": "true", "needs": ["a"]},
    {"name": "d", "run": "true", "needs": ["b", "c"]},
    {"name": "e", "run": "true", "needs": ["d"]},
]


def diamond(store: Store) -> tuple[int, int]:
    node = store.node(store.pool())
    return store.submit({"name": "diamond", "client": "acme", "tasks": DIAMOND}), node


def test_a_diamond_opens_from_top_to_bottom(store: Store) -> None:
    job, node = diamond(store)
    assert store.task_states(job) == dict(a="queued", b="waiting", c="waiting", d="waiting", e="waiting")
    assert store.run_one(node) == "a"
    assert store.task_states(job) == dict(a="succeeded", b="queued", c="queued", d="waiting", e="waiting")
    assert store.run_one(node) == "b"
    assert store.task_states(job)["d"] == "waiting"
    assert store.run_one(node) == "c"
    assert store.task_states(job)["d"] == "queued"
    assert store.run_one(node) == "d"
    assert store.run_one(node) == "e"
    assert store.run_one(node) is None
    assert store.state(Job, job) == "succeeded"
    store.check_counters()


def test_two_needs_done_in_one_transaction(store: Store) -> None:
    job, node = diamond(store)
    store.run_one(node)
    both = store.claim(node, 2)
    store.write(lambda tx: accept(tx, node, [Result(attempt, Outcome("exited", 0)) for attempt in both]))
    assert store.task_states(job)["d"] == "queued"
    store.check_counters()


def test_a_failure_skips_what_needs_it_and_nothing_else(store: Store) -> None:
    job, node = diamond(store)
    store.run_one(node)
    assert store.run_one(node, exit_code=1) == "b"
    assert store.task_states(job) == dict(a="succeeded", b="failed", c="queued", d="skipped", e="skipped")
    assert store.state(Job, job) == "running"
    assert store.run_one(node) == "c"
    assert store.state(Job, job) == "failed"
    reasons = {row.name: row.reason for row in store.rows(Task)}
    assert reasons["d"] == "needs b, which failed"
    assert reasons["e"] == "needs d, which was skipped"
    store.check_counters()


def test_a_retry_keeps_its_dependents_waiting(store: Store) -> None:
    node = store.node(store.pool())
    tasks = [{"name": "a", "run": "true", "retry": {"attempts": 2}}, {"name": "b", "run": "true", "needs": ["a"]}]
    job = store.submit({"name": "j", "client": "acme", "tasks": tasks})
    store.run_one(node, exit_code=1)
    assert store.task_states(job) == dict(a="queued", b="waiting")
    store.run_one(node)
    assert store.task_states(job) == dict(a="succeeded", b="queued")
    store.check_counters()


def test_a_lost_node_puts_its_tasks_back(store: Store) -> None:
    job, node = diamond(store)
    store.run_one(node)
    store.claim(node, 2)
    store.write(lambda tx: lose_attempts(tx, node, "gone"))
    assert store.task_states(job) == dict(a="succeeded", b="queued", c="queued", d="waiting", e="waiting")
    store.check_counters()


def test_cancel_before_anything_ran(store: Store) -> None:
    job, node = diamond(store)
    assert store.cancel(job)
    assert set(store.task_states(job).values()) == {"cancelled"}
    assert store.state(Job, job) == "cancelled"
    assert store.claim(node) == []
    assert not store.cancel(job)
    store.check_counters()


def test_cancel_while_one_runs(store: Store) -> None:
    job, node = diamond(store)
    store.run_one(node)
    (attempt,) = store.claim(node)
    assert store.cancel(job)
    assert store.task_states(job) == dict(a="succeeded", b="running", c="cancelled", d="cancelled", e="cancelled")
    assert store.state(Job, job) == "running"
    assert store.cancel(job)  # asking twice is fine
    assert len(store.rows(Event, subject="job", reason="cancel requested")) == 1
    store.report(node, attempt, "cancelled")
    assert store.state(Job, job) == "cancelled"
    store.check_counters()


def test_cancel_while_one_waits_for_its_next_try(store: Store) -> None:
    node = store.node(store.pool())
    job = store.job(retry={"attempts": 5, "delay": "1h"})
    store.run_one(node, exit_code=1)
    assert store.cancel(job)
    assert store.state(Job, job) == "cancelled"
    store.check_counters()


def test_a_node_lost_after_cancel_brings_nothing_back(store: Store) -> None:
    job, node = diamond(store)
    store.claim(node)
    store.cancel(job)
    store.write(lambda tx: lose_attempts(tx, node, "gone"))
    assert store.state(Job, job) == "cancelled"
    assert store.states(Attempt) == ["lost"]
    store.check_counters()


def test_cancel_of_an_ended_job(store: Store) -> None:
    job = store.job()
    store.run_one(store.node(store.pool()))
    before = store.count(Event)
    assert not store.cancel(job)
    assert store.state(Job, job) == "succeeded"
    assert store.count(Event) == before


def test_a_long_chain_is_skipped_in_one_go(store: Store) -> None:
    node = store.node(store.pool())
    tasks = [{"name": "t0", "run": "true"}]
    tasks += [{"name": f"t{i}", "run": "true", "needs": [f"t{i - 1}"]} for i in range(1, 60)]
    job = store.submit({"name": "chain", "client": "acme", "tasks": tasks})
    store.run_one(node, exit_code=1)
    assert store.state(Job, job) == "failed"
    assert list(store.task_states(job).values()) == ["failed"] + ["skipped"] * 59
    store.check_counters()


def test_more_dependents_than_one_query_takes(store: Store) -> None:
    node = store.node(store.pool())
    tasks = [{"name": "first", "run": "true"}]
    tasks += [{"name": f"t{i}", "run": "true", "needs": ["first"]} for i in range(1200)]
    tasks += [{"name": "last", "run": "true", "needs": [f"t{i}" for i in range(1200)]}]
    job = store.submit({"name": "wide", "client": "acme", "tasks": tasks})
    store.run_one(node)
    states = store.task_states(job)
    assert list(states.values()).count("queued") == 1200
    assert states["last"] == "waiting"
    store.cancel(job)
    assert store.state(Job, job) == "cancelled"
    store.check_counters()


# ---- outputs ---------------------------------------------------------------------------------------------------------


def run_saying(store: Store, node: int, **outputs: str) -> dict[str, str]:
    """The node takes the next task, which writes this; the environment it ran in."""
    [order] = store.write(lambda tx: claim(tx, holder(tx, node), 1))
    result = Result(order["attempt"], Outcome("exited", 0), outputs=outputs or None)
    store.write(lambda tx: accept(tx, node, [result]))
    env: dict[str, str] = order["env"]
    return env


def test_outputs_are_variables_of_the_tasks_that_need_theirs(store: Store) -> None:
    node = store.node(store.pool())
    tasks = [
        {"name": "a", "run": "true"},
        {"name": "b", "run": "true"},
        {"name": "both", "run": "true", "needs": ["b", "a"], "env": {"MINE": "own"}},
        {"name": "far", "run": "true", "needs": ["both"]},
    ]
    job = store.submit({"name": "j", "client": "acme", "params": {"P": "param", "Q": "param"}, "tasks": tasks})
    run_saying(store, node, A="a", SAME="a", P="over the param", MINE="no", JOB_ID="no")
    run_saying(store, node, SAME="b")
    env = run_saying(store, node)
    assert {name: env[name] for name in ("A", "SAME", "P", "Q", "MINE", "JOB_ID")} == dict(
        A="a", SAME="b", P="over the param", Q="param", MINE="own", JOB_ID=str(job)
    )
    assert "A" not in run_saying(store, node), "of its own needs, not of theirs"
    assert store.rows(Task, name="b")[0].outputs == {"SAME": "b"}
    assert store.rows(Task, name="both")[0].outputs is None


def test_a_repeated_order_has_the_same_inputs(store: Store) -> None:
    node = store.node(store.pool())
    store.submit({"name": "j", "client": "acme", "tasks": DIAMOND[:2]})
    run_saying(store, node, A="a")
    [first] = store.write(lambda tx: claim(tx, holder(tx, node), 1))
    [again] = store.write(lambda tx: orders_for(tx, holder(tx, node), [first["attempt"]]))
    assert again == first


def test_what_an_output_file_said_wrongly_is_told_and_fails_nothing(store: Store) -> None:
    node = store.node(store.pool())
    job = store.job()
    [attempt] = store.claim(node)
    result = Result(attempt, Outcome("exited", 0), outputs={}, outputs_trouble="line 1 is not KEY=value")
    store.write(lambda tx: accept(tx, node, [result]))
    assert store.state(Job, job) == "succeeded"
    assert store.rows(Task)[0].reason == "exit status 0; its output file: line 1 is not KEY=value"


# ---- conditions ------------------------------------------------------------------------------------------------------


def submit_tasks(store: Store, *tasks: dict[str, Any], **job: Any) -> int:
    return store.submit({"name": "j", "client": "acme", **job, "tasks": [{"run": "true", **task} for task in tasks]})


def skipped(store: Store, job: int) -> dict[str, str]:
    return {row.name: row.skipped_because for row in store.rows(Task, job_id=job) if row.state == "skipped"}


def test_a_condition_waits_for_all_it_asks_about_and_takes_any_end(store: Store) -> None:
    node = store.node(store.pool())
    job = submit_tasks(
        store,
        {"name": "load"},
        {"name": "other"},
        {"name": "mend", "when": "err(load) and ok(other)"},
        {"name": "go-on", "when": "ok(load)", "needs": ["other"]},
        {"name": "after", "needs": ["go-on"]},
    )
    store.run_one(node, exit_code=3)
    assert store.task_states(job)["mend"] == "waiting", "frozen until its inputs are known"
    store.run_one(node)
    assert store.task_states(job) == {
        "load": "failed", "other": "succeeded", "mend": "queued", "go-on": "skipped", "after": "skipped",
    }  # fmt: skip
    reasons = {row.name: row.reason for row in store.rows(Task)}
    assert reasons["mend"] == "its condition holds: err(load) = true, ok(other) = true"
    assert reasons["go-on"] == "its condition ok(load) is false: ok(load) = false"
    assert reasons["after"] == "needs go-on, which was skipped by its condition"
    assert skipped(store, job) == {"go-on": "condition", "after": "condition"}
    assert store.run_one(node) == "mend"
    assert store.state(Job, job) == "failed", "a failure stays one, whoever mended it"
    store.check_counters()


def test_a_failure_upstream_and_a_condition_are_told_apart(store: Store) -> None:
    node = store.node(store.pool())
    job = submit_tasks(
        store,
        {"name": "a"},
        {"name": "no", "when": "err(a)"},
        {"name": "b", "needs": ["a"]},
        {"name": "of-both", "needs": ["no", "b"]},
        {"name": "of-b", "needs": ["b"]},
        {"name": "of-no", "needs": ["no"]},
    )
    store.run_one(node)
    assert skipped(store, job) == {"no": "condition", "of-both": "condition", "of-no": "condition"}
    store.run_one(node, exit_code=1)
    assert skipped(store, job)["of-b"] == "upstream_failed"
    assert store.state(Job, job) == "failed"


def test_a_job_whose_rest_was_skipped_by_conditions_succeeded(store: Store) -> None:
    node = store.node(store.pool())
    job = submit_tasks(store, {"name": "a"}, {"name": "b", "when": "err(a)"}, {"name": "c", "needs": ["b"]})
    store.run_one(node)
    assert store.one(Job, job).reason == "tasks: 2 skipped, 1 succeeded"
    assert store.state(Job, job) == "succeeded"


def test_conditions_without_needs_are_decided_at_submission(store: Store) -> None:
    tasks = [
        {"name": "early", "when": "before('08:30')"},
        {"name": "eu", "when": "param('REGION') == 'eu'"},
        {"name": "us", "when": "param('REGION') == 'us'"},
    ]
    job = submit_tasks(store, *tasks, params={"REGION": "eu"})
    assert store.task_states(job) == dict(early="queued", eu="queued", us="skipped")
    gone = submit_tasks(store, {"name": "never", "when": "1 == 2"})
    assert store.state(Job, gone) == "succeeded"
    assert store.rows(Task, job_id=gone)[0].reason == "its condition 1 == 2 is false: always"
    store.check_counters()


def test_exit_statuses_and_outputs_decide(store: Store) -> None:
    node = store.node(store.pool())
    job = submit_tasks(
        store,
        {"name": "a"},
        {"name": "many", "when": "number(output(a, 'ROWS')) > 100"},
        {"name": "few", "when": "number(output(a, 'ROWS')) <= 100"},
        {"name": "nonsense", "when": "output(a, 'ROWS') > 100"},
    )
    run_saying(store, node, ROWS="12")
    assert store.task_states(job) == dict(a="succeeded", many="skipped", few="queued", nonsense="failed")
    reasons = {row.name: row.reason for row in store.rows(Task)}
    assert "cannot be decided" in reasons["nonsense"] and "output(a, ROWS) = 12" in reasons["nonsense"]
    store.run_one(node)
    assert store.state(Job, job) == "failed"
    store.check_counters()


def test_a_task_for_the_end_runs_after_all_others_whatever_became_of_them(store: Store) -> None:
    node = store.node(store.pool())
    job = submit_tasks(
        store,
        {"name": "tell", "when": "job_end() == 'failed'"},
        {"name": "clean", "when": "job_end()"},
        {"name": "a"},
        {"name": "b", "needs": ["a"]},
    )
    store.run_one(node, exit_code=1)
    assert store.task_states(job) == dict(tell="queued", clean="queued", a="failed", b="skipped")


def test_another_jobs_tasks_are_those_of_its_last_run_that_ended(store: Store) -> None:
    node = store.node(store.pool())
    asks = {"name": "x", "when": "ok('nightly', 'load')"}
    ends = {"name": "y", "when": "job_end('nightly') == 'failed'"}

    def nightly(exit_code: int, client: str = "acme") -> None:
        submit_tasks(store, {"name": "load"}, name="nightly", client=client)
        store.run_one(node, exit_code=exit_code)

    def decided() -> dict[str, str]:
        job = submit_tasks(store, asks, ends)
        found = store.task_states(job)
        store.cancel(job)
        return found

    assert decided() == dict(x="skipped", y="skipped"), "it never ran"
    nightly(0, client="globex")
    assert decided() == dict(x="skipped", y="skipped"), "another client's"
    nightly(0)
    assert decided() == dict(x="queued", y="skipped")
    nightly(1)
    running = submit_tasks(store, {"name": "load"}, name="nightly")
    assert decided() == dict(x="skipped", y="queued"), "the last that ended, not the one that runs"
    store.cancel(running)


def test_an_array_waits_together_and_each_element_is_its_own(store: Store) -> None:
    node = store.node(store.pool())
    job = submit_tasks(
        store,
        {"name": "shard", "array": 3},
        {"name": "merge", "needs": ["shard"]},
        {"name": "of-1", "needs": ["shard[1]"]},
        {"name": "mend", "when": "err(shard)"},
        {"name": "os", "matrix": {"OS": ["deb", "alp"]}, "when": "param('OS') == 'alp'"},
    )
    assert store.task_states(job)["os[0]"] == "skipped" and store.task_states(job)["os[1]"] == "queued"
    envs = [run_saying(store, node) for _ in range(3)]
    assert [env["ORCHESTRATOR_ARRAY_INDEX"] for env in envs] == ["0", "1", "2"]
    assert [env["ORCHESTRATOR_TASK"] for env in envs] == ["shard[0]", "shard[1]", "shard[2]"]
    states = store.task_states(job)
    assert (states["merge"], states["of-1"], states["mend"]) == ("queued", "queued", "skipped")
    served = [run_saying(store, node)["ORCHESTRATOR_TASK"] for _ in range(2)]
    assert served == ["os[1]", "merge"]  # in the order in which they were queued
    assert store.one(Job, job).tasks == 8
    store.check_counters()


# ---- at random, against a simple model -------------------------------------------------------------------------------


@dataclass
class Model:
    """What ought to be, in the plainest words."""

    needs: list[list[int]]
    instant: list[bool]
    when: list[str]
    state: list[str] = field(default_factory=list)
    why: list[str | None] = field(default_factory=list)
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.state = ["waiting"] * len(self.needs)
        self.why = [None] * len(self.needs)
        self.settle()

    def settle(self) -> None:
        changed = True
        while changed:
            changed = False
            for i, state in enumerate(self.state):
                above = {self.state[need] for need in self.needs[i]}
                if state != "waiting":
                    continue
                if self.when[i] and above <= {"succeeded", "failed", "cancelled", "skipped"}:
                    holds = {"any ok": "succeeded" in above, "any err": "failed" in above, "always": True}[self.when[i]]
                    self.state[i], changed = self.start_of(i) if holds else "skipped", True
                    self.why[i] = None if holds else "condition"
                elif not self.when[i] and above & {"failed", "cancelled", "skipped"}:
                    self.state[i], changed = "skipped", True
                    bad = [n for n in self.needs[i] if self.state[n] in ("failed", "skipped")]
                    by_condition = all(self.state[n] == "skipped" and self.why[n] == "condition" for n in bad)
                    self.why[i] = "condition" if by_condition else "upstream_failed"
                elif not self.when[i] and above <= {"succeeded"}:
                    self.state[i], changed = self.start_of(i), True

    def start_of(self, i: int) -> str:
        return "succeeded" if self.instant[i] else "queued"

    def start(self, i: int) -> None:
        """Which of the queued tasks goes first is a matter of turns."""
        assert self.state[i] == "queued"
        self.state[i] = "running"

    def end(self, i: int, how: str) -> None:
        ends = {"ok": "succeeded", "fail": "cancelled" if self.cancelled else "failed"}
        ends["lost"] = "cancelled" if self.cancelled else "queued"
        self.state[i] = ends[how]
        self.settle()

    def cancel(self) -> None:
        if self.open_job():
            self.cancelled = True
            self.state = ["cancelled" if state in ("waiting", "queued") else state for state in self.state]

    def job(self) -> str:
        if set(self.state) & {"waiting", "queued", "running"}:
            return "open"
        if "failed" in self.state:
            return "failed"
        bad = {"cancelled", "skipped"} if self.cancelled else {"cancelled"}
        return "cancelled" if set(self.state) & bad else "succeeded"

    def open_job(self) -> bool:
        return self.job() == "open"


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[list[int]], list[bool], list[str]]:
    size = draw(st.integers(1, 8))
    needs = [draw(st.lists(st.integers(0, i - 1), unique=True, max_size=3)) if i else [] for i in range(size)]
    when = [draw(st.sampled_from(["", "", "any ok", "any err", "always"])) if below else "" for below in needs]
    return needs, [draw(st.integers(0, 4)) == 0 for _ in range(size)], when


def written_condition(kind: str, needs: list[int]) -> str:
    if kind == "always":
        return "param('NOTHING') == None"
    function = {"any ok": "ok", "any err": "err"}[kind]
    return " or ".join(f"{function}(t{need})" for need in needs)


STEPS = st.lists(
    st.tuples(st.sampled_from(["start", "start", "ok", "ok", "fail", "lost", "cancel"]), st.integers(0, 7)), max_size=16
)


def random_steps(steps: list[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    yield from (step for step in steps)
    for _ in range(8):  # then to the end
        yield "start", 0
        yield "ok", 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=graphs(), steps=STEPS)
def test_random_graphs_go_as_the_model_says(
    store: Store, graph: tuple[list[list[int]], list[bool], list[str]], steps: list[tuple[str, int]]
) -> None:
    needs, instant, when = graph
    if not store.rows(Node):
        store.node(store.pool())
    (node,) = [row.id for row in store.rows(Node)]
    tasks: list[dict[str, Any]] = [
        {"name": f"t{i}", "needs": [f"t{need}" for need in needs[i]]}
        | ({"kind": "undeploy", "token": "x"} if instant[i] else {"run": "true", "retry": {"infrastructure_attempts": 99}})
        | ({"when": written_condition(when[i], needs[i])} if when[i] else {})
        for i in range(len(needs))
    ]
    job = store.submit({"name": "random", "client": "acme", "tasks": tasks})
    model = Model(needs, instant, when)
    running: dict[int, int] = {}

    def compare() -> None:
        row = store.one(Job, job)
        assert list(store.task_states(job).values()) == model.state
        told = {task.name: task.skipped_because for task in store.rows(Task, job_id=job)}
        assert [bool(each) for each in told.values()] == [state == "skipped" for state in model.state]
        assert [each == "condition" for each in told.values()] == [each == "condition" for each in model.why]
        assert row.open_tasks == sum(state in ("waiting", "queued", "running") for state in model.state)
        assert (row.state in ("queued", "running")) == (model.job() == "open")
        if row.open_tasks == 0:
            assert row.state == model.job()
            assert row.finished_at is not None

    compare()
    for what, which in random_steps(steps):
        if what == "start":
            attempts = store.claim(node)
            assert len(attempts) == ("queued" in model.state)
            for attempt in attempts:
                task = int(store.one(Task, store.one(Attempt, attempt).task_id).name[1:])
                model.start(task)
                running[task] = attempt
        elif what == "cancel":
            assert store.cancel(job) == model.open_job()
            model.cancel()
        elif running:
            task = sorted(running)[which % len(running)]
            attempt = running.pop(task)
            if what == "lost":
                store.report(node, attempt, "lost")
            else:
                store.report(node, attempt, exit_code=0 if what == "ok" else 3)
            model.end(task, what)
        else:
            continue
        compare()
    assert model.job() != "open"


def test_the_outcome_of_a_job() -> None:
    def state(cancelled: bool = False, **states: int) -> str:
        return job_outcome(states, cancelled=cancelled)[0]

    assert state(succeeded=3) == "succeeded"
    assert state(succeeded=3, cancelled=True) == "succeeded"  # the request came too late to stop anything
    assert state(failed=1, succeeded=2, skipped=4) == "failed"
    assert job_outcome({"failed": 1, "succeeded": 2}, cancelled=False)[1] == "tasks: 1 failed, 2 succeeded"
    assert job_outcome({"cancelled": 1, "succeeded": 2}, cancelled=True)[0] == "cancelled"
    assert job_outcome({"cancelled": 1, "failed": 1}, cancelled=True)[0] == "failed"
