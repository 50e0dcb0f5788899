"""Join: a machine that exists already is given a place by a command. It is never launched, and never ended by us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, select
from sqlmodel import SQLModel

from orchestrator.model.states import NODE_LIVE, LaunchState, NodeState
from orchestrator.model.tables import Launch, Node, Pool, table
from orchestrator.store.writer import Tx

pools, nodes, launches = table(Pool), table(Node), table(Launch)

POLICY = "enrolment"
"""The policy of a pool whose machines exist already."""

KIND = "enrolment"
"""The kind of a launch that launches nothing: it only holds the secret its machines enrol with."""


class NoPlace(Exception):
    """The pool takes no machine, or not so many; `str()` says why and what to do."""


@dataclass(frozen=True, slots=True)
class Places:
    """Nodes that wait for a machine each, until then. Their secret is that of the launch."""

    launch_id: int
    node_ids: Sequence[int]
    expires_at: datetime


def invite(tx: Tx, pool_id: int, count: int, *, token: str | None, actor: str) -> Places:
    """Write down places for so many machines: a launch that is settled, and nodes that boot. Raises NoPlace."""
    pool = dict(tx.connection.execute(select(pools).where(pools.c.id == pool_id).with_for_update()).mappings().one())
    _refuse_no_place(tx, pool, count)
    expires_at = tx.now + timedelta(seconds=pool["boot_timeout_s"])
    reason = f"{actor} lets {count} machine(s) enrol until {expires_at:%Y-%m-%d %H:%M:%S} UTC"
    launch = Launch(
        pool_id=pool_id,
        cloud=pool["cloud"],
        kind=KIND,
        label=KIND,
        state=LaunchState.LAUNCHED,
        reason=reason,
        machines=count,
        image="",
        instance_type="",
        requested_at=tx.now,
        launched_at=tx.now,
    )
    launch_id = int(tx.connection.execute(insert(launches).values(_row(launch)).returning(launches.c.id)).scalar_one())
    tx.record("launch", launch_id, None, LaunchState.LAUNCHED, reason, None, actor, {"pool_id": pool_id})
    return Places(launch_id, _places(tx, pool, launch_id, count, token, reason, actor), expires_at)


def _refuse_no_place(tx: Tx, pool: Mapping[str, Any], count: int) -> None:
    name = pool["name"]
    if pool["policy"] != POLICY:
        raise NoPlace(f"the machines of pool {name} are launched; only those of a cloud with provider `static` enrol")
    if pool["deleted_at"] is not None:
        raise NoPlace(f"pool {name} is being deleted; enrol in another one")
    if pool["paused_at"] is not None:
        raise NoPlace(f"pool {name} is paused: {pool['paused_reason']}; `orchestrator pool resume {name}` first")
    live = select(func.count()).where(nodes.c.pool_id == pool["id"], nodes.c.state.in_(NODE_LIVE))
    room = pool["max_nodes"] - int(tx.connection.execute(live).scalar_one())
    if count > room:
        fix = f"`orchestrator pool scale {name} {pool['min_nodes']} --max-nodes N` raises it"
        raise NoPlace(f"pool {name} has room for {room} of its {pool['max_nodes']} node(s), not for {count}; {fix}")


def _places(
    tx: Tx, pool: Mapping[str, Any], launch_id: int, count: int, token: str | None, reason: str, actor: str
) -> list[int]:
    place = Node(
        pool_id=pool["id"],
        launch_id=launch_id,
        state=NodeState.BOOTING,
        reason=reason,
        token=token,
        slots=pool["slots"],
        requested_at=tx.now,
        launched_at=tx.now,
    )
    inserted = insert(nodes).returning(nodes.c.id, sort_by_parameter_order=True)
    made = [int(id_) for id_ in tx.connection.execute(inserted, [_row(place)] * count).scalars()]
    for id_ in made:
        tx.record("node", id_, None, NodeState.BOOTING, reason, None, actor, {"node_id": id_, "pool_id": pool["id"]})
    return made


def _row(model: SQLModel) -> dict[str, Any]:
    """All columns of a new row, the usual values where nothing else is said."""
    return model.model_dump(exclude={"id"})
