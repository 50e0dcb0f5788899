"""Health: three independent signals of a node, each with strikes of its own, and what follows when there are too many.

The cloud's state and status checks are noted by the watcher, the agent's heartbeat is its last call, the engine's check
comes with the agent's calls (`fleet.signals`). A node with too many strikes of cloud or engine drains and is replaced; one
whose agent is silent is lost, and its attempts are fenced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, or_, select, update

from orchestrator.fleet import leaving
from orchestrator.fleet.signals import RUNNING, reached
from orchestrator.model.states import NodeState
from orchestrator.model.tables import Node, Pool, table
from orchestrator.store.writer import Tx
from providers.base import Instance, InstanceState

pools, nodes = table(Pool), table(Node)
_noted = (
    update(nodes)
    .where(nodes.c.id == bindparam("_id"))
    .values(
        cloud_state=bindparam("cloud_state"),
        cloud_trouble=bindparam("cloud_trouble"),
        cloud_strikes=bindparam("cloud_strikes"),
    )
)


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal as it is now: what it says, how old that is, and how many strikes of how many it has."""

    name: str
    told: str
    age_s: float | None
    strikes: int
    most: int


def signals(node: Mapping[str, Any], now: datetime) -> list[Signal]:
    """The three signals of a node that has a machine. `node`: its row with `store.queries.ALLOWED`."""
    if node["instance_id"] is None:
        return []
    silence_s = _age(node["heartbeat_at"], now)
    heard = "its agent has not called home yet" if silence_s is None else "its agent calls home"
    missed = silent_strikes(silence_s or 0.0, node["heartbeat_timeout_s"], node["agent_most"])
    engine = node["engine_trouble"] or ("can start processes and has room" if node["engine_at"] else "not checked yet")
    cloud = ": ".join(filter(None, (node["cloud_state"] or "not listed yet", node["cloud_trouble"])))
    return [
        Signal("cloud", cloud, _age(node["seen_at"], now), node["cloud_strikes"], node["cloud_most"]),
        Signal("agent", heard, silence_s, missed, node["agent_most"]),
        Signal("engine", engine, _age(node["engine_at"], now), node["engine_strikes"], node["engine_most"]),
    ]


def silent_strikes(silence_s: float, timeout_s: float, most: int) -> int:
    """Each of `most` equal parts of the time-out that passes in silence is a strike; at the last one the node is lost."""
    return min(most, int(silence_s / (timeout_s / most)))


def note_cloud(tx: Tx, rows: Sequence[Row[Any]], shown: Mapping[str, Instance], impaired: Mapping[str, str] | None) -> None:
    """Write down what a look at the cloud says of these nodes. `impaired` are the machines that fail its checks, None
    where the checks were not looked at this time: each look is a strike, a good one takes them back."""
    changes = []
    for node in rows:
        machine = shown.get(node.instance_id or "")
        if machine is None:
            continue
        if machine.state is InstanceState.RUNNING and node.state == NodeState.BOOTING:
            reached(tx, node, RUNNING)
        trouble, strikes = node.cloud_trouble, node.cloud_strikes
        if impaired is not None:
            trouble = impaired.get(machine.id)
            strikes = strikes + 1 if trouble else 0
            _tell_turn(tx, node, trouble, strikes)
        told = (machine.state, trouble, strikes)
        if told != (node.cloud_state, node.cloud_trouble, node.cloud_strikes):
            keys = ("cloud_state", "cloud_trouble", "cloud_strikes")
            changes.append({"_id": node.id, **dict(zip(keys, told, strict=True))})
    if changes:
        tx.connection.execute(_noted, changes)


def replace_unhealthy(tx: Tx) -> None:
    """Let nodes go that have as many strikes of their cloud's or their engine's checks as their pool allows."""
    struck = or_(nodes.c.cloud_strikes >= pools.c.cloud_strikes, nodes.c.engine_strikes >= pools.c.engine_strikes)
    states = (NodeState.BOOTING, NodeState.READY)
    query = select(nodes, pools.c.cloud_strikes.label("cloud_most")).join(pools, pools.c.id == nodes.c.pool_id)
    for node in tx.connection.execute(query.where(nodes.c.state.in_(states), struck)).all():
        by_cloud = node.cloud_strikes >= node.cloud_most
        whose, what = ("cloud's checks", node.cloud_trouble) if by_cloud else ("engine", node.engine_trouble)
        strikes = node.cloud_strikes if by_cloud else node.engine_strikes
        leaving.begin(tx, node.id, "unhealthy", f"{strikes} strikes of its {whose}: {what}")


def _tell_turn(tx: Tx, node: Row[Any], trouble: str | None, strikes: int) -> None:
    links = {"node_id": node.id, "pool_id": node.pool_id}
    if trouble:
        tx.tell("node", node.id, f"its cloud's checks fail (strike {strikes}): {trouble}", **links)
    elif node.cloud_strikes:
        tx.tell("node", node.id, "its cloud's checks pass again", **links)


def _age(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else max(0.0, (now - moment).total_seconds())
