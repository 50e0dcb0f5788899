"""How a node leaves: draining first, by compare-and-set, so that no claim follows; terminating once nothing runs on it.

`end_reason` is one word (`job_done`, `boot_timeout`, `lost`, `vanished`, `operator`, …), the detail a sentence.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, exists, select, update

from orchestrator.agents.results import lose_attempts
from orchestrator.fleet import holds
from orchestrator.model.states import NODE_ON_ITS_WAY, AttemptState, NodeState
from orchestrator.model.tables import Attempt, Node, table
from orchestrator.store.doors import Move, advance
from orchestrator.store.writer import Tx

nodes, attempts = table(Node), table(Attempt)
_columns = (
    nodes.c.id, nodes.c.pool_id, nodes.c.launch_id, nodes.c.state, nodes.c.end_reason, nodes.c.reason, nodes.c.enrolled_at
)  # fmt: skip


def begin(tx: Tx, node_id: int, end_reason: str, detail: str, *, actor: str = "master") -> None:
    """Let a node go in peace: it finishes what it runs. One that runs nothing is terminating in this transaction."""
    node = _locked(tx, node_id)
    if node.state not in NODE_ON_ITS_WAY:
        return
    ready = node.state == NodeState.READY
    values = {"end_reason": end_reason} | ({"draining_at": tx.now} if ready else {"terminating_at": tx.now})
    to = NodeState.DRAINING if ready else NodeState.TERMINATING
    _move(tx, node, to, f"{end_reason}: {detail}", values, actor)
    if ready:
        finish(tx, node_id)


def finish(tx: Tx, node_id: int) -> bool:
    """A draining node with no live attempt left is terminating. A result is accepted only after its whole log, so
    nothing of it is left on the machine then. False while something still runs."""
    node = _locked(tx, node_id)
    running = exists().where(attempts.c.node_id == node_id, attempts.c.state == AttemptState.RUNNING)
    if node.state != NodeState.DRAINING or tx.connection.execute(select(running)).scalar():
        return False
    _move(tx, node, NodeState.TERMINATING, f"{node.end_reason}: nothing runs on it any more", {"terminating_at": tx.now})
    return True


def at_once(tx: Tx, node_id: int, end_reason: str, detail: str, *, actor: str = "master") -> None:
    """End a node now, whatever it runs: its attempts are lost and their tasks queued again."""
    node = _locked(tx, node_id)
    if node.state not in (*NODE_ON_ITS_WAY, NodeState.DRAINING):
        return
    values = {"end_reason": end_reason, "terminating_at": tx.now}
    _move(tx, node, NodeState.TERMINATING, f"{end_reason}: {detail}", values, actor)
    if node.enrolled_at is None:
        holds.failed(tx, node.launch_id, end_reason, detail)
    lose_attempts(tx, node_id, f"node {node_id} ended ({end_reason}: {detail})")


def protect(tx: Tx, node_id: int, protected: bool, *, actor: str) -> bool:
    """Let no policy release the node, or let them again. False where there is no such node."""
    changed = update(nodes).where(nodes.c.id == node_id).values(protected=protected).returning(nodes.c.pool_id)
    pool_id = tx.connection.execute(changed).scalar()
    if pool_id is None:
        return False
    told = "protected: no policy releases it" if protected else "not protected any more"
    tx.tell("node", node_id, told, actor=actor, node_id=node_id, pool_id=pool_id)
    return True


def ended(tx: Tx, node_id: int, detail: str) -> None:
    """A successful listing no longer shows its machine: the row's last step."""
    node = _locked(tx, node_id)
    if node.state == NodeState.TERMINATING:
        _move(tx, node, NodeState.TERMINATED, f"{node.end_reason}: {detail}", {"terminated_at": tx.now})


def _locked(tx: Tx, node_id: int) -> Row[Any]:
    return tx.connection.execute(select(*_columns).where(nodes.c.id == node_id).with_for_update()).one()


def _move(tx: Tx, node: Row[Any], to: NodeState, reason: str, values: dict[str, Any], actor: str = "master") -> None:
    links = {"node_id": node.id, "pool_id": node.pool_id}
    advance(tx, Node, [Move(node.id, node.state, to, reason, values, links, actor=actor)])
