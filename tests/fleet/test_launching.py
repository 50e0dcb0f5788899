"""Launching: exactly the machines that were asked for, however the cloud answers and whenever the master dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert

from orchestrator.fleet.bootstrap import UserDataTooLarge
from orchestrator.model.tables import Deployment, Job, Launch, Node, Pool, table
from orchestrator.simulation.world import Died
from providers.base import (
    TAG_INSTALLATION,
    TAG_LAUNCH,
    TAG_NODE,
    TAG_POOL,
    InstanceState,
    Misconfigured,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    Unauthorised,
    Unavailable,
)
from providers.fake import FakeCloud

if TYPE_CHECKING:
    from conftest import Fleet, Store

Ask = Callable[..., int]


def test_the_intent_is_written_before_the_cloud_is_called(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    ask(3)
    fleet.plan()
    assert fleet.states() == ["requested"] * 3
    assert store.states(Launch) == ["requested"]
    assert cloud.calls["launch"] == 0

    seen: list[tuple[str, str]] = []
    provider = fleet.clouds.get("toy")
    launch = provider.launch
    provider.launch = lambda request: seen.append((store.states(Launch)[0], store.states(Node)[0])) or launch(request)  # type: ignore[method-assign]
    fleet.launch()
    assert seen == [("launching", "launching")]  # committed when the call is made
    assert fleet.states() == ["booting"] * 3
    assert cloud.made() == 3


def test_planning_twice_asks_once(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    ask(3)
    for _ in range(3):
        fleet.round(1)
    assert cloud.made() == 3
    assert store.count(Launch) == 1


def test_what_a_machine_carries(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    ask(1, token="one")
    ask(2, token="two")
    fleet.round()
    first, second = cloud.requests.values()
    assert first.tags == {
        TAG_INSTALLATION: fleet.installation,
        TAG_POOL: "main",
        TAG_LAUNCH: f"{fleet.installation}-1",
        TAG_NODE: "1",
    }
    assert TAG_NODE not in second.tags
    assert (first.launch_id, second.launch_id) == (f"{fleet.installation}-1", f"{fleet.installation}-2")
    assert first.template == {}
    assert [row.token for row in store.rows(Node)] == ["acme/one", "acme/two", "acme/two"]
    assert len({row.instance_id for row in store.rows(Node)}) == 3


def test_image_and_size_by_demand_then_by_pool(fleet: Fleet, store: Store, cloud: FakeCloud, pool: int) -> None:
    for kind in ("LARGE", "DEFAULT", "m6i.metal"):
        block = {"pool": "main", "count": 1, "token": f"t-{kind}", "instance_type": kind}
        store.job(infrastructure=block | ({"image": "ami-own"} if kind == "LARGE" else {}))
    fleet.round()
    asked = [(request.image, request.instance_type) for request in cloud.requests.values()]
    assert asked == [("ami-own", "large.1"), ("ami-1", "small.1"), ("ami-1", "m6i.metal")]


# ---- death and lost replies ------------------------------------------------------------------------------------------


def test_death_after_the_intent(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    ask(3)
    fleet.plan()
    cloud.fails("launch", Died())
    fleet.launch()
    assert store.states(Launch) == ["launching"]
    for _ in range(4):
        fleet.round(5)
    assert cloud.made() == 3
    assert fleet.states() == ["booting"] * 3


@pytest.mark.parametrize("lag_s", [0, 30])
def test_death_after_the_clouds_reply(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask, lag_s: float) -> None:
    ask(3)
    fleet.plan()
    cloud.lag_s = lag_s
    cloud.loses_reply("launch", Died())
    fleet.launch()
    assert cloud.made() == 3
    assert fleet.states() == ["launching"] * 3
    for _ in range(8):
        fleet.round(5)
    assert cloud.made() == 3
    assert len(cloud.alive()) == 3
    assert fleet.states() == ["booting"] * 3
    assert {row.instance_id for row in store.rows(Node)} == set(cloud.machines)


def test_death_at_every_step_of_many_tries(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    ask(4)
    fleet.plan()
    for _ in range(6):
        cloud.fails("launch", Died())
        cloud.loses_reply("instances", Died())
        fleet.launch()
        store.clock.move(1)
    cloud.before["launch"].clear()
    cloud.after["instances"].clear()
    for _ in range(3):
        fleet.round(5)
    assert cloud.made() == 4
    assert fleet.states() == ["booting"] * 4


@pytest.mark.parametrize("lag_s", [0, 30])
def test_a_lost_reply(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask, lag_s: float) -> None:
    ask(3)
    cloud.lag_s = lag_s
    cloud.loses_reply("launch")
    fleet.plan()
    fleet.launch()
    assert fleet.states() == ["launching"] * 3
    assert "looking before asking again" in store.rows(Launch)[0].reason
    looked = cloud.calls["instances"]
    assert fleet.launch() == pytest.approx(2.0)  # not before its time
    assert cloud.calls["instances"] == looked
    store.clock.move(2)
    fleet.launch()
    assert cloud.calls["instances"] == looked + 1  # looked first
    assert cloud.calls["launch"] == (2 if lag_s else 1)  # asked again, with the same token, only where nothing is shown
    assert cloud.made() == 3
    assert fleet.states() == ["booting"] * 3


def test_a_lost_request(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    ask(2)
    fleet.plan()
    cloud.fails("launch", Unavailable("connection reset"), Unavailable("connection reset"))
    fleet.launch()
    waits = []
    for _ in range(2):
        waits.append(fleet.launch())
        store.clock.move(waits[-1] or 0)
        fleet.launch()
    assert waits == [pytest.approx(2.0), pytest.approx(4.0)]
    assert cloud.made() == 2


def test_a_partly_visible_launch_is_not_topped_up(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    """The listing shows two of three: the same call again gives the three, never a fourth."""
    ask(3)
    cloud.loses_reply("launch")
    fleet.plan()
    fleet.launch()
    cloud.machines["i-0002"].visible_at = store.clock.now.replace(year=2030)
    store.clock.move(2)
    fleet.launch()
    assert cloud.made() == 3
    assert [row.instance_id for row in store.rows(Node)] == ["i-0000", "i-0001", "i-0002"]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"), [(NoCapacity("none left"), "no_capacity"), (QuotaExceeded("42 vCPU"), "quota")]
)
def test_no_capacity_holds_its_kind_and_says_why(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask, error: ProviderError, reason: str
) -> None:
    job = ask(1)
    cloud.fails("launch", *[error] * 3)
    cause = str(error)
    fleet.round()
    assert store.states(Launch) == ["failed"]
    assert [row.end_reason for row in store.rows(Node)] == [reason]
    assert fleet.states() == ["terminated"]
    assert cause in fleet.explained(job)
    asked_at = []
    begin = store.clock()
    for _ in range(170):
        before = cloud.calls["launch"]
        fleet.round(5)
        if cloud.calls["launch"] > before:
            asked_at.append((store.clock() - begin).total_seconds())
    assert asked_at[:3] == [120, 360, 840]  # two minutes, doubled by each failure
    assert len(cloud.alive()) == 1


def test_a_large_launch_without_capacity_is_one_failure(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    """Five machines refused in one answer wait as long as one would; one of them tries it again, then come the others."""
    ask(5)
    cloud.fails("launch", NoCapacity("none left"))
    fleet.round()
    fleet.round(121)
    assert len(cloud.alive()) == 1
    (probe,) = fleet.nodes("booting")
    fleet.enrol(probe)
    fleet.round(1)
    assert len(cloud.alive()) == 5


def test_partial_capacity(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    """What the cloud gave boots; the rest is asked for again, later, one machine first."""
    store.force(Pool, 1, heartbeat_timeout_s=86_400)  # its agents are well
    ask(5)
    cloud.capacity = 2
    fleet.round()
    assert fleet.states().count("booting") == 2
    ended = [row for row in store.rows(Node) if row.state == "terminated"]
    assert [row.end_reason for row in ended] == ["no_capacity"] * 3
    assert "no_capacity: the cloud gave 2 of 5 machine(s)" in store.reasons(node_id=ended[0].id)
    cloud.capacity = 100
    for node in fleet.nodes("booting"):
        fleet.enrol(node)  # they were given before the shortage, and say nothing of it
    fleet.round(1)
    assert len(cloud.alive()) == 2
    fleet.round(121)
    assert len(cloud.alive()) == 3
    (probe,) = fleet.nodes("booting")
    fleet.enrol(probe)
    fleet.round(1)
    assert len(cloud.alive()) == 5


def test_rate_limited_waits_as_told(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    ask(1)
    fleet.plan()
    cloud.fails("launch", RateLimited("slower", retry_after_s=33))
    fleet.launch()
    assert fleet.launch() == pytest.approx(33)
    store.clock.move(33)
    fleet.launch()
    assert fleet.states() == ["booting"]


@pytest.mark.parametrize("error", [Misconfigured("no image ami-1"), Unauthorised("keys expired")])
def test_misconfigured_pauses_the_pool(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask, error: ProviderError, pool: int
) -> None:
    job = ask(2)
    cloud.fails("launch", error)
    fleet.round()
    row = store.one(Pool, pool)
    assert row.paused_at == store.clock()
    assert row.paused_reason == str(error)
    for _ in range(5):
        fleet.round(120)
    assert cloud.calls["launch"] == 1
    assert f"pool main is paused: {error}" in fleet.explained(job)
    store.force(Pool, pool, paused_at=None, paused_reason=None)
    fleet.round(1)
    assert len(cloud.alive()) == 2


def test_what_cannot_be_rendered_pauses_the_pool(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask, pool: int) -> None:
    """User data over the cloud's limit: an operator must act, asking again does not help."""

    def too_large(*_: object) -> bytes:
        raise UserDataTooLarge(20_000, 16_384)

    fleet.launcher._user_data = too_large
    ask(1)
    fleet.round()
    assert "20000 bytes" in (store.one(Pool, pool).paused_reason or "")
    assert cloud.calls["launch"] == 0


def test_a_defect_is_looked_up_and_tried_again_slower(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    """An error that nobody foresaw is told in an event and does not spin."""
    ask(1)
    fleet.plan()
    cloud.fails("launch", ZeroDivisionError("a defect"))
    fleet.launch()
    assert (fleet.launch() or 0) > 0
    assert any("a defect" in reason for reason in store.reasons(subject="launch"))
    store.clock.move(60)
    fleet.launch()
    assert fleet.states() == ["booting"]


def test_a_cloud_that_never_answers_ends_at_the_boot_deadline(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask
) -> None:
    ask(1)
    fleet.plan()
    cloud.fails("launch", *[Unavailable("down")] * 1000)
    for _ in range(60):
        fleet.launch()
        store.clock.move(15)
    assert store.states(Launch) == ["failed"]
    assert [row.end_reason for row in store.rows(Node)] == ["launch_failed"]
    fleet.watch()
    assert fleet.states() == ["terminated"]


# ---- no longer wanted ------------------------------------------------------------------------------------------------


def test_cancelled_before_the_cloud_was_asked(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    job = ask(2)
    fleet.plan()
    store.cancel(job)
    fleet.round()
    assert cloud.calls["launch"] == 0
    assert store.states(Launch) == ["failed"]
    assert fleet.states() == ["terminated"] * 2


def test_cancelled_while_launching(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    """The reply was lost, then the job: the machine that appears belongs to its leaving node, and is ended."""
    job = ask(2)
    cloud.loses_reply("launch")
    fleet.plan()
    fleet.launch()
    store.cancel(job)
    fleet.plan()
    assert fleet.states() == ["terminating"] * 2
    for _ in range(4):
        fleet.round(2)
    assert cloud.alive() == []
    assert cloud.made() == 2
    assert fleet.states() == ["terminated"] * 2


def test_cancelled_while_launching_and_nothing_appears(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    job = ask(1)
    cloud.fails("launch", Unavailable("reset"))
    fleet.plan()
    fleet.launch()
    store.cancel(job)
    fleet.round(5)
    assert store.states(Launch) == ["launching"]  # a machine of it might still appear
    assert fleet.states() == ["terminating"]
    for _ in range(12):
        fleet.round(6)
    assert store.states(Launch) == ["failed"]
    assert fleet.states() == ["terminated"]
    assert cloud.calls["launch"] == 1


def test_cancelled_while_launching_and_it_appears_much_later(
    fleet: Fleet, cloud: FakeCloud, store: Store, ask: Ask
) -> None:
    """Law 4 catches what came after we stopped watching for it."""
    job = ask(1)
    cloud.lag_s = 300
    cloud.loses_reply("launch")
    fleet.plan()
    fleet.launch()
    store.cancel(job)
    for _ in range(45):
        fleet.round(10)
    assert fleet.states() == ["terminated"]
    assert cloud.made() == 1
    assert cloud.alive() == []


def test_the_job_ends_and_its_machines_go(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    job = ask(2)
    fleet.round()
    for node in fleet.nodes():
        fleet.enrol(node)
    store.run_one(fleet.nodes()[0])
    assert store.state(Job, job) == "succeeded"
    fleet.round(1)
    assert fleet.states() == ["terminating"] * 2
    fleet.round(1)
    assert fleet.states() == ["terminated"] * 2
    assert {row.end_reason for row in store.rows(Node)} == {"job_done"}
    assert cloud.alive() == []
    assert [row.closed_at is not None for row in store.rows(Deployment)] == [True]


# ---- the cap (P8) ----------------------------------------------------------------------------------------------------


def test_at_the_cap_the_job_visibly_waits(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    first, second = ask(4), ask(3)
    for _ in range(3):
        fleet.round(1)
    assert len(cloud.alive()) == 5
    assert "pool main at its limit of 5" not in fleet.explained(first)
    assert "Waiting: pool main at its limit of 5 node(s)." in fleet.explained(second)
    store.cancel(first)
    for _ in range(3):
        fleet.round(1)
    assert "limit" not in fleet.explained(second)
    assert len(cloud.alive()) == 3


def test_failed_and_leaving_machines_count_against_the_cap(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    cloud.slow_to_end = True
    first = ask(5)
    fleet.round()
    store.cancel(first)
    ask(2)
    for _ in range(4):
        fleet.round(10)
    assert cloud.made() == 5
    assert fleet.states() == ["terminating"] * 5
    for id_ in list(cloud.machines):
        cloud.set_state(id_, InstanceState.ENDED)
    fleet.round(1)
    fleet.round(1)
    assert cloud.made() == 7


def test_a_thousand_failures_do_not_stop_the_planner(fleet: Fleet, store: Store, pool: int, ask: Ask) -> None:
    """However many machines fail in an hour, every pool is still planned; this one launches no more than its limit."""
    job = ask(1)
    fleet.plan()
    (deployment,) = store.rows(Deployment)
    store.force(Node, 1, state="terminated", terminating_at=store.clock(), end_reason="lost")
    row = {
        "pool_id": pool, "launch_id": 1, "deployment_id": deployment.id, "state": "terminated", "reason": "x", "slots": 1,
        "protected": False, "terminate_tries": 0, "end_reason": "lost", "requested_at": store.clock(),
    }  # fmt: skip
    many = [row | {"terminating_at": store.clock.move(0.01)} for _ in range(1100)]
    store.write(lambda tx: tx.connection.execute(insert(table(Node)), many))
    fleet.plan()
    store.clock.move(601)
    fleet.plan()
    assert not fleet.nodes("requested")
    assert "its limit is 20" in fleet.explained(job)
    store.clock.move(3000)
    fleet.plan()
    assert len(fleet.nodes("requested")) == 1
