"""Why a queued task is not taken: the nodes that are there against what it needs, as a sentence."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from orchestrator.agents.claims import PATIENCE
from orchestrator.jobs.fits import Has, Needs, lacks, plain
from orchestrator.model.states import NODE_LIVE, NODE_ON_ITS_WAY, NodeState
from orchestrator.model.tables import Client, Deployment, Job, Node, Pool, table

nodes, pools, deployments, jobs, clients = (table(m) for m in (Node, Pool, Deployment, Job, Client))


def why_no_node(connection: Connection, task: Row[Any], now: datetime) -> str:
    """Of a task that is due and queued."""
    kind = f"with token {task.token}" if task.token else "without a token"
    named = select(clients.c.name).join(jobs, jobs.c.client_id == clients.c.id).where(jobs.c.id == task.job_id)
    found = nodes_for(connection, task.token, connection.execute(named).scalar_one())
    found = [node for node in found if task.pool_id in (None, node.pool_id)]
    needs = Needs.of(task)
    able = [node for node in found if lacks_of(needs, node) is None]
    if found and not able:
        node = found[0]
        why = f"node {node.id} of pool {node.pool} has {lacks_of(needs, node)}"
        return f"is queued: none of the {len(found)} node(s) {kind} can run it; it needs {needs}, and {why}."
    ready = [node for node in able if node.state == NodeState.READY]
    if ready:
        return _busy(task, ready, kind, now)
    if coming := [node for node in able if node.state in NODE_ON_ITS_WAY]:
        listed = ", ".join(f"node {node.id} ({node.state})" for node in coming[:5])
        return f"is queued: no node {kind} is ready yet; on the way: {listed}."
    return _nothing_there(connection, task, kind)


def nodes_for(connection: Connection, token: str | None, client: str) -> list[Row[Any]]:
    """The live nodes that take tasks of this client with this token (None: without one), with their pool's terms."""
    same = nodes.c.token.is_(None) if token is None else nodes.c.token == token
    columns = (nodes.c.id, nodes.c.state, nodes.c.slots, nodes.c.memory_mb, nodes.c.pool_id)
    query = select(*columns, pools.c.name.label("pool"), pools.c.labels, pools.c.clients)
    query = query.join(pools, pools.c.id == nodes.c.pool_id).where(same, nodes.c.state.in_(NODE_LIVE))
    found = connection.execute(query.order_by(nodes.c.id)).all()
    return [node for node in found if token or not node.clients or client in node.clients]


def lacks_of(needs: Needs, node: Row[Any]) -> str | None:
    """What the node lacks for these needs. A machine that is not there yet may have any memory."""
    booting = node.memory_mb is None and node.state in NODE_ON_ITS_WAY and node.state != NodeState.READY
    return lacks(needs, Has(node.slots, needs.memory_mb if booting else node.memory_mb, node.labels or ()))


def _busy(task: Row[Any], ready: list[Row[Any]], kind: str, now: datetime) -> str:
    slots = sum(node.slots for node in ready)
    told = f"is queued: the {len(ready)} node(s) {kind} that can run it ({slots} slot(s)) are busy; "
    if plain(task.slots, task.memory_mb):
        return told + "it is taken when one is free."
    if task.queued_at + PATIENCE <= now:
        return told + "in its turn they take nothing else, and the first with room enough takes it."
    since = f"{task.queued_at + PATIENCE:%H:%M:%S} UTC"
    return told + f"smaller tasks may pass it until {since}, then nodes keep themselves free for it."


def _nothing_there(connection: Connection, task: Row[Any], kind: str) -> str:
    asking = (deployments.c.token == task.token, deployments.c.closed_at.is_(None))
    if task.token and connection.execute(select(deployments.c.id).where(*asking)).first():
        return f"is queued: machines {kind} are asked for and none is on its way yet."
    if task.labels:
        labels = connection.execute(select(pools.c.labels).where(pools.c.gone_at.is_(None))).scalars()
        if not any(set(task.labels) <= set(have or ()) for have in labels):
            wanted = ", ".join(task.labels)
            return f"is queued: no pool has the label(s) {wanted}; `orchestrator pool change POOL --label …` gives it one."
    if task.token:
        return (
            f"is queued: no node {kind} is up and nothing asks for one; give the job an infrastructure block with a count."
        )
    return f"is queued: no node {kind} is up; start one with `orchestrator pool scale POOL 1`."
