"""Holds: a kind of launch that failed is left alone for a while, then tried again by one machine, the probe.

Two troubles are held alike. A shortage (no capacity, a quota, a machine taken back) holds a kind at once. Machines that do
not boot open the circuit breaker after `breaker_failures` of them in a row. A machine of the kind that becomes ready ends
the hold; a probe that fails doubles it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, insert, or_, select, update

from orchestrator.fleet import joining
from orchestrator.fleet.rungs import Held
from orchestrator.model.states import NODE_ON_ITS_WAY
from orchestrator.model.tables import Hold, Launch, Node, Pool, table
from orchestrator.store.writer import Tx

holds, launches, nodes, pools = (table(m) for m in (Hold, Launch, Node, Pool))

SHORTAGES = ("no_capacity", "quota", "reclaimed", "misconfigured")
BOOT_FAILURES = ("boot_timeout", "enrol_timeout", "vanished")
SHORTAGE_FIRST_S, SHORTAGE_MOST_S = 120.0, 1800.0
BREAKER_MOST_S = 3600.0


def held(connection: Connection, pool_id: int) -> dict[str, Held]:
    """The kinds of this pool that are not to be launched freely now."""
    probing = exists().where(nodes.c.launch_id == holds.c.probe_launch_id, nodes.c.state.in_(NODE_ON_ITS_WAY))
    query = select(holds, pools.c.breaker_failures, probing.label("probing")).join(pools, pools.c.id == holds.c.pool_id)
    rows = connection.execute(query.where(holds.c.pool_id == pool_id))
    return {row.kind: Held(row.reason, row.until, bool(row.probing)) for row in rows if _holds(row)}


def failed(tx: Tx, launch_id: int, end_reason: str, why: str) -> None:
    """A launch of this kind, or a machine of it that never became ready, has failed. Passes over what is no fault of the
    kind, and further machines of a failure that is held already."""
    cause = "shortage" if end_reason in SHORTAGES else "boot" if end_reason in BOOT_FAILURES else None
    if cause is None:
        return
    kind = (launches.c.kind, launches.c.label, launches.c.pool_id, pools.c.breaker_failures, pools.c.breaker_pause_s)
    query = select(*kind).join(pools, pools.c.id == launches.c.pool_id).where(launches.c.id == launch_id)
    launch = tx.connection.execute(query).one()
    if launch.kind == joining.KIND:
        return
    mine = (holds.c.pool_id == launch.pool_id, holds.c.kind == launch.kind)
    before = tx.connection.execute(select(holds).where(*mine).with_for_update()).first()
    failures = before.failures + 1 if before is not None and before.cause == cause else 1
    if before is not None and before.cause == cause and before.until > tx.now:
        return
    until = tx.now + _pause(cause, failures, launch)
    values = {
        "label": launch.label,
        "cause": cause,
        "reason": f"{end_reason}: {why}" if cause == "shortage" else f"{failures} machine(s) in a row failed: {why}",
        "failures": failures,
        "until": until,
        "probe_launch_id": None,
    }
    if before is None:
        tx.connection.execute(insert(holds).values(pool_id=launch.pool_id, kind=launch.kind, since=tx.now, **values))
    else:
        tx.connection.execute(update(holds).where(holds.c.id == before.id).values(values))
    if until > tx.now:
        told = f"{launch.label} is not launched until {until:%H:%M:%S} UTC, then tried by one machine: {values['reason']}"
        tx.tell("pool", launch.pool_id, told, pool_id=launch.pool_id)


def worked(tx: Tx, launch_id: int) -> None:
    """A machine of this launch has become ready: its kind boots. That it can be had shows only in the probe: others were
    given before the shortage."""
    launch = tx.connection.execute(select(launches.c.pool_id, launches.c.kind).where(launches.c.id == launch_id)).one()
    proven = or_(holds.c.cause == "boot", holds.c.probe_launch_id == launch_id)
    mine = (holds.c.pool_id == launch.pool_id, holds.c.kind == launch.kind, proven)
    ended = delete(holds).where(*mine).returning(holds.c.label)
    if (label := tx.connection.execute(ended).scalar()) is not None:
        tx.tell("pool", launch.pool_id, f"{label} works again: launched freely", pool_id=launch.pool_id)


def probe(tx: Tx, pool_id: int, kind: str, launch_id: int) -> None:
    """This launch is the one that tries the kind again."""
    tx.connection.execute(
        update(holds).where(holds.c.pool_id == pool_id, holds.c.kind == kind).values(probe_launch_id=launch_id)
    )


def _holds(row: Row[Any]) -> bool:
    return bool(row.cause == "shortage" or row.failures >= row.breaker_failures)


def _pause(cause: str, failures: int, launch: Row[Any]) -> timedelta:
    if cause == "shortage":
        return timedelta(seconds=min(SHORTAGE_FIRST_S * 2 ** min(failures - 1, 10), SHORTAGE_MOST_S))
    if failures < launch.breaker_failures:
        return timedelta()
    return timedelta(seconds=min(launch.breaker_pause_s * 2 ** min(failures - launch.breaker_failures, 10), BREAKER_MOST_S))
