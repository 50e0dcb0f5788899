"""Enrolment: a machine proves which launch it is of, once, in time, and while somebody wants it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from orchestrator.fleet.enrolment import Enrolled, Refused
from orchestrator.fleet.secrets import enrolment_secret, launch_of, load_key, sha256
from orchestrator.model.tables import Event, Node
from providers.base import RateLimited
from providers.fake import FakeCloud

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Fleet, Store

Ask = Callable[..., int]


@pytest.fixture
def node(fleet: Fleet, ask: Ask) -> int:
    """A machine that boots."""
    ask(1)
    fleet.round()
    return fleet.nodes("booting")[0]


def test_a_machine_comes_home(fleet: Fleet, store: Store, node: int) -> None:
    store.clock.move(40)
    assert fleet.enrol(node, address="10.0.0.7") == Enrolled(node, 1, 900, 90)
    row = store.one(Node, node)
    assert (row.state, row.enrolled_at, row.heartbeat_at) == ("ready", store.clock(), store.clock())
    assert row.credential_hash == sha256(f"credential-of-node-{node}")
    assert (row.agent_version, row.address) == ("1", "10.0.0.7")


def test_asking_again_is_the_same_answer(fleet: Fleet, store: Store, node: int) -> None:
    first = fleet.enrol(node)
    events = store.count(Event)
    store.clock.move(5000)
    assert fleet.enrol(node) == first
    assert store.count(Event) == events


def test_a_used_secret(fleet: Fleet, store: Store, node: int) -> None:
    fleet.enrol(node)
    answer = fleet.enrol(node, credential="of somebody else who read the user data")
    assert isinstance(answer, Refused)
    assert answer.final
    assert store.one(Node, node).credential_hash == sha256(f"credential-of-node-{node}")
    assert "the secret was used" in store.reasons(node_id=node)[-1]


@pytest.mark.parametrize(
    "secret", ["", "1", "1.", "1.00", "x.y", "-1.z", "²." + "0" * 64, "9" * 30 + ".a", "1." + "é" * 64]
)
def test_a_wrong_secret(fleet: Fleet, store: Store, node: int, secret: str) -> None:
    answer = fleet.enrol(node, secret=secret)
    assert answer == Refused("wrong enrolment secret", final=True)
    assert store.state(Node, node) == "booting"
    assert store.rows(Event, subject="enrolment")[-1].actor == "agent"


def test_another_launchs_secret(fleet: Fleet, store: Store, ask: Ask) -> None:
    ask(1)
    ask(1)
    fleet.round()
    first, second = fleet.nodes("booting")
    answer = fleet.enrol(first, secret=fleet.secret(second))
    assert isinstance(answer, Refused)
    assert answer.final
    assert fleet.states() == ["booting", "booting"]


def test_an_unknown_machine(fleet: Fleet, store: Store, node: int) -> None:
    answer = fleet.enrol(node, instance_id="i-forged")
    assert isinstance(answer, Refused)
    assert answer.final
    assert "'i-forged' is not of launch 1" in store.reasons(subject="launch")[-1]


def test_before_the_clouds_reply_was_recorded(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    """The machine was faster: it is told to ask again, not to power off."""
    ask(1)
    cloud.loses_reply("launch")
    fleet.plan()
    fleet.launch()
    (machine,) = cloud.machines
    answer = fleet.enrol(1, instance_id=machine)
    assert isinstance(answer, Refused)
    assert not answer.final
    store.clock.move(2)
    fleet.launch()
    assert isinstance(fleet.enrol(1, instance_id=machine), Enrolled)


def test_until_the_boot_deadline(fleet: Fleet, store: Store, node: int) -> None:
    store.clock.move(600)
    assert isinstance(fleet.enrol(node), Enrolled)


def test_after_the_boot_deadline(fleet: Fleet, store: Store, node: int) -> None:
    store.clock.move(600.1)
    answer = fleet.enrol(node)
    assert isinstance(answer, Refused)
    assert answer.final
    row = store.one(Node, node)
    assert (row.state, row.end_reason) == ("terminating", "boot_timeout")


def test_a_late_launch_has_its_whole_time_to_boot(fleet: Fleet, store: Store, cloud: FakeCloud, ask: Ask) -> None:
    """The cloud took nine minutes to say yes: the machine still has its ten to boot."""
    ask(1)
    cloud.fails("launch", RateLimited("slower", retry_after_s=540))
    fleet.round()
    fleet.round(540)
    assert fleet.states() == ["booting"]
    store.clock.move(300)
    fleet.deadlines()
    assert isinstance(fleet.enrol(1), Enrolled)


def test_registered_too_late(fleet: Fleet, store: Store, cloud: FakeCloud, node: int) -> None:
    """P7: the job ended while its machine booted, and the planner has not looked yet."""
    store.cancel(1)
    answer = fleet.enrol(node)
    assert isinstance(answer, Refused)
    assert answer.final
    row = store.one(Node, node)
    assert (row.state, row.end_reason) == ("terminating", "registered_too_late")
    assert "no live job asks for token acme/t-1" in row.reason
    fleet.reap()
    store.clock.move(1)
    fleet.watch()
    assert cloud.alive() == []
    assert fleet.states() == ["terminated"]


def test_the_planner_was_faster(fleet: Fleet, store: Store, node: int) -> None:
    store.cancel(1)
    fleet.plan()
    answer = fleet.enrol(node)
    assert isinstance(answer, Refused)
    assert answer.final
    assert "registered too late" in answer.reason
    assert store.state(Node, node) == "terminating"


def test_another_job_still_wants_the_token(fleet: Fleet, store: Store, ask: Ask) -> None:
    first = ask(1, token="shared")
    fleet.round()
    ask(1, token="shared")
    store.cancel(first)
    assert isinstance(fleet.enrol(1), Enrolled)


def test_another_client_with_the_same_token_does_not_count(fleet: Fleet, store: Store, ask: Ask) -> None:
    first = ask(1, token="shared")
    fleet.round()
    ask(1, token="shared", client="other")
    store.cancel(first)
    assert isinstance(fleet.enrol(1), Refused)


def test_a_machine_of_the_floor_is_always_wanted(fleet: Fleet, store: Store) -> None:
    store.pool(min_nodes=1)
    fleet.round()
    assert isinstance(fleet.enrol(1), Enrolled)


def test_a_secret_is_of_its_launch_and_installation() -> None:
    key = b"k" * 32
    secret = enrolment_secret(key, "eo-1", 7)
    assert launch_of(key, "eo-1", secret) == 7
    assert launch_of(key, "eo-2", secret) is None
    assert launch_of(b"x" * 32, "eo-1", secret) is None
    assert launch_of(key, "eo-1", "8" + secret[1:]) is None
    assert launch_of(key, "eo-1", "0" + secret) is None


def test_the_masters_key_is_made_once_and_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "master.key"
    key = load_key(path)
    assert len(key) == 32
    assert load_key(path) == key
    assert path.stat().st_mode & 0o077 == 0
    assert list(path.parent.iterdir()) == [path]
