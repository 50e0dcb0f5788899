"""`orchestrator cloud …`: list, images, sizes, locations, instances."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from orchestrator.cli.render import ago, table
from orchestrator.cli.session import Session, command

app = typer.Typer(no_args_is_help=True, help="Clouds of the settings: how they are used, and what a pool may name there.")
CloudName = Annotated[str, typer.Argument(metavar="CLOUD", help="name of a cloud in the settings")]


@command(app, "list")
def list_clouds(session: Session) -> None:
    """All clouds of the settings, and the pace of their calls."""
    page = session.api.get("clouds")
    columns = ("name", "provider", "limiter", "calls", "calls/s at most", "held back", "trouble")
    none = "The settings name no cloud; add a table such as [clouds.aws]."
    session.show(page, lambda: table(columns, map(_row, page["items"]), none))


@command(app, "images")
def images(session: Session, cloud: CloudName) -> None:
    """Images that a pool may name, asked from the cloud now."""
    _catalogue(session, cloud, "images")


@command(app, "sizes")
def sizes(session: Session, cloud: CloudName) -> None:
    """Sizes of machines that a pool may name as instance_type, asked from the cloud now."""
    _catalogue(session, cloud, "sizes")


@command(app, "locations")
def locations(session: Session, cloud: CloudName) -> None:
    """Zones, or what the cloud has of the kind, asked from it now."""
    _catalogue(session, cloud, "locations")


@command(app, "instances")
def instances(session: Session, cloud: CloudName) -> None:
    """The machines of this installation there, each with its node. Others of the account are never listed."""
    page = session.api.get(f"{_path(cloud)}/instances")
    columns = ("machine", "state", "address", "pool", "node", "we say", "launched", "fault")
    rows = (
        (
            *(machine[key] for key in ("id", "state", "address", "pool", "node_id", "node_state")),
            ago(machine["launched_at"]),
            machine["fault"],
        )
        for machine in page["items"]
    )
    session.show(page, lambda: table(columns, rows, f"This installation has no machine in cloud {cloud}."))


def _catalogue(session: Session, cloud: str, kind: str) -> None:
    page = session.api.get(f"{_path(cloud)}/{kind}")
    rows = ((item["id"], item["name"], item["detail"]) for item in page["items"])
    session.show(page, lambda: table(("id", "name", ""), rows, f"Cloud {cloud} shows no {kind}."))


def _path(name: str) -> str:
    if not name:
        raise typer.BadParameter("a cloud has a name; see `orchestrator cloud list`")
    return f"clouds/{quote(name, safe='')}"


def _row(cloud: dict[str, Any]) -> tuple[object, ...]:
    usage = cloud["usage"] or {"calls": {}, "rate": None, "held_back": None, "throttled_for_s": None}
    throttled = usage["throttled_for_s"]
    trouble = cloud["trouble"] or (f"throttled by the cloud for {throttled:.0f} s" if throttled is not None else None)
    calls = sum(usage["calls"].values())
    return cloud["name"], cloud["provider"], cloud["limiter"], calls, usage["rate"], usage["held_back"], trouble
