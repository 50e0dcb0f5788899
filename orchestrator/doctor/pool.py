"""One pool: what each rung of its ladder needs in its cloud, and what its last machines tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from orchestrator.clouds import Clouds
from orchestrator.fleet.rungs import Rung, ladder
from orchestrator.fleet.signals import BEGAN, FETCHED, RUNNING
from orchestrator.model.tables import Hold, Node, Pool, table
from providers.base import Finding, Misconfigured, ProviderError, Verdict

pools, nodes, holds = table(Pool), table(Node), table(Hold)

RECENT = timedelta(days=1)
SIZES = ("SMALL", "MEDIUM", "LARGE")
NEVER_ENROLLED = ("boot_timeout", "enrol_timeout")


def all_pools(connection: Connection) -> list[dict[str, Any]]:
    query = select(pools).where(pools.c.gone_at.is_(None), pools.c.deleted_at.is_(None)).order_by(pools.c.name)
    return [dict(row) for row in connection.execute(query).mappings()]


def rungs(pool: Mapping[str, Any]) -> list[Rung]:
    """Each kind of machine that the pool may launch, those of its sizes too; none where machines exist already and join."""
    if "instance_type" not in pool["launch"]:
        return []
    templates = (pool["launch"], *pool["launch"].get("rungs", ()))
    sizes = sorted({size for template in templates for size in template.get("sizes", {})})
    return list({rung.kind: rung for size in (None, *sizes) for rung in ladder(pool, instance_type=size)}.values())


def inspect(clouds: Clouds, rung: Rung) -> Iterator[Finding]:
    """What the provider says of this rung's image, type and places."""
    if rung.instance_type in SIZES:
        fix = f"give the rung `sizes` with {rung.instance_type} in the words of cloud {rung.cloud}"
        told = f"{rung.instance_type} means nothing there, and a launch for a job that asks for it fails"
        yield Finding("sizes", Verdict.WARNING, f"{told}; {fix}")
        return
    try:
        provider = clouds.get(rung.cloud)
        provider.validate(rung.template)
        yield from provider.inspect(rung.image, rung.instance_type, rung.template)
    except Misconfigured as error:
        yield Finding("launch", Verdict.WRONG, str(error))
    except ProviderError as error:
        yield Finding("launch", Verdict.WARNING, f"it could not be looked at: {error}")


def history(connection: Connection, pool: Mapping[str, Any], url: str, now: datetime) -> Iterator[Finding]:
    """What holds the pool back now, and whether its last machines came home."""
    if pool["paused_at"] is not None:
        again = f"`orchestrator pool resume {pool['name']}` when that is mended"
        yield Finding("paused", Verdict.WARNING, f"it launches nothing: {pool['paused_reason']}; {again}")
    if pool["frozen_reason"] is not None:
        again = "`orchestrator audit` shows which they are; it goes on by itself when they are gone"
        yield Finding("frozen", Verdict.WRONG, f"it launches nothing: {pool['frozen_reason']}; {again}")
    for hold in connection.execute(select(holds).where(holds.c.pool_id == pool["id"], holds.c.until > now)):
        told = f"{hold.label} is not tried before {hold.until:%H:%M:%S} UTC: {hold.reason}"
        yield Finding("held", Verdict.WARNING, told)
    yield from _came_home(connection, pool, url, now)


def _came_home(connection: Connection, pool: Mapping[str, Any], url: str, now: datetime) -> Iterator[Finding]:
    """The machines of the last day that brought no agent: those never heard of, and those heard of while booting."""
    recent = (nodes.c.pool_id == pool["id"], nodes.c.launched_at > now - RECENT)
    came = connection.execute(select(func.count()).where(*recent, nodes.c.enrolled_at.is_not(None))).scalar_one()
    lost = (nodes.c.enrolled_at.is_(None), nodes.c.end_reason.in_(NEVER_ENROLLED))
    heard = func.coalesce(nodes.c.boot_phase, RUNNING).in_((BEGAN, FETCHED))
    query = select(heard.label("heard"), func.count().label("machines"), func.max(nodes.c.id).label("last"))
    troubles = connection.execute(query.where(*recent, *lost).group_by(heard).order_by(heard)).all()
    every = came + sum(row.machines for row in troubles)
    for row in troubles:
        if row.heard:
            told = "reached this master while booting, but brought no agent: the image needs Python 3.8 or newer, and disk"
        else:
            told = (
                f"ran and never called home: their network needs a way to {url} that no firewall or security group closes, "
                "and the image needs cloud-init"
            )
        verdict = Verdict.WARNING if came else Verdict.WRONG
        console = f"`orchestrator node console {row.last}` shows how the last one booted"
        yield Finding("machines", verdict, f"{row.machines} of {every} machine(s) of the last day {told}; {console}")
    if came and not troubles:
        yield Finding("machines", Verdict.OK, f"{came} machine(s) of the last day called home")
