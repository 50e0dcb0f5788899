"""Watching, deadlines and reaping: what the clouds show against what is written; nothing is judged by guesswork."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from orchestrator.fleet import leaving
from orchestrator.fleet.audit import audit
from orchestrator.fleet.reaper import again_at
from orchestrator.model.tables import Attempt, Event, Job, Node, Pool, Task
from providers.base import TAG_INSTALLATION, TAG_LAUNCH, TAG_POOL, Instance, InstanceState, Unauthorised, Unavailable
from providers.fake import FakeCloud

if TYPE_CHECKING:
    from conftest import Fleet, Store

Ask = Callable[..., int]
S = InstanceState
VISIBILITY_S = 60.0  # the fleet's own


@pytest.fixture
def ready(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> list[int]:
    """Two nodes that work for job 1, of two tasks."""
    ask(2, tasks=2)
    fleet.round()
    for node in fleet.nodes():
        fleet.enrol(node)
    for id_ in cloud.machines:
        cloud.set_state(id_, S.RUNNING)
    store.clock.move(1)  # a look judges only what was written before it
    fleet.watch()
    return fleet.nodes("ready")


def machine(store: Store, node: int) -> str:
    return str(store.one(Node, node).instance_id)


# ---- machines that go by themselves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["not shown", S.ENDED, S.ENDING, S.STOPPED, S.STOPPING, S.ERROR])
def test_a_machine_that_went_away(fleet: Fleet, store: Store, cloud: FakeCloud, ready: list[int], how: str) -> None:
    (attempt,) = store.claim(ready[0])
    store.clock.move(VISIBILITY_S)
    if how == "not shown":
        cloud.forget(machine(store, ready[0]))
    else:
        cloud.set_state(machine(store, ready[0]), S(how), fault="the host failed")
    fleet.watch()
    row = store.one(Node, ready[0])
    assert (row.state, row.end_reason) == ("terminating", "vanished")
    assert store.state(Attempt, attempt) == "lost"
    assert store.task_states(1) == {"t0": "queued", "t1": "queued"}
    assert store.state(Node, ready[1]) == "ready"
    fleet.reap()
    fleet.watch()
    assert store.state(Node, ready[0]) == "terminated"
    assert store.run_one(ready[1]) == "t0"  # the other node does its work


@pytest.mark.parametrize("state", [S.PENDING, S.RUNNING, S.UNKNOWN])
def test_a_machine_that_lives(fleet: Fleet, store: Store, cloud: FakeCloud, ready: list[int], state: InstanceState) -> None:
    cloud.set_state(machine(store, ready[0]), state)
    fleet.watch()
    assert fleet.states() == ["ready", "ready"]


def test_the_infrastructure_budget_is_spent_then_the_task_fails(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask
) -> None:
    job = ask(1, retry={"infrastructure_attempts": 2})
    for round_ in range(2):
        fleet.round(120)
        node = fleet.nodes("booting")[0]
        fleet.enrol(node)
        store.clock.move(VISIBILITY_S)
        fleet.watch()
        assert len(store.claim(node)) == 1
        cloud.forget(machine(store, node))
        fleet.watch()
        assert store.states(Task) == (["queued"] if round_ == 0 else ["failed"])
    assert store.state(Job, job) == "failed"
    (task,) = store.rows(Task)
    assert (task.job_failures, task.infrastructure_failures) == (0, 2)
    assert store.states(Attempt) == ["lost", "lost"]
    fleet.round(1)
    fleet.round(1)
    assert cloud.alive() == []


def test_not_visible_yet_is_not_gone(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    cloud.lag_s = 50
    ask(1)
    fleet.round()
    fleet.round(49)
    assert fleet.states() == ["booting"]
    fleet.round(1)
    assert store.one(Node, 1).seen_at == store.clock()
    cloud.forget("i-0000")
    fleet.round(9)
    assert fleet.states() == ["booting"]  # seen or not: a copy of the cloud that lags shows it once and then not
    fleet.round(1)
    assert fleet.states() == ["terminating"]


def test_a_listing_is_as_old_as_its_question(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer took a minute: a machine that was not visible yet when it began has not gone."""
    cloud.lag_s = 50
    ask(1)
    fleet.plan()
    fleet.launch()
    store.clock.move(1)
    listing = FakeCloud.instances

    def slow(self: FakeCloud, installation: str) -> list[Instance]:
        shown = listing(self, installation)
        store.clock.move(VISIBILITY_S)
        return shown

    monkeypatch.setattr(FakeCloud, "instances", slow)
    fleet.watch()
    assert fleet.states() == ["booting"]


def test_never_visible_is_gone_in_the_end(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    ask(1)
    fleet.round()
    store.force(Node, 1, seen_at=None)
    cloud.forget("i-0000")
    store.clock.move(59)
    fleet.watch()
    assert fleet.states() == ["booting"]
    store.clock.move(1)
    fleet.watch()
    assert fleet.states() == ["terminating"]


def test_a_row_written_after_the_listing_began_is_not_judged_by_it(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask
) -> None:
    """The listing was taken, then the launch answered: its machine is missing there, and no orphan either."""
    ask(1)
    fleet.plan()
    provider = fleet.clouds.get("toy")
    listing = provider.instances

    def slowly() -> list[object]:
        seen = listing()
        store.clock.move(100)
        fleet.launch()
        return seen

    provider.instances = slowly  # type: ignore[method-assign, assignment]
    fleet.watch()
    assert fleet.states() == ["booting"]


# ---- listings that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Unavailable("500"), Unauthorised("keys expired")])
def test_a_failed_listing_judges_nobody(
    fleet: Fleet, store: Store, cloud: FakeCloud, ready: list[int], error: Exception
) -> None:
    store.write(lambda tx: leaving.at_once(tx, ready[0], "operator", "asked"))
    fleet.reap()
    store.clock.move(VISIBILITY_S)
    cloud.forget(machine(store, ready[1]))
    cloud.fails("instances", *[error] * 3)
    for _ in range(3):
        fleet.watch()
    assert fleet.states() == ["terminating", "ready"]
    told = [reason for reason in store.reasons(subject="cloud") if "cannot be listed" in reason]
    assert len(told) == 1  # said once, not at every look
    fleet.watch()
    assert fleet.states() == ["terminated", "terminating"]
    assert "cloud toy can be listed again" in store.reasons(subject="cloud")


def test_an_empty_listing_does_judge(fleet: Fleet, store: Store, cloud: FakeCloud, ready: list[int]) -> None:
    cloud.machines.clear()
    fleet.watch()
    assert fleet.states() == ["ready"] * 2  # launched just now
    store.clock.move(VISIBILITY_S)
    fleet.watch()
    assert fleet.states() == ["terminating"] * 2
    fleet.watch()
    assert fleet.states() == ["terminated"] * 2


# ---- terminating -----------------------------------------------------------------------------------------------------


def test_terminated_only_when_no_longer_shown(fleet: Fleet, store: Store, cloud: FakeCloud, ready: list[int]) -> None:
    cloud.slow_to_end = True
    store.write(lambda tx: leaving.at_once(tx, ready[0], "operator", "asked"))
    fleet.reap()
    assert cloud.ended == [machine(store, ready[0])]
    for state in (S.RUNNING, S.ENDING, S.STOPPED, S.UNKNOWN, S.ERROR):
        cloud.set_state(machine(store, ready[0]), state)
        fleet.watch()
        assert store.state(Node, ready[0]) == "terminating", state
    cloud.set_state(machine(store, ready[0]), S.ENDED)
    fleet.watch()
    row = store.one(Node, ready[0])
    assert (row.state, row.terminated_at) == ("terminated", store.clock())


def test_termination_is_asked_again_with_back_off_and_alarm(
    fleet: Fleet, store: Store, cloud: FakeCloud, ready: list[int]
) -> None:
    cloud.slow_to_end = True
    store.write(lambda tx: leaving.at_once(tx, ready[0], "operator", "asked"))
    begin = store.clock()
    asked_at = []
    for _ in range(260):
        before = cloud.calls["terminate"]
        fleet.reap()
        if cloud.calls["terminate"] > before:
            asked_at.append((store.clock() - begin).total_seconds())
        store.clock.move(5)
    assert asked_at == [0, 15, 45, 105, 225, 465, 765, 1065]  # 15 s, doubled, at most 5 minutes, for ever
    alarms = [reason for reason in store.reasons(node_id=ready[0]) if reason.startswith("ALARM")]
    assert len(alarms) == 1  # asked at 1065 s, later than the pool's 900
    assert store.one(Node, ready[0]).terminate_tries == len(asked_at)


def test_a_refused_termination_is_told_and_asked_again(
    fleet: Fleet, store: Store, cloud: FakeCloud, ready: list[int]
) -> None:
    for node in ready:
        store.write(lambda tx, node=node: leaving.at_once(tx, node, "operator", "asked"))
    cloud.fails("terminate", Unavailable("500"))
    fleet.reap()
    assert len(cloud.alive()) == 2
    assert sum("did not take the request" in reason for reason in store.reasons(subject="node")) == 2
    fleet.reap()
    assert cloud.calls["terminate"] == 1
    store.clock.move(15)
    fleet.reap()
    fleet.watch()
    assert fleet.states() == ["terminated"] * 2


def test_a_new_master_goes_on_terminating(fleet: Fleet, store: Store, cloud: FakeCloud, ready: list[int]) -> None:
    cloud.fails("terminate", Unavailable("500"))
    store.write(lambda tx: leaving.at_once(tx, ready[0], "operator", "asked"))
    fleet.reap()
    fleet.restart()
    store.clock.move(15)
    fleet.reap()
    assert len(cloud.alive()) == 1


def test_again_at_never_overflows(store: Store) -> None:
    assert again_at(None, 0) is None
    at = again_at(store.clock(), 10**6)
    assert at is not None
    assert (at - store.clock()).total_seconds() == 300


# ---- deadlines -------------------------------------------------------------------------------------------------------


def test_boot_timeout(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    ask(1)
    fleet.round()
    store.clock.move(600)
    fleet.deadlines()
    assert fleet.states() == ["booting"]
    store.clock.move(1)
    fleet.deadlines()
    row = store.one(Node, 1)
    assert (row.state, row.end_reason) == ("terminating", "boot_timeout")
    fleet.reap()
    fleet.watch()
    assert fleet.states() == ["terminated"]
    fleet.round(14)
    assert len(fleet.nodes("booting")) == 0  # the next one waits 15 s
    fleet.round(1)
    assert len(fleet.nodes("booting")) == 1


def test_heartbeat_timeout(fleet: Fleet, store: Store, ready: list[int]) -> None:
    (attempt,) = store.claim(ready[0])
    heard = store.clock.move(59)
    fleet.deadlines({ready[1]: heard})
    assert store.one(Node, ready[1]).heartbeat_at == heard
    store.clock.move(30)
    fleet.deadlines()
    assert fleet.states() == ["ready", "ready"]
    store.clock.move(1)
    fleet.deadlines()
    row = store.one(Node, ready[0])
    assert (row.state, row.end_reason) == ("terminating", "lost")
    assert store.state(Node, ready[1]) == "ready"
    assert store.state(Attempt, attempt) == "lost"
    assert store.task_states(1)["t0"] == "queued"


def test_a_new_master_first_listens(fleet: Fleet, store: Store, ready: list[int]) -> None:
    """The master was away for an hour: its nodes have the whole heartbeat time to be heard of."""
    store.clock.move(3600)
    fleet.restart()
    fleet.deadlines()
    assert fleet.states() == ["ready", "ready"]
    store.clock.move(90)
    fleet.deadlines({ready[0]: store.clock()})
    assert fleet.states() == ["ready", "ready"]
    store.clock.move(1)
    fleet.deadlines()
    assert fleet.states() == ["ready", "terminating"]


def test_drain_timeout(fleet: Fleet, store: Store, ready: list[int]) -> None:
    (attempt,) = store.claim(ready[0])
    store.write(lambda tx: leaving.begin(tx, ready[0], "operator", "asked", actor="anna"))
    assert store.state(Node, ready[0]) == "draining"
    store.clock.move(300)
    fleet.deadlines({node: store.clock() for node in ready})
    assert store.state(Node, ready[0]) == "draining"
    store.clock.move(1)
    fleet.deadlines({node: store.clock() for node in ready})
    row = store.one(Node, ready[0])
    assert (row.state, row.end_reason) == ("terminating", "operator")
    assert store.state(Attempt, attempt) == "lost"


def test_a_drained_node_ends_without_waiting(fleet: Fleet, store: Store, ready: list[int]) -> None:
    (attempt,) = store.claim(ready[0])
    store.write(lambda tx: leaving.begin(tx, ready[0], "operator", "asked"))
    store.report(ready[0], attempt)
    fleet.deadlines({node: store.clock() for node in ready})
    assert store.state(Node, ready[0]) == "terminating"


def test_leaving_twice_changes_nothing(fleet: Fleet, store: Store, ready: list[int]) -> None:
    store.write(lambda tx: leaving.at_once(tx, ready[0], "operator", "first"))
    before = store.rows(Node), store.rows(Event)
    store.write(lambda tx: leaving.at_once(tx, ready[0], "lost", "second"))
    store.write(lambda tx: leaving.begin(tx, ready[0], "job_done", "third"))
    assert (store.rows(Node), store.rows(Event)) == before


# ---- orphans and strangers -------------------------------------------------------------------------------------------


def orphan(fleet: Fleet, cloud: FakeCloud) -> str:
    return cloud.stranger(
        **{TAG_INSTALLATION: fleet.installation, TAG_LAUNCH: f"{fleet.installation}-999", TAG_POOL: "main"}
    )


def test_an_orphan_is_marked_then_ended_after_its_grace(fleet: Fleet, store: Store, cloud: FakeCloud, pool: int) -> None:
    id_ = orphan(fleet, cloud)
    fleet.watch()
    store.clock.move(59)
    fleet.watch()
    assert cloud.alive() == [id_]
    marked = [reason for reason in store.reasons(subject="cloud") if "orphan, watched" in reason]
    assert len(marked) == 1
    store.clock.move(1)
    fleet.watch()
    assert cloud.alive() == []
    assert any(f"orphan {id_} in toy is ended" in reason for reason in store.reasons(subject="cloud"))


def test_an_orphan_must_be_seen_again(fleet: Fleet, store: Store, cloud: FakeCloud, pool: int) -> None:
    """Its grace begins anew when it was not to be seen, and with every new master."""
    id_ = orphan(fleet, cloud)
    fleet.watch()
    hidden = cloud.machines.pop(id_)
    fleet.watch()
    cloud.machines[id_] = hidden
    store.clock.move(61)
    fleet.watch()
    assert cloud.alive() == [id_]
    fleet.restart()
    store.clock.move(59)
    fleet.watch()
    assert cloud.alive() == [id_]


def test_an_orphans_refused_end_is_asked_again(fleet: Fleet, store: Store, cloud: FakeCloud, pool: int) -> None:
    orphan(fleet, cloud)
    fleet.watch()
    store.clock.move(60)
    cloud.fails("terminate", Unavailable("500"))
    fleet.watch()
    assert len(cloud.alive()) == 1
    store.clock.move(5)
    fleet.watch()
    assert cloud.alive() == []


def test_a_machine_of_a_terminated_node_is_an_orphan(
    fleet: Fleet, store: Store, cloud: FakeCloud, ready: list[int]
) -> None:
    """A listing that lacked it ended its row; it comes to light again."""
    store.force(Node, ready[0], state="terminated")
    fleet.watch()
    store.clock.move(60)
    fleet.watch()
    assert machine(store, ready[0]) not in cloud.alive()


@pytest.mark.parametrize("ignores_filters", [False, True], ids=["", "cloud ignores filters"])
def test_strangers_are_never_touched(
    fleet: Fleet, store: Store, cloud: FakeCloud, ready: list[int], ignores_filters: bool
) -> None:
    cloud.shows_strangers = ignores_filters
    strangers = {
        cloud.stranger(),
        cloud.stranger(**{TAG_INSTALLATION: "eo-somebody-else", TAG_LAUNCH: "eo-somebody-else-1", TAG_POOL: "main"}),
        cloud.stranger(**{TAG_POOL: "main"}),
        *(cloud.stranger(**{TAG_INSTALLATION: "eo-somebody-else", TAG_POOL: "main"}) for _ in range(10)),
    }
    for _ in range(5):
        fleet.round(60)
        fleet.deadlines({node: store.clock() for node in ready})
    assert strangers <= set(cloud.alive())
    assert not strangers & set(cloud.ended)
    assert store.rows(Pool)[0].frozen_reason is None


# ---- overshoot -------------------------------------------------------------------------------------------------------


def test_overshoot_freezes_and_thaws(
    fleet: Fleet, store: Store, cloud: FakeCloud, ready: list[int], pool: int, ask: Ask
) -> None:
    orphans = [orphan(fleet, cloud) for _ in range(4)]  # with the two: 6, the cap is 5
    fleet.watch()
    assert store.one(Pool, pool).frozen_reason == "6 machines are shown where at most 5 may be"
    job = ask(1)
    fleet.plan()
    assert fleet.nodes("requested") == []
    assert "pool main is frozen" in fleet.explained(job)
    for id_ in orphans:
        cloud.forget(id_)
    fleet.watch()
    assert store.one(Pool, pool).frozen_reason is None
    fleet.plan()
    assert len(fleet.nodes("requested")) == 1
    told = [reason for reason in store.reasons(subject="pool", pool_id=pool) if "frozen" in reason]
    assert len(told) == 2


def test_launches_in_flight_are_no_overshoot(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask, pool: int) -> None:
    ask(5)
    cloud.loses_reply("launch")
    fleet.plan()
    fleet.launch()
    fleet.watch()
    assert store.one(Pool, pool).frozen_reason is None
    assert cloud.calls["terminate"] == 0  # nor are they orphans, however long it takes
    store.clock.move(300)
    fleet.watch()
    assert cloud.calls["terminate"] == 0


def test_a_lowered_cap_is_no_overshoot(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask, pool: int) -> None:
    """Nodes from before, and their machines while they end, were rightfully there."""
    cloud.slow_to_end = True
    job = ask(4)
    fleet.round()
    store.force(Pool, pool, max_nodes=1)
    fleet.watch()
    assert store.one(Pool, pool).frozen_reason is None
    store.cancel(job)
    fleet.round(1)
    assert fleet.states() == ["terminating"] * 4
    fleet.watch()
    assert store.one(Pool, pool).frozen_reason is None


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_an_audit_agrees_before_and_after(fleet: Fleet, store: Store, cloud: FakeCloud, ready: list[int]) -> None:
    found = audit(store.engine, fleet.clouds, fleet.installation)  # type: ignore[arg-type]
    assert found.agrees
    assert found.document()["alive"] == found.document()["accounted"] == 2
    lost = orphan(fleet, cloud)
    found = audit(store.engine, fleet.clouds, fleet.installation)  # type: ignore[arg-type]
    assert [finding.machine for finding in found.findings if finding.trouble] == [lost]
    cloud.fails("instances", Unavailable("500"))
    assert audit(store.engine, fleet.clouds, fleet.installation).unreachable == {"toy": "500"}  # type: ignore[arg-type]
