"""The host's clock jumps by an hour under a running master: no node is lost by it, and nothing waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.clock import SteadyClock
from orchestrator.fleet import deadlines, reaper
from orchestrator.jobs.due import wake_due
from orchestrator.model.states import NodeState, TaskState
from orchestrator.model.tables import Node, Task

if TYPE_CHECKING:
    from conftest import MovableClock, Store

HOUR = 3600.0


class Host:
    """The store's clock is the host's, with its jumps; the master goes by a steady one over it."""

    def __init__(self, store: Store) -> None:
        self._wall: MovableClock = store.clock
        self._monotonic_s = 0.0
        self._store = store
        self.steady = SteadyClock(lambda: self._wall().timestamp(), lambda: self._monotonic_s)
        self._listening_since = self.steady()
        store.writer._clock = self.steady

    def passes(self, seconds: float) -> None:
        self._wall.move(seconds)
        self._monotonic_s += seconds

    def jumps(self, seconds: float) -> None:
        self._wall.move(seconds)

    def keeps_deadlines(self, *heard: int) -> None:
        now = self.steady()
        self._store.write(lambda tx: deadlines.keep(tx, dict.fromkeys(heard, now), self._listening_since))


@pytest.fixture
def host(store: Store) -> Host:
    return Host(store)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_no_healthy_node_is_lost_and_a_silent_one_is_found_in_time(jump: float, store: Store, host: Host) -> None:
    pool = store.pool(heartbeat_timeout_s=30, boot_timeout_s=60)
    healthy, silent = store.node(pool), store.node(pool)
    booting = store.node(pool, NodeState.BOOTING)
    host.jumps(jump)
    for _ in range(5):
        host.passes(5)
        host.keeps_deadlines(healthy)
    assert store.states(Node) == [NodeState.READY, NodeState.READY, NodeState.BOOTING]
    for _ in range(9):
        host.passes(5)
        host.keeps_deadlines(healthy)
    assert store.state(Node, healthy) == NodeState.READY
    assert (store.one(Node, silent).end_reason, store.one(Node, booting).end_reason) == ("lost", "boot_timeout")


def test_a_retry_does_not_wait_for_an_hour(store: Store, host: Host) -> None:
    node = store.node(store.pool())
    job = store.job(retry={"attempts": 2, "delay": "10s"})
    store.run_one(node, exit_code=1)
    host.jumps(-HOUR)
    host.passes(12)
    store.write(wake_due)
    assert store.run_one(node) == "t0"
    assert store.states(Task, job_id=job) == [TaskState.SUCCEEDED]


def test_a_machine_is_asked_to_end_again_within_minutes(store: Store, host: Host) -> None:
    store.node(store.pool(), NodeState.TERMINATING)
    assert store.write(reaper._take_due)
    host.jumps(-HOUR)
    assert not store.write(reaper._take_due)
    host.passes(20)
    assert store.write(reaper._take_due)
