"""Machines that exist already: they join by a command, serve like others, and stay when their nodes end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.fleet import joining, leaving, pools
from orchestrator.fleet.audit import audit
from orchestrator.fleet.enrolment import Enrolled, Refused
from orchestrator.fleet.explain import explain_node
from orchestrator.fleet.joining import NoPlace, Places
from orchestrator.model.states import NodeState
from orchestrator.model.tables import Attempt, Hold, Launch, Node, Task
from providers.fake import FakeCloud

if TYPE_CHECKING:
    from conftest import Fleet, Store


@pytest.fixture
def own(store: Store, fleet: Fleet) -> int:
    """A pool of at most 3 machines that exist; boot 600 s, heartbeat 90 s, drain 300 s."""
    return store.pool("own", cloud="own", policy=joining.POLICY, max_nodes=3, launch={})


def invite(store: Store, pool_id: int, count: int = 1, token: str | None = None) -> Places:
    return store.write(lambda tx: joining.invite(tx, pool_id, count, token=token, actor="ann"))


def join(fleet: Fleet, store: Store, pool_id: int, name: str = "box-1", token: str | None = None) -> int:
    """A machine of this name is a ready node; its number."""
    (node,) = invite(store, pool_id, token=token).node_ids
    assert isinstance(fleet.enrol(node, instance_id=name), Enrolled)
    return node


def test_a_command_makes_places_and_nothing_is_launched(fleet: Fleet, store: Store, cloud: FakeCloud, own: int) -> None:
    places = invite(store, own, 2)
    fleet.round()
    assert (cloud.calls["launch"], store.states(Launch)) == (0, ["launched"])
    assert [store.state(Node, id_) for id_ in places.node_ids] == ["booting", "booting"]
    assert (places.expires_at - store.clock()).total_seconds() == 600
    with store.engine.connect() as connection:
        told = explain_node(connection, places.node_ids[0], store.clock())
    assert told is not None and told.sentences[0].startswith("It exists because ann lets 2 machine(s) enrol until")


def test_each_machine_takes_a_place_of_its_own(fleet: Fleet, store: Store, own: int) -> None:
    places = invite(store, own, 2)
    first, second = places.node_ids
    for node, name in ((first, "box-1"), (second, "box-2")):
        answer = fleet.enrol(first, instance_id=name, credential=f"credential of {name}")
        assert answer == Enrolled(node, 1, 900, 90)
    assert fleet.enrol(first, instance_id="box-1", credential="credential of box-1") == Enrolled(first, 1, 900, 90)
    refused = fleet.enrol(first, instance_id="box-3", credential="credential of box-3")
    assert isinstance(refused, Refused) and refused.final
    assert "no place is left for 'box-3'" in refused.reason


def test_a_machine_serves_tasks_without_a_token_and_is_never_released(fleet: Fleet, store: Store, own: int) -> None:
    job = store.job(2)
    node = join(fleet, store, own)
    assert [store.run_one(node), store.run_one(node)] == ["t0", "t1"]
    assert store.states(Task, job_id=job) == ["succeeded"] * 2
    for _ in range(3):
        fleet.round(30)
        fleet.deadlines({node: store.clock()})
    assert store.state(Node, node) == "ready"


def test_a_machine_serves_the_token_it_was_given(fleet: Fleet, store: Store, own: int) -> None:
    store.job(1)
    tokened = store.job(1, token="night")
    node = join(fleet, store, own, token="acme/night")
    store.run_one(node)
    assert store.run_one(node) is None
    assert store.states(Task, job_id=tokened) == ["succeeded"]


def test_a_demand_waits_with_the_command_that_meets_it(fleet: Fleet, store: Store, cloud: FakeCloud, own: int) -> None:
    job = store.job(1, infrastructure={"pool": "own", "count": 1, "token": "night"})
    fleet.round()
    assert cloud.calls["launch"] == 0
    assert "`orchestrator node enrol own --for acme/night`" in fleet.explained(job)
    node = join(fleet, store, own, token="acme/night")
    fleet.plan()
    assert "enrol" not in fleet.explained(job).split("Task")[0]
    assert store.run_one(node) == "t0"


def test_a_secret_expires_at_the_boot_deadline(fleet: Fleet, store: Store, own: int) -> None:
    (node,) = invite(store, own).node_ids
    fleet.round(601)
    assert (store.state(Node, node), store.one(Node, node).end_reason) == ("terminated", "boot_timeout")
    refused = fleet.enrol(node, instance_id="box-1")
    assert isinstance(refused, Refused) and refused.final
    assert store.count(Hold) == 0, "nobody's command holds up anything"


def test_a_machine_that_comes_at_the_last_moment_before_the_master_looks(fleet: Fleet, store: Store, own: int) -> None:
    (node,) = invite(store, own).node_ids
    store.clock.move(601)
    refused = fleet.enrol(node, instance_id="box-1")
    assert refused == Refused("the enrolment secret has expired", final=True)
    assert store.state(Node, node) == "terminating"


def test_a_drained_node_ends_without_a_call_and_its_machine_may_come_again(
    fleet: Fleet, store: Store, cloud: FakeCloud, own: int
) -> None:
    store.job(1)
    node = join(fleet, store, own)
    (attempt,) = store.claim(node)
    store.write(lambda tx: leaving.begin(tx, node, "operator", "drained by ann"))
    fleet.round(1)
    fleet.deadlines({node: store.clock()})
    assert store.state(Node, node) == "draining"
    store.report(node, attempt)
    fleet.round(1)
    assert store.state(Node, node) == "terminated"
    assert "the machine stays" in store.one(Node, node).reason
    assert (cloud.calls["terminate"], cloud.calls["launch"]) == (0, 0)
    assert store.state(Node, join(fleet, store, own, name="box-1-again")) == "ready"


def test_a_silent_machine_is_lost_and_its_work_done_elsewhere(fleet: Fleet, store: Store, own: int) -> None:
    store.job(1)
    node = join(fleet, store, own)
    (attempt,) = store.claim(node)
    fleet.round(91)
    assert (store.state(Node, node), store.one(Node, node).end_reason) == ("terminated", "lost")
    assert (store.state(Attempt, attempt), store.states(Task)) == ("lost", ["queued"])


def test_no_listing_calls_it_vanished_and_the_audit_agrees(fleet: Fleet, store: Store, own: int) -> None:
    node = join(fleet, store, own)
    for _ in range(5):
        fleet.round(60)
        fleet.deadlines({node: store.clock()})
    assert store.state(Node, node) == "ready"
    assert audit(store.engine, fleet.clouds, fleet.installation).agrees  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arrange", "count", "why"),
    [
        ({}, 4, "room for 3 of its 3 node"),
        ({"paused": True}, 1, "paused"),
        ({"deleted": True}, 1, "being deleted"),
        ({"policy": "iaas"}, 1, "launched"),
    ],
)
def test_a_pool_that_takes_no_machine_says_why(
    fleet: Fleet, store: Store, own: int, arrange: dict[str, object], count: int, why: str
) -> None:
    if arrange.get("paused"):
        store.write(lambda tx: pools.change(tx, own, {"paused": True}, actor="ann"))
    if arrange.get("deleted"):
        join(fleet, store, own)
        store.write(lambda tx: pools.delete(tx, own, actor="ann"))
    target = store.pool("rented") if "policy" in arrange else own
    with pytest.raises(NoPlace, match=why):
        invite(store, target, count)


def test_a_deleted_pool_lets_its_machines_go(fleet: Fleet, store: Store, own: int) -> None:
    node = join(fleet, store, own)
    (place,) = invite(store, own).node_ids
    store.write(lambda tx: pools.delete(tx, own, actor="ann"))
    fleet.round(1)
    fleet.round(1)
    assert [store.state(Node, id_) for id_ in (node, place)] == [NodeState.TERMINATED] * 2
