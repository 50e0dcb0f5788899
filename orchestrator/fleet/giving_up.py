"""Giving up: where a job's machines fail again and again before they are of use, its tasks end instead of waiting for ever.

The job's own attempts are not spent; the tasks fail for the infrastructure's reason.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, and_, exists, func, or_, select, update

from orchestrator.fleet.holds import BOOT_FAILURES
from orchestrator.jobs import progress
from orchestrator.model.states import JOB_OPEN, NodeState, TaskState
from orchestrator.model.tables import Deployment, Job, Node, Task, table
from orchestrator.store.writer import Tx

deployments, jobs, nodes, tasks = (table(m) for m in (Deployment, Job, Node, Task))


def give_up(tx: Tx) -> None:
    """Close deployments more of whose machines failed than are replaced, and end the tasks that only they could serve:
    those that wait now, and those that come back later, for they were still running on a machine that was leaving."""
    failed = (
        select(nodes.c.deployment_id, func.count().label("count"), func.max(nodes.c.id).label("last"))
        .join(deployments, deployments.c.id == nodes.c.deployment_id)
        .join(jobs, jobs.c.id == deployments.c.job_id)
        .where(jobs.c.state.in_(JOB_OPEN), nodes.c.end_reason.in_(BOOT_FAILURES), nodes.c.enrolled_at.is_(None))
        .group_by(nodes.c.deployment_id)
        .subquery()
    )
    query = (
        select(deployments, failed.c.count, nodes.c.reason.label("why"))
        .join(failed, failed.c.deployment_id == deployments.c.id)
        .join(nodes, nodes.c.id == failed.c.last)
        .where(failed.c.count > deployments.c.relaunches)
        .where(
            or_(
                and_(deployments.c.closed_at.is_(None), deployments.c.machines > _of_use()),
                and_(deployments.c.closed_at.is_not(None), _of_use() == 0, _left_behind()),
            )
        )
    )
    for row in tx.connection.execute(query).all():
        _give_up(tx, row)


def _of_use() -> Any:
    """How many machines of a deployment are ready: where these are all it asks for, nothing is given up."""
    ready = (nodes.c.deployment_id == deployments.c.id, nodes.c.state == NodeState.READY)
    return select(func.count()).where(*ready).correlate(deployments).scalar_subquery()


def _left_behind() -> Any:
    """Whether tasks of a closed deployment's job wait for its token, which nothing open brings any more."""
    later = deployments.alias("later")
    same_token = (later.c.job_id == deployments.c.job_id, later.c.token == deployments.c.token)
    coming = exists().where(*same_token, later.c.closed_at.is_(None)).correlate(deployments)
    mine = (tasks.c.job_id == deployments.c.job_id, tasks.c.token == deployments.c.token)
    return exists().where(*mine, tasks.c.state == TaskState.QUEUED).correlate(deployments) & ~coming


def _give_up(tx: Tx, deployment: Row[Any]) -> None:
    why = (
        f"{deployment.count} machine(s) with token {deployment.token} failed before they were of use, "
        f"more than the {deployment.relaunches} that are replaced; the last: {deployment.why}"
    )
    ready = (nodes.c.deployment_id == deployment.id, nodes.c.state == NodeState.READY)
    have = tx.connection.execute(select(func.count()).where(*ready)).scalar_one()
    if have:  # the work goes on with those that are there
        tx.connection.execute(update(deployments).where(deployments.c.id == deployment.id).values(machines=have))
        told = f"goes on with {have} of {deployment.machines} machine(s): {why}"
        tx.tell("deployment", deployment.id, told, job_id=deployment.job_id, pool_id=deployment.pool_id)
        return
    progress.close_deployments(tx, why, id=deployment.id)
    progress.fail_queued(tx, deployment.job_id, deployment.token, why)
