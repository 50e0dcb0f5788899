"""A pool as its policy sees it, read from the rows in a few queries."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, exists, select

from orchestrator.fleet.holds import BOOT_FAILURES
from orchestrator.model.states import NODE_LIVE, NODE_ON_ITS_WAY, AttemptState, NodeState
from orchestrator.model.tables import Attempt, Deployment, Job, Node, table
from policies.base import Demand, Failure, NodeView, PoolView

nodes, deployments, attempts, jobs = (table(m) for m in (Node, Deployment, Attempt, Job))

FAILED = (*BOOT_FAILURES, "launch_failed", "lost", "unhealthy")
"""Reasons of a node's end that are failures of the infrastructure, and so slow down the next launch. What a cloud has not
to give is held by its kind (`fleet.holds`) and slows down nothing else."""


def pool_view(connection: Connection, pool: Mapping[str, Any], now: datetime) -> PoolView:
    """Everything a policy may know of one pool at one moment."""
    return PoolView(
        now=now,
        name=pool["name"],
        min_nodes=0 if pool["deleted_at"] else pool["min_nodes"],
        max_nodes=pool["max_nodes"],
        demands=() if pool["deleted_at"] else _demands(connection, pool["id"]),
        nodes=_nodes(connection, pool["id"]),
        failures=_failures(connection, pool, now),
    )


def _demands(connection: Connection, pool_id: int) -> tuple[Demand, ...]:
    query = (
        select(deployments, jobs.c.name.label("job_name"))
        .join(jobs, jobs.c.id == deployments.c.job_id)
        .where(deployments.c.pool_id == pool_id, deployments.c.closed_at.is_(None))
        .order_by(deployments.c.id)
    )
    return tuple(
        Demand(
            id=row.id,
            owner=f"task {row.task_id} of job {row.job_id}" if row.task_id else f"job {row.job_id} ({row.job_name})",
            token=row.token,
            count=row.machines,
            image=row.image,
            instance_type=row.instance_type,
            since=row.opened_at,
        )
        for row in connection.execute(query)
    )


def _nodes(connection: Connection, pool_id: int) -> tuple[NodeView, ...]:
    live_attempt = exists().where(attempts.c.node_id == nodes.c.id, attempts.c.state == AttemptState.RUNNING)
    columns = (nodes.c.id, nodes.c.state, nodes.c.token, nodes.c.deployment_id, nodes.c.protected, nodes.c.requested_at)
    query = select(*columns, live_attempt.label("busy")).where(nodes.c.pool_id == pool_id, nodes.c.state.in_(NODE_LIVE))
    return tuple(
        NodeView(
            id=row.id,
            state=row.state,
            on_its_way=row.state in NODE_ON_ITS_WAY,
            token=row.token,
            demand_id=row.deployment_id,
            busy=bool(row.busy),
            protected=row.protected,
            requested_at=row.requested_at,
        )
        for row in connection.execute(query.order_by(nodes.c.id))
    )


def _failures(connection: Connection, pool: Mapping[str, Any], now: datetime) -> tuple[Failure, ...]:
    query = select(nodes.c.deployment_id, nodes.c.terminating_at, nodes.c.end_reason).where(
        nodes.c.pool_id == pool["id"],
        nodes.c.state.in_((NodeState.TERMINATING, NodeState.TERMINATED)),
        nodes.c.end_reason.in_(FAILED),
        nodes.c.terminating_at > now - timedelta(seconds=pool["relaunch_window_s"]),
    )
    # Machines of one launch that fail together, by one answer of the cloud, are one failure.
    rows = connection.execute(query.distinct().order_by(nodes.c.terminating_at))
    return tuple(Failure(row.deployment_id, row.terminating_at, row.end_reason) for row in rows)
