"""Enrolment: a machine proves which launch it is of, once, and becomes a ready node; anything else is refused on record."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, select, update

from orchestrator.agents.refusals import Refusals
from orchestrator.fleet import holds, joining, leaving, signals
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
    memory_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Enrolled:
    node_id: int
    slots: int
    lease_s: int
    heartbeat_timeout_s: int


@dataclass(frozen=True, slots=True)
class Refused:
    """`final`: the machine has no place here and should power off; otherwise it may ask again."""

    reason: str
    final: bool


def enrol(tx: Tx, request: Enrol, *, key: bytes, installation: str, refusals: Refusals | None = None) -> Enrolled | Refused:
    """Let the machine in as its node. A refusal writes its event (with `refusals`, one a minute of each address and
    kind); the transaction is committed either way."""
    answer, told = _answer(tx, request, key, installation)
    if told is not None:
        kind = (request.address, told.subject, told.subject_id)
        if refusals is None or refusals.deserves(kind, request, tx.now):
            tx.record(told.subject, told.subject_id, None, None, told.reason, None, "agent", told.links)
    return answer


@dataclass(frozen=True, slots=True)
class _Told:
    """What a refusal's event is about."""

    subject: str
    subject_id: int
    reason: str
    links: dict[str, int | None] = field(default_factory=dict)


_Answer = tuple[Enrolled | Refused, _Told | None]


def _answer(tx: Tx, request: Enrol, key: bytes, installation: str) -> _Answer:
    launch_id = launch_of(key, installation, request.secret)
    if launch_id is None:
        return _refuse("enrolment", 0, "wrong enrolment secret")
    launch = tx.connection.execute(
        select(launches, pools.c.boot_timeout_s, pools.c.lease_s, pools.c.heartbeat_timeout_s)
        .join(pools, pools.c.id == launches.c.pool_id)
        .where(launches.c.id == launch_id)
    ).first()
    if launch is None:
        return _refuse("enrolment", launch_id, "its launch is unknown to this master")
    mine = (nodes.c.launch_id == launch_id, nodes.c.instance_id == request.instance_id)
    node = tx.connection.execute(select(nodes).where(*mine).with_for_update()).first()
    if node is None and launch.kind == joining.KIND:
        node = _take_place(tx, request, launch_id)
    if node is None:
        if launch.state in LAUNCH_OPEN:  # the machine was faster than the cloud's answer
            return Refused("the launch is not settled yet; ask again", final=False), None
        if launch.kind == joining.KIND:
            why = f"no place is left for {request.instance_id[:64]!r}: `orchestrator node enrol` prints a new command"
            return _refuse("launch", launch_id, f"enrolment refused: {why}", pool_id=launch.pool_id)
        what = f"machine {request.instance_id[:64]!r} is not of launch {launch_id}"
        return _refuse("launch", launch_id, f"enrolment refused: {what}", pool_id=launch.pool_id)
    return _let_in(tx, request, node, launch)


def _take_place(tx: Tx, request: Enrol, launch_id: int) -> Row[Any] | None:
    """The next place of a command for machines that exist: whoever has its secret may come, each once."""
    free = (nodes.c.launch_id == launch_id, nodes.c.state == NodeState.BOOTING, nodes.c.instance_id.is_(None))
    place = select(nodes).where(*free).order_by(nodes.c.id).limit(1).with_for_update(skip_locked=True)
    known = select(nodes.c.id).where(nodes.c.instance_id == request.instance_id)
    node = tx.connection.execute(place).first()
    if node is None or tx.connection.execute(known).first() is not None:
        return None
    tx.connection.execute(update(nodes).where(nodes.c.id == node.id).values(instance_id=request.instance_id))
    return node


def _let_in(tx: Tx, request: Enrol, node: Row[Any], launch: Row[Any]) -> _Answer:
    links = {"node_id": node.id, "pool_id": node.pool_id}
    credential = sha256(request.credential)
    enrolled = Enrolled(node.id, node.slots, launch.lease_s, launch.heartbeat_timeout_s)
    if node.credential_hash is not None:
        if node.credential_hash == credential and node.state in (NodeState.READY, NodeState.DRAINING):
            return enrolled, None
        return _refuse("node", node.id, "enrolment refused: the secret was used for this machine", **links)
    if node.state != NodeState.BOOTING:
        why = f"enrolment refused, registered too late: the node is {node.state} ({node.reason})"
        return _refuse("node", node.id, why, **links)
    if tx.now > node.launched_at + timedelta(seconds=launch.boot_timeout_s):
        leaving.at_once(tx, node.id, "boot_timeout", "its enrolment secret had expired at the boot deadline")
        return Refused("the enrolment secret has expired", final=True), None
    if not _wanted(tx, node):
        leaving.at_once(tx, node.id, "registered_too_late", f"no live job asks for token {node.token}")
        return Refused("registered too late: no live job asks for this machine's token", final=True), None
    values = {
        "credential_hash": credential,
        "enrolled_at": tx.now,
        "heartbeat_at": tx.now,
        "agent_version": request.agent_version[:50],
        "memory_mb": request.memory_mb,
        "address": request.address or node.address,
        "boot_phase": signals.ENROLLED,
        "boot_phase_at": tx.now,
    }
    advance(tx, Node, [Move(node.id, node.state, NodeState.READY, "its agent has enrolled", values, links)])
    holds.worked(tx, node.launch_id)
    return enrolled, None


def _wanted(tx: Tx, node: Row[Any]) -> bool:
    if node.deployment_id is None:
        return True
    asking = (deployments.c.token == node.token, deployments.c.closed_at.is_(None))
    return tx.connection.execute(select(deployments.c.id).where(*asking)).first() is not None


def _refuse(subject: str, subject_id: int, reason: str, **links: int | None) -> _Answer:
    return Refused(reason, final=True), _Told(subject, subject_id, reason, links)
