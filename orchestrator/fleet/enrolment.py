"""Enrolment: a machine proves which launch it is of, once, and becomes a ready node; anything else is refused on record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, select

from orchestrator.fleet import holds, leaving
from orchestrator.fleet.secrets import launch_of, sha256
from orchestrator.model.states import LAUNCH_OPEN, NodeState
from orchestrator.model.tables import Deployment, Launch, Node, Pool, table
from orchestrator.store.doors import Move, advance
from orchestrator.store.writer import Tx

pools, nodes, launches, deployments = (table(m) for m in (Pool, Node, Launch, Deployment))


@dataclass(frozen=True, slots=True)
class Enrol:
    """What an agent says at its first call. It makes its own credential, so that asking again after a lost reply is
    the same request, while a second machine with the same secret is told apart."""

    secret: str
    instance_id: str
    credential: str
    agent_version: str
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Enrolled:
    node_id: int
    slots: int
    lease_s: int


@dataclass(frozen=True, slots=True)
class Refused:
    """`final`: the machine has no place here and should power off; otherwise it may ask again."""

    reason: str
    final: bool


def enrol(tx: Tx, request: Enrol, *, key: bytes, installation: str) -> Enrolled | Refused:
    """Let the machine in as its node. A refusal writes its event; the transaction is committed either way."""
    launch_id = launch_of(key, installation, request.secret)
    if launch_id is None:
        return _refuse(tx, "enrolment", 0, "wrong enrolment secret", final=True)
    launch = tx.connection.execute(
        select(launches, pools.c.boot_timeout_s, pools.c.lease_s)
        .join(pools, pools.c.id == launches.c.pool_id)
        .where(launches.c.id == launch_id)
    ).first()
    if launch is None:
        return _refuse(tx, "enrolment", launch_id, "its launch is unknown to this master", final=True)
    mine = (nodes.c.launch_id == launch_id, nodes.c.instance_id == request.instance_id)
    node = tx.connection.execute(select(nodes).where(*mine).with_for_update()).first()
    if node is None:
        if launch.state in LAUNCH_OPEN:  # the machine was faster than the cloud's answer
            return Refused("the launch is not settled yet; ask again", final=False)
        what = f"machine {request.instance_id[:64]!r} is not of launch {launch_id}"
        return _refuse(tx, "launch", launch_id, f"enrolment refused: {what}", final=True, pool_id=launch.pool_id)
    return _let_in(tx, request, node, launch)


def _let_in(tx: Tx, request: Enrol, node: Row[Any], launch: Row[Any]) -> Enrolled | Refused:
    links = {"node_id": node.id, "pool_id": node.pool_id}
    credential = sha256(request.credential)
    if node.credential_hash is not None:
        if node.credential_hash == credential and node.state in (NodeState.READY, NodeState.DRAINING):
            return Enrolled(node.id, node.slots, launch.lease_s)
        return _refuse(tx, "node", node.id, "enrolment refused: the secret was used for this machine", final=True, **links)
    if node.state != NodeState.BOOTING:
        why = f"enrolment refused, registered too late: the node is {node.state} ({node.reason})"
        return _refuse(tx, "node", node.id, why, final=True, **links)
    if tx.now > node.launched_at + timedelta(seconds=launch.boot_timeout_s):
        leaving.at_once(tx, node.id, "boot_timeout", "its enrolment secret had expired at the boot deadline")
        return Refused("the enrolment secret has expired", final=True)
    if not _wanted(tx, node):
        leaving.at_once(tx, node.id, "registered_too_late", f"no live job asks for token {node.token}")
        return Refused("registered too late: no live job asks for this machine's token", final=True)
    values = {
        "credential_hash": credential,
        "enrolled_at": tx.now,
        "heartbeat_at": tx.now,
        "agent_version": request.agent_version[:50],
        "address": request.address or node.address,
    }
    advance(tx, Node, [Move(node.id, node.state, NodeState.READY, "its agent has enrolled", values, links)])
    holds.worked(tx, node.launch_id)
    return Enrolled(node.id, node.slots, launch.lease_s)


def _wanted(tx: Tx, node: Row[Any]) -> bool:
    if node.deployment_id is None:
        return True
    asking = (deployments.c.token == node.token, deployments.c.closed_at.is_(None))
    return tx.connection.execute(select(deployments.c.id).where(*asking)).first() is not None


def _refuse(tx: Tx, subject: str, subject_id: int, reason: str, *, final: bool, **links: int | None) -> Refused:
    tx.record(subject, subject_id, None, None, reason, None, "agent", links)
    return Refused(reason, final)
