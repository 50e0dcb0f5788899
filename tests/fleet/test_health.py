"""The three signals of a node, their strikes, the deadlines of a boot and what is kept of one that failed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from orchestrator.fleet import leaving, signals
from orchestrator.fleet.explain import explain_node
from orchestrator.fleet.health import silent_strikes
from orchestrator.model.tables import Attempt, Node, Pool, Task
from providers.base import TAG_INSTALLATION, InstanceState
from providers.fake import FakeCloud

if TYPE_CHECKING:
    from conftest import Store

    from tests.fleet.conftest import Fleet

Ask = Callable[..., int]


@pytest.fixture
def ready(fleet: Fleet, store: Store, ask: Ask) -> int:
    """One ready node with one task running."""
    store.force(Pool, 1, heartbeat_timeout_s=86_400)
    ask(1)
    fleet.round()
    fleet.enrol(1)
    assert store.claim(1)
    return 1


def why(store: Store, node: int) -> str:
    with store.engine.connect() as connection:
        told = explain_node(connection, node, store.clock())
    assert told is not None
    return " ".join(told.sentences)


def test_a_machine_that_fails_the_clouds_checks_drains_after_so_many_strikes(
    fleet: Fleet, store: Store, cloud: FakeCloud, ready: int
) -> None:
    cloud.impaired = {"i-0000": "instance reachability check failed"}
    for strikes in (1, 2):
        fleet.round(61)
        row = store.one(Node, ready)
        assert (row.state, row.cloud_strikes) == ("ready", strikes)
    assert f"Signal of the cloud: {InstanceState.PENDING}: instance reachability check failed" in why(store, ready)
    fleet.round(61)
    row = store.one(Node, ready)
    assert (row.state, row.end_reason) == ("draining", "unhealthy")
    assert "3 strikes of its cloud's checks: instance reachability check failed" in row.reason
    assert store.rows(Attempt)[0].state == "running"  # what runs may finish
    store.report(ready, 1)
    fleet.round(1)
    assert store.one(Task, 1).state == "succeeded"
    assert cloud.ended == ["i-0000"]


def test_a_good_look_takes_the_strikes_back_and_looks_are_a_minute_apart(
    fleet: Fleet, store: Store, cloud: FakeCloud, ready: int
) -> None:
    before = cloud.calls["impaired"]
    cloud.impaired = {"i-0000": "bad"}
    for _ in range(12):
        fleet.round(10)
    assert cloud.calls["impaired"] - before == 2
    assert store.one(Node, ready).cloud_strikes == 2
    cloud.impaired = {}
    fleet.round(61)
    assert store.one(Node, ready).cloud_strikes == 0
    assert "its cloud's checks pass again" in store.reasons(node_id=ready)


def test_an_engine_that_cannot_start_processes_drains_its_node(fleet: Fleet, store: Store, ready: int) -> None:
    for _ in range(3):
        assert store.one(Node, ready).state == "ready"
        store.write(lambda tx: signals.engine_checked(tx, ready, "no space left on device"))
        fleet.deadlines()
    row = store.one(Node, ready)
    assert (row.state, row.end_reason) == ("draining", "unhealthy")
    assert "3 strikes of its engine: no space left on device" in row.reason
    assert "Signal of the engine: no space left on device" in why(store, ready)


def test_silence_is_told_in_strikes(fleet: Fleet, store: Store, ready: int) -> None:
    store.force(Pool, 1, heartbeat_timeout_s=90)
    store.clock.move(61)
    assert "Signal of the agent: its agent calls home, 61 s ago; 2 of 3 strikes." in why(store, ready)
    store.clock.move(30)
    fleet.deadlines()
    assert store.one(Node, ready).end_reason == "lost"
    assert [silent_strikes(s, 90, 3) for s in (0, 29, 30, 89, 90, 500)] == [0, 0, 1, 2, 3, 3]


def test_the_phases_of_a_boot_are_shown_and_its_console_is_kept_when_it_fails(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask
) -> None:
    ask(1)
    fleet.round()
    cloud.set_state("i-0000", InstanceState.RUNNING)
    fleet.round(1)
    assert "Its boot has come as far as: instance running" in why(store, 1)
    cloud.consoles["i-0000"] = "Kernel panic - not syncing"
    fleet.round(601)
    row = store.one(Node, 1)
    assert (row.end_reason, row.console) == ("boot_timeout", "Kernel panic - not syncing")
    assert "it came as far as: instance running" in " ".join(store.reasons(node_id=1))
    assert "orchestrator node console 1" in why(store, 1)
    assert cloud.ended == ["i-0000"]


def test_an_agent_that_was_fetched_has_its_own_time_to_enrol(fleet: Fleet, store: Store, ask: Ask) -> None:
    ask(1)
    fleet.round()
    row = store.one(Node, 1)
    store.write(lambda tx: signals.reached(tx, row, signals.FETCHED))
    fleet.round(119)
    assert store.one(Node, 1).state == "booting"
    fleet.listening_since = store.clock() - timedelta(seconds=1)  # a master that was away counts from its return
    fleet.round(10)
    assert store.one(Node, 1).state == "booting"
    fleet.round(111)
    assert store.one(Node, 1).end_reason == "enrol_timeout"


def test_a_console_that_cannot_be_read_keeps_no_machine(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    ask(1)
    fleet.round()
    fleet.round(601)
    row = store.one(Node, 1)
    assert row.console is None
    assert cloud.ended == ["i-0000"]


def test_a_protected_node_is_released_by_nobody_but_an_operator(fleet: Fleet, store: Store, ready: int) -> None:
    store.write(lambda tx: leaving.protect(tx, ready, True, actor="anna"))
    store.report(ready, 1)
    for _ in range(3):
        fleet.round(30)
    assert store.one(Node, ready).state == "ready"
    assert "It is protected" in why(store, ready)
    store.write(lambda tx: leaving.protect(tx, ready, False, actor="anna"))
    fleet.round(1)
    assert store.one(Node, ready).end_reason == "job_done"
    assert not store.write(lambda tx: leaving.protect(tx, 99, True, actor="anna"))


def test_an_audit_that_mends_ends_orphans_without_their_grace_and_no_strangers(
    fleet: Fleet, store: Store, cloud: FakeCloud, pool: int
) -> None:
    orphan = cloud.stranger(**{TAG_INSTALLATION: fleet.installation})
    stranger = cloud.stranger(**{TAG_INSTALLATION: "somebody-else"})
    cloud.shows_strangers = True
    fleet.watch()
    assert cloud.ended == []
    fleet.watcher.fix()
    assert cloud.ended == [orphan]
    assert stranger in cloud.alive()
