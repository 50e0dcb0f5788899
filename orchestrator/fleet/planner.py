"""Plan: what the policy wishes, held to the pool's bounds, becomes committed intents; no cloud is called here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, select, update

from orchestrator.fleet import giving_up, holds, joining, leaving
from orchestrator.fleet.pools import gone
from orchestrator.fleet.rungs import Held, Placement, ladder, place, probed
from orchestrator.fleet.view import pool_view
from orchestrator.model.states import LaunchState, NodeState
from orchestrator.model.tables import Deployment, Launch, Node, Pool, table
from orchestrator.store.writer import Tx
from policies import enrolment, iaas
from policies.base import Decision, LaunchWish, Policy, PoolView, ReleaseWish, Wait

pools, nodes, launches, deployments = (table(m) for m in (Pool, Node, Launch, Deployment))

POLICIES: dict[str, Policy] = {"iaas": iaas.decide, joining.POLICY: enrolment.decide}
BATCH = 50  # machines in one call to a cloud


@dataclass(frozen=True, slots=True)
class Bounds:
    """What holds a pool's launches back, whatever its policy wishes."""

    max_nodes: int
    held: str | None = None

    @classmethod
    def of(cls, pool: Mapping[str, Any], view: PoolView) -> Bounds:
        name = pool["name"]
        if pool["paused_at"] is not None:
            return cls(pool["max_nodes"], f"pool {name} is paused: {pool['paused_reason']}")
        if pool["frozen_reason"] is not None:
            return cls(pool["max_nodes"], f"pool {name} is frozen: {pool['frozen_reason']}")
        return cls(pool["max_nodes"], _too_many_failures(pool, view))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for one pool: each launch with where it is placed, the releases, and what must wait and why."""

    launches: Sequence[tuple[LaunchWish, Placement]]
    releases: Sequence[ReleaseWish]
    waits: Sequence[Wait]


def plan(tx: Tx) -> bool:
    """Look at every pool once and write down what is to be launched and what is to go.

    True where a node that may go was spared because it is busy: look again when tasks end.
    """
    giving_up.give_up(tx)
    spared = False
    present = select(pools).where(pools.c.gone_at.is_(None)).order_by(pools.c.id).with_for_update()
    for pool in [dict(row) for row in tx.connection.execute(present).mappings()]:
        view = pool_view(tx.connection, pool, tx.now)
        if pool["deleted_at"] is not None and not view.nodes:
            gone(tx, pool)
            continue
        wished = POLICIES[pool["policy"]](view)
        decision = placed(bounded(view, wished, Bounds.of(pool, view)), pool, holds.held(tx.connection, pool["id"]), tx.now)
        spared = spared or len(decision.releases) < len(wished.releases)
        for wish, placement in decision.launches:
            _request(tx, pool, wish, placement)
        for release in decision.releases:
            leaving.begin(tx, release.node_id, release.reason, release.detail)
        _tell_waits(tx, pool, decision)
    return spared


def decide(connection: Connection, view: PoolView, pool: Mapping[str, Any]) -> Plan:
    """The plan as `plan` would carry it out: what `explain` tells from."""
    decision = bounded(view, POLICIES[pool["policy"]](view), Bounds.of(pool, view))
    return placed(decision, pool, holds.held(connection, pool["id"]), view.now)


def placed(decision: Decision, pool: Mapping[str, Any], held: Mapping[str, Held], now: datetime) -> Plan:
    """Each launch on the first rung of the pool's ladder that is to be had; what finds none waits, with the reasons."""
    launches: list[tuple[LaunchWish, Placement]] = []
    waits = list(decision.waits)
    for wish in decision.launches:
        found, why_not = place(wish.count, ladder(pool, wish.image, wish.instance_type), held, now)
        launches += [(wish, placement) for placement in found]
        held = probed(held, found)
        if why_not is not None:
            waits.append(Wait(why_not, wish.demand_id))
    return Plan(launches, decision.releases, waits)


def _too_many_failures(pool: Mapping[str, Any], view: PoolView) -> str | None:
    """The pool's own limit on replacing what fails, over all its demands."""
    window_s, limit = pool["relaunch_window_s"], pool["relaunch_limit"]
    recent = sorted(failure.at for failure in view.failures)
    if len(recent) < limit:
        return None
    until = recent[-limit] + timedelta(seconds=window_s)
    told = f"pool {pool['name']} had {len(recent)} failures of machines within {window_s} s, its limit is {limit}"
    return f"{told}; again after {until:%H:%M:%S} UTC"


def bounded(view: PoolView, decision: Decision, bounds: Bounds) -> Decision:
    """The decision within the pool's bounds. Every node that is not terminated counts against the cap, whatever its
    state: failed and leaving machines still cost. Busy and protected nodes are never released."""
    room = bounds.max_nodes - len(view.nodes)
    granted: list[LaunchWish] = []
    waits = list(decision.waits)
    for wish in decision.launches:
        count = 0 if bounds.held else max(0, min(wish.count, room))
        if count:
            granted.append(replace(wish, count=count))
            room -= count
        if count < wish.count:
            limit = f"pool {view.name} at its limit of {bounds.max_nodes} node(s)"
            waits.append(Wait(bounds.held or limit, wish.demand_id))
    spared = {node.id for node in view.nodes if node.busy or node.protected}
    releases = tuple(release for release in decision.releases if release.node_id not in spared)
    return Decision(tuple(granted), releases, tuple(waits))


def _tell_waits(tx: Tx, pool: Mapping[str, Any], decision: Plan) -> None:
    """What cannot be had now is written down, and told once when it begins and once when it ends."""
    waits = {wait.demand_id: wait.reason for wait in decision.waits}
    still_open = (deployments.c.pool_id == pool["id"], deployments.c.closed_at.is_(None))
    for row in tx.connection.execute(select(deployments).where(*still_open)).all():
        waiting = waits.get(row.id)
        if waiting != row.waiting:
            tx.connection.execute(update(deployments).where(deployments.c.id == row.id).values(waiting=waiting))
            told = f"waiting: {waiting}" if waiting else "not waiting any more: all its machines are asked for"
            tx.tell("deployment", row.id, told, job_id=row.job_id, task_id=row.task_id, pool_id=pool["id"])


def _request(tx: Tx, pool: Mapping[str, Any], wish: LaunchWish, placement: Placement) -> None:
    rung = placement.rung
    left = placement.count
    while left > 0:
        count = min(left, BATCH)
        left -= count
        values = {
            "pool_id": pool["id"],
            "deployment_id": wish.demand_id,
            "state": LaunchState.REQUESTED,
            "reason": wish.reason,
            "machines": count,
            "cloud": rung.cloud,
            "image": rung.image,
            "instance_type": rung.instance_type,
            "template": rung.template,
            "kind": rung.kind,
            "label": rung.label,
            "probe": placement.probe,
            "tries": 0,
            "requested_at": tx.now,
        }
        launch_id = tx.connection.execute(insert(launches).values(values).returning(launches.c.id)).scalar_one()
        detail = f"{rung.label}, a probe" if placement.probe else rung.label
        links = {"pool_id": pool["id"]}
        tx.record("launch", launch_id, None, LaunchState.REQUESTED, wish.reason, detail, "policy", links)
        _store_nodes(tx, pool, wish, launch_id, count)
        if placement.probe:
            holds.probe(tx, pool["id"], rung.kind, launch_id)


def _store_nodes(tx: Tx, pool: Mapping[str, Any], wish: LaunchWish, launch_id: int, count: int) -> None:
    row = {
        "pool_id": pool["id"],
        "launch_id": launch_id,
        "deployment_id": wish.demand_id,
        "state": NodeState.REQUESTED,
        "reason": wish.reason,
        "token": wish.token,
        "slots": pool["slots"],
        "protected": False,
        "cloud_strikes": 0,
        "engine_strikes": 0,
        "terminate_tries": 0,
        "requested_at": tx.now,
    }
    inserted = insert(nodes).returning(nodes.c.id, sort_by_parameter_order=True)
    for node_id in tx.connection.execute(inserted, [row] * count).scalars():
        links = {"node_id": node_id, "pool_id": pool["id"]}
        tx.record("node", node_id, None, NodeState.REQUESTED, wish.reason, None, "policy", links)
