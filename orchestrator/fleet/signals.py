"""What a node tells of itself beside its work: how far it has booted, how its engine does, that its cloud takes it back.

Each is written when it changes or counts, never at each call. What follows from strikes is for `deadlines`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, select, update

from orchestrator.agents.refusals import Refusals
from orchestrator.fleet import leaving
from orchestrator.fleet.secrets import launch_of
from orchestrator.model.states import NODE_ON_ITS_WAY, NodeState
from orchestrator.model.tables import Node, table
from orchestrator.store.writer import Tx

nodes = table(Node)

RUNNING, BEGAN, FETCHED, ENROLLED = "instance running", "cloud-init began", "agent fetched", "enrolled"
BOOT_PHASES = (RUNNING, BEGAN, FETCHED, ENROLLED)


def reached(tx: Tx, node: Row[Any], phase: str) -> bool:
    """Note that the node's boot has come so far. It only goes forward: False where it had come as far before.

    `node` has `id`, `pool_id` and `boot_phase`, read in this transaction."""
    if node.boot_phase is not None and BOOT_PHASES.index(phase) <= BOOT_PHASES.index(node.boot_phase):
        return False
    _set(tx, node.id, boot_phase=phase, boot_phase_at=tx.now)
    actor = "master" if phase == RUNNING else "agent"
    tx.tell("node", node.id, f"boot: {phase}", actor=actor, node_id=node.id, pool_id=node.pool_id)
    return True


@dataclass(frozen=True, slots=True)
class Booting:
    """What a machine says that has no agent yet: whose it is, and how far it has come."""

    secret: str
    instance_id: str
    phase: str
    address: str | None = None


def booting(tx: Tx, told: Booting, *, key: bytes, installation: str, refusals: Refusals) -> bool:
    """Note how far the machine has come; False, on record, where its secret or its id are wrong.

    One that is faster than its cloud's answer to us is passed over: it is told of again at its next phase."""
    launch_id = launch_of(key, installation, told.secret)
    columns = (nodes.c.id, nodes.c.pool_id, nodes.c.state, nodes.c.instance_id, nodes.c.boot_phase)
    rows = tx.connection.execute(select(*columns).where(nodes.c.launch_id == launch_id)).all() if launch_id else []
    mine = next((node for node in rows if node.instance_id == told.instance_id), None)
    if mine is not None and mine.state == NodeState.BOOTING:
        reached(tx, mine, told.phase)
    elif mine is None and not any(node.instance_id is None for node in rows):
        if refusals.deserves((told.address, "boot", launch_id), told, tx.now):
            what = f"{told.instance_id[:64]!r} is not of launch {launch_id}" if launch_id else "wrong enrolment secret"
            tx.tell("enrolment", launch_id or 0, f"a booting machine was refused: {what}", actor="agent")
        return False
    return True


def engine_checked(tx: Tx, node_id: int, trouble: str) -> None:
    """One check of a node's engine: `trouble` says why it cannot run tasks, "" while it can. A bad check is a strike, a
    good one takes them all back."""
    columns = (nodes.c.id, nodes.c.pool_id, nodes.c.engine_strikes)
    node = tx.connection.execute(select(*columns).where(nodes.c.id == node_id).with_for_update()).one()
    strikes = node.engine_strikes + 1 if trouble else 0
    _set(tx, node_id, engine_trouble=trouble or None, engine_at=tx.now, engine_strikes=strikes)
    links = {"node_id": node.id, "pool_id": node.pool_id}
    if trouble:
        tx.tell("node", node_id, f"its engine is in trouble (strike {strikes}): {trouble}", actor="agent", **links)
    elif node.engine_strikes:
        tx.tell("node", node_id, "its engine is well again", actor="agent", **links)


def taken_back(tx: Tx, node_id: int, at: datetime) -> None:
    """Its cloud takes the machine back at this time: nothing new is given to it, what runs has the time that is left."""
    columns = (nodes.c.id, nodes.c.pool_id, nodes.c.state, nodes.c.reclaim_at)
    node = tx.connection.execute(select(*columns).where(nodes.c.id == node_id).with_for_update()).one()
    if node.reclaim_at == at or node.state not in (*NODE_ON_ITS_WAY, NodeState.DRAINING):
        return
    _set(tx, node_id, reclaim_at=at)
    detail = f"its cloud takes the machine back at {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    tx.tell("node", node_id, detail, actor="agent", node_id=node.id, pool_id=node.pool_id)
    leaving.begin(tx, node_id, "reclaimed", detail, actor="agent")


def _set(tx: Tx, node_id: int, **values: Any) -> None:
    tx.connection.execute(update(nodes).where(nodes.c.id == node_id).values(**values))
