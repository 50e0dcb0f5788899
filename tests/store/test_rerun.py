"""Reruns: what runs again, what is kept, which machines are asked for, and the chain that is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.agents.claims import claim, holder
from orchestrator.agents.results import Result, accept
from orchestrator.jobs.outcomes import Outcome
from orchestrator.jobs.rerun import Rerun, rerun
from orchestrator.jobs.spec import SpecError
from orchestrator.model.tables import Deployment, Job, Task, TaskNeed
from orchestrator.store import queries

if TYPE_CHECKING:
    from conftest import Store

CHAIN = [
    {"name": "extract", "run": "true"},
    {"name": "load", "run": "true", "needs": ["extract"]},
    {"name": "report", "run": "true", "needs": ["load"]},
    {"name": "alarm", "run": "true", "when": "err(load)"},
    {"name": "aside", "run": "true"},
]


def again(store: Store, job: int, key: str | None = None, **asked: Any) -> int:
    wanted = Rerun(**asked)
    return store.write(lambda tx: rerun(tx, job, wanted, actor="tester", idempotency_key=key)).job_id


def run_all(store: Store, node: int, **exit_codes: int) -> list[str]:
    """Run what can be run, in order; each task writes its own name as an output."""
    ran = []
    while orders := store.write(lambda tx: claim(tx, holder(tx, node), 1)):
        name = orders[0]["env"]["ORCHESTRATOR_TASK"]
        outcome = Outcome("exited", exit_codes.get(name, 0))
        result = Result(orders[0]["attempt"], outcome, outputs={"FROM": name})
        store.write(lambda tx, result=result: accept(tx, node, [result]))  # type: ignore[misc]
        ran.append(name)
    store.check_counters()
    return ran


def submit(store: Store, *tasks: dict[str, Any], **job: Any) -> int:
    return store.submit({"name": "j", "client": "acme", "params": {"P": "1"}, **job, "tasks": list(tasks)})


def test_what_failed_runs_again_with_all_that_needs_it(store: Store) -> None:
    node = store.node(store.pool())
    job = submit(store, *CHAIN)
    assert run_all(store, node, load=1) == ["extract", "load", "aside", "alarm"] or store.state(Job, job) == "failed"
    new = again(store, job, failed=True)
    assert store.task_states(new) == dict(
        extract="succeeded", load="queued", report="waiting", alarm="waiting", aside="succeeded"
    )
    row = store.one(Job, new)
    assert (row.rerun_of, row.tasks, row.open_tasks, row.state) == (job, 5, 3, "queued")
    kept = store.rows(Task, job_id=new, name="extract")[0]
    assert (kept.reason, kept.outputs, kept.exit_code) == (f"kept from job {job}", {"FROM": "extract"}, 0)
    [order] = store.write(lambda tx: claim(tx, holder(tx, node), 1))
    assert order["env"]["FROM"] == "extract", "what was kept still tells the later ones"
    store.report(node, order["attempt"])
    assert run_all(store, node) == ["report"]
    assert store.task_states(new)["alarm"] == "skipped", "the old run's failure is not this one's"
    assert store.state(Job, new) == "succeeded"
    assert store.state(Job, job) == "failed", "the old run stays as it was"


def test_from_a_task_on(store: Store) -> None:
    node = store.node(store.pool())
    job = submit(store, *CHAIN)
    run_all(store, node)
    assert store.state(Job, job) == "succeeded"
    new = again(store, job, from_=["load"], params={"P": "2", "Q": "3"})
    assert run_all(store, node) == ["load", "report"]
    assert store.state(Job, new) == "succeeded"
    assert store.one(Job, new).params == {"P": "2", "Q": "3"}


def test_all_of_it_and_the_chain(store: Store) -> None:
    node = store.node(store.pool())
    first = submit(store, *CHAIN)
    run_all(store, node, load=1)
    second = again(store, first)
    assert sorted(run_all(store, node)) == ["aside", "extract", "load", "report"]
    third = again(store, second, from_=["report"])
    run_all(store, node)
    fourth = again(store, third, from_=["report"])
    reasons = {row.name: row.reason for row in store.rows(Task, job_id=fourth)}
    assert reasons["extract"] == f"kept from job {second}", "who ran it, not who kept it"
    with store.engine.connect() as connection:
        assert queries.runs_before(connection, third) == [third, second, first]
        assert queries.reruns_of(connection, first) == [second]


def test_the_same_key_gives_the_same_rerun(store: Store) -> None:
    node = store.node(store.pool())
    job = store.job()
    run_all(store, node, t0=1)
    assert again(store, job, key="k") == again(store, job, key="k")
    assert store.count(Job) == 2


def test_elements_of_an_array(store: Store) -> None:
    node = store.node(store.pool())
    job = submit(store, {"name": "s", "run": "true", "array": 3}, {"name": "m", "run": "true", "needs": ["s"]})
    run_all(store, node)
    again(store, job, from_=["s[1]"])
    assert run_all(store, node) == ["s[1]", "m"]
    again(store, job, from_=["s"])
    assert run_all(store, node) == ["s[0]", "s[1]", "s[2]", "m"]
    assert store.count(TaskNeed) == 9


def test_machines_and_tokens_are_the_new_jobs(store: Store) -> None:
    store.pool("main")
    job = submit(
        store,
        {"name": "up", "kind": "deploy", "token": "up-$JOB_ID", "infrastructure": {"pool": "main", "count": 2}},
        {"name": "a", "run": "true", "needs": ["up"]},
        {"name": "b", "run": "true", "token": "own-$JOB_ID", "infrastructure": {"pool": "main", "count": 1}},
        {"name": "c", "run": "true", "token": "own-$JOB_ID", "needs": ["b"]},
        {"name": "d", "run": "true", "token": "fixed", "needs": ["b"]},
        token="t-$JOB_ID",
    )
    for row in store.rows(Task, job_id=job):
        if row.kind == "run":
            store.force(Task, row.id, state="succeeded" if row.name == "b" else "failed", attempts=1)
    store.force(Job, job, state="failed")
    new = again(store, job, failed=True)
    assert {row.name: row.token for row in store.rows(Task, job_id=new)} == {
        "up": f"acme/up-{new}", "a": f"acme/t-{new}", "b": f"acme/own-{new}", "c": f"acme/own-{new}", "d": "acme/fixed",
    }  # fmt: skip
    asked = {(row.token, row.machines) for row in store.rows(Deployment, job_id=new)}
    assert asked == {(f"acme/up-{new}", 2), (f"acme/own-{new}", 1)}, "also for the kept b, whose c needs it"
    assert store.task_states(new) == dict(up="succeeded", a="queued", b="succeeded", c="queued", d="queued")


def test_refused_with_its_fix(store: Store) -> None:
    node = store.node(store.pool())
    job = submit(store, *CHAIN[:2])
    run_all(store, node)
    with pytest.raises(SpecError, match="no task is named 'lode'; the tasks are extract, load"):
        again(store, job, from_=["lode"])
    with pytest.raises(SpecError, match=f"all of job {job} succeeded; name a task under from"):
        again(store, job, failed=True)
    assert store.count(Job) == 1
