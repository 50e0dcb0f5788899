"""What the fleet costs a cloud in calls, and that a cloud which refuses them still gets its machines ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from orchestrator.model.states import NodeState
from orchestrator.model.tables import Node
from providers.base import RateLimited
from providers.limited import LimitedProvider
from providers.limits import Limiter

if TYPE_CHECKING:
    from conftest import Fleet, Store
    from toycloud import ToyCloud


@pytest.fixture
def paced(store: Store, cloud: ToyCloud, fleet: Fleet) -> Fleet:
    """The fleet with its cloud called at its account's pace, as a master calls it."""
    limiter = Limiter(lambda: store.clock().timestamp())
    fleet.clouds = type(fleet.clouds)({"toy": LimitedProvider(fleet.clouds.get("toy"), limiter)})  # type: ignore[dict-item]
    fleet.restart()
    return fleet


def test_a_thousand_nodes_cost_one_listing_a_tick(paced: Fleet, store: Store, cloud: ToyCloud) -> None:
    store.pool("large", max_nodes=1000, min_nodes=1000)
    paced.plan()
    paced.launch()
    store.clock.move(5)
    paced.watch()
    assert len(cloud.alive()) == 1000
    assert cloud.calls["launch"] <= 20
    cloud.calls.clear()
    for _ in range(3):
        store.clock.move(10)
        paced.watch()
    assert cloud.calls["instances"] == 3
    assert cloud.calls.total() <= 6, cloud.calls  # one more listing a tick where status checks are looked at


def test_a_thousand_nodes_are_ended_by_one_call(paced: Fleet, store: Store, cloud: ToyCloud) -> None:
    pool = store.pool("large", max_nodes=1000)
    for _ in range(1000):
        store.node(pool, NodeState.TERMINATING)
    paced.reap()
    assert cloud.calls == {"terminate": 1}
    assert len(cloud.ended) == 1000


def test_a_throttled_account_still_ends_machines(
    paced: Fleet, cloud: ToyCloud, store: Store, ask: Callable[..., int]
) -> None:
    job = ask(count=2)
    paced.round()
    assert len(cloud.alive()) == 2
    cloud.fails("instances", RateLimited("too many calls", 600))
    store.clock.move(5)
    paced.watch()
    store.cancel(job)
    for _ in range(3):
        paced.round(5)
    assert cloud.alive() == []
    assert cloud.calls["terminate"] >= 1
    assert store.states(Node) == [NodeState.TERMINATING] * 2  # only a listing says that they are gone
    assert cloud.calls["instances"] == 2
    store.clock.move(600)
    paced.round()
    assert store.states(Node) == [NodeState.TERMINATED] * 2


def test_a_throttle_is_told_once_not_at_every_tick(paced: Fleet, cloud: ToyCloud, store: Store) -> None:
    cloud.fails("instances", RateLimited("too many calls", 600))
    for _ in range(20):
        store.clock.move(10)
        paced.watch()
    told = [reason for reason in store.reasons(subject="cloud") if "cannot be listed" in reason]
    assert len(told) == 2  # what the cloud said, then that we wait
