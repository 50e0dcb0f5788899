"""Deadlines: a node that does not come, falls silent, or does not finish draining goes, whether clouds answer or not."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, select, update

from orchestrator.fleet import health, leaving
from orchestrator.fleet.signals import FETCHED
from orchestrator.model.states import NodeState
from orchestrator.model.tables import Node, Pool, table
from orchestrator.store.writer import Tx

pools, nodes = table(Pool), table(Node)
_heard = update(nodes).where(nodes.c.id == bindparam("_id")).values(heartbeat_at=bindparam("heartbeat_at"))


def keep(tx: Tx, heartbeats: Mapping[int, datetime], listening_since: datetime) -> None:
    """Write the heartbeats down together and end the nodes whose time is over.

    `heartbeats`: when each node was last heard of by this master. A master that has just come up has heard of nobody,
    so silence counts from `listening_since` at the earliest.
    """
    if heartbeats:
        rows = [{"_id": node_id, "heartbeat_at": at} for node_id, at in heartbeats.items()]
        tx.connection.execute(_heard, rows)
    timed = (NodeState.BOOTING, NodeState.READY, NodeState.DRAINING)
    health.replace_unhealthy(tx)
    columns = (
        pools.c.boot_timeout_s, pools.c.enrol_timeout_s, pools.c.heartbeat_timeout_s, pools.c.drain_timeout_s
    )  # fmt: skip
    query = select(nodes, *columns).join(pools, pools.c.id == nodes.c.pool_id).where(nodes.c.state.in_(timed))
    for node in tx.connection.execute(query).all():
        if node.state == NodeState.BOOTING:
            _end_if_not_up(tx, node, listening_since)
            continue
        heard = max(node.heartbeat_at or node.enrolled_at or node.launched_at, listening_since)
        if tx.now > heard + timedelta(seconds=node.heartbeat_timeout_s):
            leaving.at_once(tx, node.id, "lost", f"its agent was not heard of for {node.heartbeat_timeout_s} s")
        elif node.state == NodeState.DRAINING and not leaving.finish(tx, node.id):
            since = node.draining_at or tx.now
            if tx.now > since + timedelta(seconds=node.drain_timeout_s):
                leaving.at_once(tx, node.id, node.end_reason, f"did not finish draining within {node.drain_timeout_s} s")


def _end_if_not_up(tx: Tx, node: Row[Any], listening_since: datetime) -> None:
    """A machine has its time to boot, and its agent its own to enrol once it has been fetched."""
    reached = f"it came as far as: {node.boot_phase}" if node.boot_phase else "nothing was heard of it"
    if tx.now > node.launched_at + timedelta(seconds=node.boot_timeout_s):
        why = f"its agent did not call home within {node.boot_timeout_s} s of the machine's start; {reached}"
        leaving.at_once(tx, node.id, "boot_timeout", why)
        return
    enrols_since = max(node.boot_phase_at or tx.now, listening_since)
    if node.boot_phase == FETCHED and tx.now > enrols_since + timedelta(seconds=node.enrol_timeout_s):
        why = f"its agent was fetched and did not enrol within {node.enrol_timeout_s} s"
        leaving.at_once(tx, node.id, "enrol_timeout", why)
