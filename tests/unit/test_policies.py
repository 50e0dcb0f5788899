"""Policies and bounds: pure decisions, no clock, no database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fleet.planner import Bounds, bounded
from policies.base import Decision, Demand, Failure, LaunchWish, NodeView, PoolView, ReleaseWish
from policies.iaas import decide, not_before

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


def demand(id_: int = 1, count: int = 1, age_s: float = 0.0) -> Demand:
    return Demand(id_, f"job {id_}", f"acme/t{id_}", count, "ami", "LARGE", NOW - timedelta(seconds=age_s))


def node(id_: int, demand_id: int | None = 1, state: str = "ready", age_s: float = 0.0, **values: Any) -> NodeView:
    going = state in ("draining", "terminating")
    base = {"token": None, "busy": False, "protected": False}
    return NodeView(
        id=id_, state=state, on_its_way=not going, demand_id=demand_id,
        requested_at=NOW - timedelta(seconds=age_s), **{**base, **values},
    )  # fmt: skip


def view(**values: Any) -> PoolView:
    return PoolView(**{"now": NOW, "name": "main", "min_nodes": 0, "max_nodes": 10, **values})


def wanted(decision: Decision) -> list[tuple[int | None, int]]:
    return [(wish.demand_id, wish.count) for wish in decision.launches]


def test_nothing_asked_nothing_done() -> None:
    assert decide(view()) == Decision((), (), ())


@pytest.mark.parametrize(("states", "missing"), [
    ([], 3), (["requested"], 2), (["launching", "booting", "ready"], 0), (["ready"] * 5, 0),
    (["draining", "terminating"], 3), (["ready", "terminating"], 2),
])  # fmt: skip
def test_demand_minus_all_nodes_on_their_way(states: list[str], missing: int) -> None:
    nodes = [node(i, state=state) for i, state in enumerate(states)]
    assert wanted(decide(view(demands=[demand(count=3)], nodes=nodes))) == ([(1, missing)] if missing else [])


def test_a_wish_says_for_whom_and_what() -> None:
    (wish,) = decide(view(demands=[demand(7, 2)])).launches
    assert wish == LaunchWish(2, "job 7 asks for 2 machine(s) with token acme/t7", 7, "acme/t7", "ami", "LARGE")


def test_another_demands_nodes_do_not_count() -> None:
    assert wanted(decide(view(demands=[demand(1), demand(2)], nodes=[node(1, 2)]))) == [(1, 1)]


def test_the_oldest_demand_first() -> None:
    demands = [demand(1, age_s=1), demand(2, age_s=9), demand(3, age_s=9)]
    assert wanted(decide(view(demands=demands))) == [(2, 1), (3, 1), (1, 1)]


def test_nodes_of_a_closed_demand_go() -> None:
    nodes = [node(1, 1), node(2, 2), node(3, 2, "booting"), node(4, 2, "draining"), node(5, None)]
    releases = decide(view(demands=[demand(1)], nodes=nodes, min_nodes=1)).releases
    assert [(release.node_id, release.reason) for release in releases] == [(2, "job_done"), (3, "job_done")]


def test_the_floor() -> None:
    assert wanted(decide(view(min_nodes=2))) == [(None, 2)]
    assert wanted(decide(view(min_nodes=2, nodes=[node(1, None), node(2, 9)], demands=[demand(9)]))) == [(None, 1)]
    (wish,) = decide(view(min_nodes=2)).launches
    assert wish.token is None


def test_above_the_floor_the_youngest_idle_go() -> None:
    nodes = [node(1, None, age_s=50), node(2, None, age_s=10), node(3, None, age_s=5, busy=True), node(4, None, age_s=1)]
    assert [release.node_id for release in decide(view(min_nodes=2, nodes=nodes)).releases] == [4, 2]
    assert [release.node_id for release in decide(view(min_nodes=4, nodes=nodes)).releases] == []
    assert [release.node_id for release in decide(view(min_nodes=0, nodes=nodes)).releases] == [4, 2, 1]


# ---- back-off --------------------------------------------------------------------------------------------------------


def failed(*ages_s: float, demand_id: int | None = 1) -> list[Failure]:
    return [Failure(demand_id, NOW - timedelta(seconds=age), "boot_timeout") for age in ages_s]


@pytest.mark.parametrize(("failures", "delay_s"), [(1, 15), (2, 30), (3, 60), (6, 480), (7, 600), (40, 600)])
def test_the_wait_doubles_to_ten_minutes(failures: int, delay_s: float) -> None:
    until, why = not_before(view(failures=failed(*range(failures))), 1)
    assert until == NOW + timedelta(seconds=delay_s)
    assert "boot_timeout" in why


def test_the_wait_after_very_many_failures() -> None:
    until, _ = not_before(view(failures=failed(*range(1100))), 1)
    assert until == NOW + timedelta(seconds=600)


def test_waiting_is_told_and_ends() -> None:
    waiting = decide(view(demands=[demand()], failures=failed(14)))
    assert waiting.launches == ()
    (wait,) = waiting.waits
    assert (wait.demand_id, wait.until) == (1, NOW + timedelta(seconds=1))
    assert wanted(decide(view(demands=[demand()], failures=failed(15)))) == [(1, 1)]


def test_the_last_failure_counts_whatever_the_order() -> None:
    assert not_before(view(failures=failed(1, 500)), 1)[0] == NOW + timedelta(seconds=29)


def test_each_demand_pays_for_its_own_failures() -> None:
    decision = decide(view(demands=[demand(1), demand(2)], min_nodes=1, failures=failed(0)))
    assert wanted(decision) == [(2, 1), (None, 1)]
    decision = decide(view(demands=[demand(1)], min_nodes=1, failures=failed(0, demand_id=None)))
    assert wanted(decision) == [(1, 1)]


# ---- bounds ----------------------------------------------------------------------------------------------------------

POOL: dict[str, object] = {"name": "main", "max_nodes": 5, "paused_at": None, "paused_reason": None, "frozen_reason": None}
POOL |= {"relaunch_limit": 20, "relaunch_window_s": 3600}


def test_every_node_counts_against_the_cap_whatever_its_state() -> None:
    nodes = [node(i, state=state) for i, state in enumerate(["requested", "ready", "draining", "terminating"])]
    seen = view(nodes=nodes, max_nodes=5)
    decision = bounded(seen, Decision((LaunchWish(3, "x", 1),)), Bounds.of(POOL, view()))
    assert wanted(decision) == [(1, 1)]
    assert [(wait.reason, wait.demand_id) for wait in decision.waits] == [("pool main at its limit of 5 node(s)", 1)]


def test_the_first_wish_takes_the_room() -> None:
    decision = bounded(
        view(), Decision((LaunchWish(4, "x", 1), LaunchWish(4, "y", 2), LaunchWish(1, "z", 3))), Bounds.of(POOL, view())
    )
    assert wanted(decision) == [(1, 4), (2, 1)]
    assert [wait.demand_id for wait in decision.waits] == [2, 3]


def test_over_the_cap_nothing_negative_is_granted() -> None:
    nodes = [node(i) for i in range(9)]
    decision = bounded(view(nodes=nodes), Decision((LaunchWish(1, "x", 1),)), Bounds.of(POOL, view()))
    assert wanted(decision) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"paused_at": NOW, "paused_reason": "no image"}, "pool main is paused: no image"),
        ({"frozen_reason": "6 machines are shown"}, "pool main is frozen: 6 machines are shown"),
    ],
)
def test_a_held_pool_launches_nothing_but_still_releases(change: dict[str, Any], said: str) -> None:
    asked = Decision((LaunchWish(1, "x", 1),), (ReleaseWish(1, "job_done", "y"),))
    decision = bounded(view(nodes=[node(1)]), asked, Bounds.of({**POOL, **change}, view()))
    assert decision.launches == ()
    assert [wait.reason for wait in decision.waits] == [said]
    assert [release.node_id for release in decision.releases] == [1]


def test_busy_and_protected_nodes_stay() -> None:
    nodes = [node(1, busy=True), node(2, protected=True), node(3)]
    asked = Decision((), tuple(ReleaseWish(id_, "job_done", "x") for id_ in (1, 2, 3)))
    assert [release.node_id for release in bounded(view(nodes=nodes), asked, Bounds.of(POOL, view())).releases] == [3]


NODES = st.builds(
    node,
    id_=st.integers(1, 10**6),
    demand_id=st.one_of(st.none(), st.integers(1, 4)),
    state=st.sampled_from(["requested", "launching", "booting", "ready", "draining", "terminating"]),
    age_s=st.floats(0, 1e6),
    busy=st.booleans(),
    protected=st.booleans(),
)
VIEWS = st.builds(
    view,
    min_nodes=st.integers(0, 8),
    max_nodes=st.integers(0, 12),
    demands=st.lists(st.builds(demand, st.integers(1, 4), st.integers(1, 9), st.floats(0, 1e6)), max_size=4, unique_by=lambda d: d.id),
    nodes=st.lists(NODES, max_size=15, unique_by=lambda n: n.id),
    failures=st.lists(st.builds(Failure, st.one_of(st.none(), st.integers(1, 4)), st.just(NOW), st.just("lost")), max_size=8),
)  # fmt: skip


@given(VIEWS)
def test_what_holds_for_every_decision(seen: PoolView) -> None:
    bounds = Bounds(seen.max_nodes)
    decision = bounded(seen, decide(seen), bounds)
    launched = sum(wish.count for wish in decision.launches)
    assert launched <= max(0, seen.max_nodes - len(seen.nodes))
    assert all(wish.count > 0 and wish.reason for wish in decision.launches)
    released = [release.node_id for release in decision.releases]
    assert len(released) == len(set(released))
    by_id = {node.id: node for node in seen.nodes}
    assert not any(by_id[id_].busy or by_id[id_].protected or not by_id[id_].on_its_way for id_ in released)
    open_demands = {demand.id for demand in seen.demands}
    assert not any(by_id[id_].demand_id in open_demands for id_ in released)
    launched_for = {wish.demand_id for wish in decision.launches}
    assert not any(by_id[id_].demand_id in launched_for for id_ in released)  # never one in and one out
    for asked in seen.demands:
        on_its_way = sum(node.on_its_way and node.demand_id == asked.id for node in seen.nodes)
        granted = sum(wish.count for wish in decision.launches if wish.demand_id == asked.id)
        assert granted <= max(0, asked.count - on_its_way)
        if granted + on_its_way < asked.count:
            assert any(wait.demand_id == asked.id for wait in decision.waits)  # what waits says why
    assert decide(seen) == decide(seen)
