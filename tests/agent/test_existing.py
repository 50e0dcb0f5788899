"""An agent on a machine that existed before it: whatever ends it, the machine stays up and nothing of the agent is left."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from fake_master import AgentBox, FakeMaster, until


@pytest.fixture
def existing(machine: AgentBox) -> AgentBox:
    """As `enrol.sh` leaves it; a cloud may have made it once."""
    machine.config |= {"at_end": "leave", "name": "box"}
    for path in ("etc/elastic-orchestrator/agent.json", "opt/elastic-orchestrator/agent.pyz"):
        (machine.root / path).parent.mkdir(parents=True)
        (machine.root / path).touch()
    return machine


def assert_left(machine: AgentBox) -> None:
    assert machine.wait() == 0  # so that nothing starts it again
    assert not machine.is_off
    assert "leaving this machine" in machine.said
    assert list(machine.root.rglob("*elastic-orchestrator*")) == []


def test_it_leaves_when_it_is_refused(master: FakeMaster, existing: AgentBox) -> None:
    master.enrol_answers.append((403, {"error": "no place is left"}))
    existing.start()
    assert_left(existing)


def test_it_leaves_when_its_node_has_ended(master: FakeMaster, existing: AgentBox) -> None:
    master.gone = True
    existing.start()
    assert_left(existing)


def test_it_leaves_when_its_lease_is_over(master: FakeMaster, existing: AgentBox) -> None:
    master.lease_s = 1
    existing.start()
    until(lambda: master.syncs)
    master.set(deaf=True)
    assert_left(existing)


def test_what_it_runs_is_ended_first(master: FakeMaster, existing: AgentBox, tmp_path: Path) -> None:
    master.order(1, f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done")
    existing.start()
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    master.set(gone=True)
    assert_left(existing)
    assert existing.descendants() == []


@pytest.mark.parametrize("name", ["box", ""])
def test_it_is_known_by_its_name_and_by_another_when_it_comes_again(
    master: FakeMaster, existing: AgentBox, name: str
) -> None:
    existing.config["name"] = name
    known = set()
    for _ in range(2):
        master.gone = False
        master.syncs.clear()
        existing.start()
        until(lambda: master.syncs)
        known.add(master.enrolments.pop()["instance_id"])
        master.set(gone=True)
        assert existing.wait() == 0
    assert len(known) == 2
    assert {id_.rpartition("-")[0] for id_ in known} == {name or socket.gethostname()}


def test_it_is_the_same_after_a_restart(master: FakeMaster, existing: AgentBox) -> None:
    existing.start()
    until(lambda: master.syncs)
    existing.kill9()
    master.syncs.clear()
    existing.start()
    until(lambda: master.syncs)
    assert len(master.enrolments) == 1
