"""Rungs, holds and the circuit breaker: what cannot be had is left alone, the next kind is taken, one machine tries again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.fleet import leaving
from orchestrator.model.tables import Deployment, Hold, Job, Launch, Node, Task
from providers.base import Cause, InstanceState, Misconfigured, NoCapacity
from providers.fake import FakeCloud

if TYPE_CHECKING:
    from conftest import Store

    from tests.fleet.conftest import Fleet

BASE = {"image": "ami-1", "instance_type": "small.1"}
LADDER = {**BASE, "rungs": [{"instance_type": "cheap"}, {"instance_type": "dear"}]}
Ask = Callable[..., int]


@pytest.fixture
def ladder(store: Store, fleet: Fleet) -> int:
    return store.pool(name="main", max_nodes=5, launch=LADDER)


@pytest.fixture
def ask(store: Store) -> Ask:
    def submit(count: int = 1, **more: Any) -> int:
        return store.job(1, infrastructure={"pool": "main", "count": count, "token": "t-$JOB_ID", **more})

    return submit


def types(store: Store) -> list[str]:
    return [row.instance_type for row in store.rows(Launch)]


@pytest.mark.usefixtures("ladder")
def test_no_capacity_takes_the_next_rung_at_once_and_says_so(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask
) -> None:
    job = ask(2)
    cloud.fails("launch", NoCapacity("none left"))
    fleet.round()
    fleet.round(0.1)
    assert types(store) == ["cheap", "dear"]
    assert len(cloud.alive()) == 2
    assert any("cheap is not launched until" in reason for reason in store.reasons(subject="pool"))
    cloud.fails("launch", NoCapacity("none left there either"))
    other = ask(1)
    fleet.round(1)
    told = fleet.explained(other)
    assert "cheap: no_capacity: none left" in told
    assert "dear: no_capacity: none left there either" in told
    assert "Waiting" not in fleet.explained(job)


@pytest.mark.usefixtures("ladder")
def test_the_first_rung_is_tried_again_by_one_machine_and_taken_when_it_works(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask
) -> None:
    ask(1)
    cloud.fails("launch", NoCapacity("none left"))
    fleet.round()
    fleet.round(121)
    ask(3)
    fleet.round(1)
    assert types(store) == ["cheap", "cheap", "dear"]
    assert [row.probe for row in store.rows(Launch)] == [False, True, False]
    probe = next(row.id for row in store.rows(Node) if row.launch_id == 2)
    fleet.enrol(probe)
    assert store.rows(Hold) == []
    ask(1)
    fleet.round(1)
    assert types(store)[-1] == "cheap"


@pytest.mark.usefixtures("ladder")
def test_a_probe_that_is_called_off_leaves_the_place_to_another(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask
) -> None:
    cloud.fails("launch", NoCapacity("none left"))
    store.cancel(ask(1))
    first = ask(1)
    fleet.round()
    fleet.round(121)
    store.cancel(first)
    fleet.round(1)
    ask(1)
    fleet.round(121)
    assert [row.probe for row in store.rows(Launch)].count(True) >= 1
    assert store.rows(Node)[-1].state in ("booting", "launching")


@pytest.mark.parametrize("cause", [Cause.NO_CAPACITY, Cause.QUOTA, Cause.RECLAIMED])
@pytest.mark.usefixtures("ladder")
def test_a_shortage_that_shows_only_in_the_listing_moves_on_too(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask, cause: Cause
) -> None:
    """Nova and CloudStack accept a launch and turn the machine to an error later."""
    ask(1)
    fleet.round()
    (machine,) = cloud.machines.values()
    machine.shown = replace(machine.shown, state=InstanceState.ERROR, fault="No valid host was found.", cause=cause)
    fleet.round(1)
    row = store.rows(Node)[0]
    assert row.end_reason == cause
    assert "No valid host" in row.reason
    fleet.round(1)
    assert types(store) == ["cheap", "dear"]
    assert cloud.ended == ["i-0000"]


@pytest.mark.usefixtures("ladder")
def test_a_rung_that_is_misconfigured_is_passed_over(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    job = ask(1)
    cloud.fails("launch", Misconfigured("there is no image ami-1"))
    fleet.round()
    fleet.round(0.1)
    assert types(store) == ["cheap", "dear"]
    assert "paused" not in fleet.explained(job)


def test_the_next_rung_may_be_in_another_cloud(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    other = FakeCloud(store.clock)
    fleet.clouds._providers["other"] = other.provider(fleet.installation)
    store.pool(name="main", launch={**BASE, "rungs": [{}, {"cloud": "other", "image": "deb", "instance_type": "m1"}]})
    job = ask(2)
    cloud.fails("launch", NoCapacity("none left"))
    fleet.round()
    fleet.round(0.1)
    assert len(other.alive()) == 2
    assert other.requests.popitem()[1].image == "deb"
    for node in fleet.nodes("booting"):
        fleet.enrol(node)
    store.cancel(job)
    for _ in range(3):
        fleet.round(1)
    assert other.alive() == []
    assert set(fleet.states()) == {"terminated"}


def test_the_breaker_opens_after_boot_failures_in_a_row_and_one_canary_closes_it(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask
) -> None:
    store.pool(name="main", max_nodes=5, launch=BASE, breaker_failures=3, breaker_pause_s=300)
    job = ask(1)
    for _ in range(3):
        fleet.round(61)
        fleet.round(601)
    assert [row.end_reason for row in store.rows(Node)] == ["boot_timeout"] * 3
    fleet.round(61)
    assert len(store.rows(Node)) == 3  # open: nothing is launched
    told = fleet.explained(job)
    assert "3 machine(s) in a row failed" in told
    assert "tried again after" in told
    other = ask(2)
    fleet.round(301)
    canary = fleet.nodes("booting")
    assert len(canary) == 1  # half open: one machine for all who wait
    assert "one machine is trying it again" in fleet.explained(other)
    fleet.enrol(canary[0])
    fleet.round(1)
    assert len(cloud.alive()) == 3  # closed
    assert store.one(Task, 1).job_failures == 0


def test_a_canary_that_fails_keeps_the_breaker_open_for_longer(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask
) -> None:
    store.pool(name="main", max_nodes=5, launch=BASE, breaker_failures=1, breaker_pause_s=300)
    ask(1)
    fleet.round()
    fleet.round(601)
    fleet.round(301)
    assert len(fleet.nodes("booting")) == 1
    fleet.round(601)
    fleet.round(599)
    assert not fleet.nodes("booting", "launching", "requested")
    fleet.round(20)
    assert len(fleet.nodes("booting")) == 1


def test_after_as_many_relaunches_as_are_allowed_the_job_fails_for_the_infrastructures_reason(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask
) -> None:
    store.pool(name="main", max_nodes=5, launch=BASE, breaker_failures=50)
    job = ask(1, relaunches=1)
    for _ in range(3):
        fleet.round(61)
        fleet.round(601)
    assert store.one(Job, job).state == "failed"
    task = store.one(Task, 1)
    assert (task.state, task.attempts, task.job_failures) == ("failed", 0, 0)
    assert "2 machine(s) with token acme/t-1 failed before they were of use" in task.reason
    assert len(store.rows(Node)) == 2


def test_a_job_that_has_some_of_its_machines_goes_on_with_those(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask
) -> None:
    store.pool(name="main", max_nodes=5, launch=BASE, breaker_failures=50, heartbeat_timeout_s=86_400)
    job = ask(2, relaunches=0)
    fleet.round()
    fleet.enrol(1)
    fleet.round(601)
    fleet.round(61)
    assert len(store.rows(Node)) == 2
    assert store.one(Job, job).state == "queued"
    assert any("goes on with 1 of 2" in reason for reason in store.reasons(subject="deployment"))


def test_a_task_that_comes_back_after_its_machines_were_given_up_fails_too(
    fleet: Fleet, store: Store, cloud: FakeCloud
) -> None:
    """Found by seed 386 of the simulation: it ran on a machine that was leaving, failed, and would have waited for ever."""
    store.pool(
        name="main", max_nodes=5, launch=BASE, breaker_failures=50, heartbeat_timeout_s=86_400, drain_timeout_s=86_400
    )
    machines = {"pool": "main", "count": 1, "token": "t-$JOB_ID", "relaunches": 0}
    job = store.job(retry={"attempts": 2}, infrastructure=machines)
    fleet.round()
    fleet.enrol(1)
    (attempt,) = store.claim(1)
    store.write(lambda tx: leaving.begin(tx, 1, "reclaimed", "its cloud takes it back"))
    fleet.round(1)
    fleet.round(601)
    fleet.round(1)
    assert store.one(Node, 2).end_reason == "boot_timeout"
    assert store.one(Deployment, 1).closed_at is not None
    assert store.task_states(job) == {"t0": "running"}
    store.report(1, attempt, exit_code=1)
    assert store.task_states(job) == {"t0": "queued"}
    fleet.round(1)
    assert store.task_states(job) == {"t0": "failed"}
    assert "failed before they were of use" in store.one(Task, 1).reason
