"""The plan of a job that is not submitted: what the planner would do, and not a guess."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.agents.claims import claim, holder
from orchestrator.fleet import planner
from orchestrator.fleet.forecast import Forecast, forecast
from orchestrator.fleet.rungs import ladder
from orchestrator.jobs import spec
from orchestrator.jobs.spec import SpecError
from orchestrator.jobs.submit import Launch as Brought
from orchestrator.jobs.submit import submit
from orchestrator.model.states import NodeState
from orchestrator.model.tables import Deployment, Event, Hold, Job, Launch, Pool, table

if TYPE_CHECKING:
    from conftest import Store

PRICES = {"small.1": 0.1, "large.1": 0.5}


def job(count: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "name": "j",
        "client": "acme",
        "run": "true",
        "token": "t-$JOB_ID",
        "infrastructure": {"pool": "main", "count": count},
        **more,
    }


def plan(store: Store, document: dict[str, Any]) -> Forecast:
    with store.engine.connect() as connection:
        return forecast(connection, spec.parse(document), store.clock())


def test_it_says_what_the_planner_then_does(store: Store) -> None:
    store.pool(prices=PRICES)
    document = job(3, infrastructure={"pool": "main", "count": 3, "instance_type": "LARGE", "image": "ami-7"})
    found = plan(store, document)
    assert store.count(Job) == store.count(Launch) == store.count(Deployment) == 0
    [asked] = found.asked
    [machines] = asked.launches
    assert (found.cost, found.unpriced, asked.waiting) == (1.5, [], [])
    store.submit(document)
    store.write(planner.plan)
    [launch] = store.rows(Launch)
    assert (machines.count, machines.cloud, machines.kind) == (launch.machines, launch.cloud, launch.label)
    assert (machines.image, machines.instance_type) == (launch.image, launch.instance_type) == ("ami-7", "large.1")


def test_why_a_machine_would_wait(store: Store) -> None:
    pool = store.pool(max_nodes=3)
    store.node(pool), store.node(pool)
    [asked] = plan(store, job(4)).asked
    assert [machines.count for machines in asked.launches] == [1]
    assert asked.waiting == ["pool main at its limit of 3 node(s)"]
    store.force(Pool, pool, paused_at=store.clock(), paused_reason="by tester")
    [asked] = plan(store, job(4)).asked
    assert (asked.launches, asked.waiting) == ([], ["pool main is paused: by tester"])


def test_it_goes_to_the_first_rung_that_is_to_be_had(store: Store) -> None:
    launch = {"image": "ami-1", "rungs": [{"instance_type": "spot.1"}, {"instance_type": "small.1"}]}
    pool = store.pool(launch=launch, prices=PRICES)
    until = store.clock() + timedelta(minutes=2)
    first = ladder({"cloud": "toy", "launch": launch})[0]
    hold = {"pool_id": pool, "kind": first.kind, "label": first.label, "cause": "shortage", "reason": "no capacity"}
    values = {**hold, "failures": 1, "since": store.clock(), "until": until}
    store.write(lambda tx: tx.connection.execute(table(Hold).insert().values(values)))
    found = plan(store, job())
    assert [(m.kind, m.count) for m in found.asked[0].launches] == [("small.1", 2)]
    assert found.cost == pytest.approx(0.2)


def test_what_others_ask_for_comes_first(store: Store) -> None:
    store.pool(max_nodes=3)
    store.submit(job(2))
    [asked] = plan(store, job(2)).asked
    assert [machines.count for machines in asked.launches] == [1]


def test_machines_of_tasks_and_what_has_no_price(store: Store) -> None:
    store.pool(prices={"small.1": 1.0})
    big = {"pool": "main", "count": 2, "instance_type": "huge.1"}
    tasks = [
        {"name": "a", "run": "true"},
        {"name": "b", "run": "true", "needs": ["a"], "token": "big", "infrastructure": big},
    ]
    document = job(1, tasks=tasks)
    del document["run"]
    found = plan(store, document)
    assert [(asked.owner, asked.after, asked.token) for asked in found.asked] == [
        ("the job", (), "acme/t-$JOB_ID"),
        ("task b", ("a",), "acme/big"),
    ]
    assert (found.cost, found.unpriced) == (1.0, ["huge.1"])
    assert [(place.tasks, place.coming, place.trouble) for place in found.places] == [(["a"], 1, None), (["b"], 2, None)]


def test_where_tasks_without_machines_of_their_own_would_run(store: Store) -> None:
    document = {"name": "j", "client": "acme", "tasks": [{"name": f"t{i}", "run": "true", "slots": 2} for i in range(3)]}
    pool = store.pool()
    assert plan(store, document).places[0].trouble == "no node without a token is up that can run it"
    small = store.node(pool, slots=1)
    assert f"node {small} has only 1 slot(s)" in plan(store, document).places[0].trouble
    store.node(pool, slots=2), store.node(pool, NodeState.DRAINING, slots=2)
    [place] = plan(store, document).places
    assert (place.tasks, place.nodes, place.trouble) == (["t0", "t1", "t2"], 1, None)


def test_what_would_be_refused_is_refused(store: Store) -> None:
    with pytest.raises(SpecError, match="no pool is named 'main'"):
        plan(store, job())
    assert store.count(Event) == 0


def test_dry_commands_are_replaced_at_the_last_moment(store: Store) -> None:
    node = store.node(store.pool())
    document = {"name": "j", "client": "acme", "run": "rm -rf important", "env": {"A": "1"}}
    store.write(lambda tx: submit(tx, spec.parse(document), actor="tester", launch=Brought(dry_commands=True)))
    store.submit(document)
    dry, real = store.write(lambda tx: claim(tx, holder(tx, node), 2))
    assert (dry["run"], dry["env"]["A"]) == ("sleep 1", "1")
    assert real["run"] == "rm -rf important"
    assert [row.dry_run for row in store.rows(Job)] == [True, False]
