"""`orchestrator client weight` and `client priority`: a client's share of the nodes that several use."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from orchestrator.cli.session import Session

Name = Annotated[str, typer.Argument(metavar="CLIENT", help="name of a client")]


def weight(
    session: Session,
    name: Name,
    weight: Annotated[float | None, typer.Argument(min=0, help="2: twice the share of a client of weight 1")] = None,
) -> None:
    """Show or set its weight among the clients that share nodes."""
    _share(session, name, {"weight": weight})


def priority(
    session: Session,
    name: Name,
    priority: Annotated[int | None, typer.Argument(help="added to that of its jobs; higher first")] = None,
) -> None:
    """Show or set what is added to the priority of its jobs."""
    _share(session, name, {"priority": priority})


def _share(session: Session, name: str, asked: dict[str, float | None]) -> None:
    path = f"clients/{quote(name, safe='')}/share"
    changes = {key: value for key, value in asked.items() if value is not None}
    found = session.api.patch(path, changes) if changes else session.api.get(path)
    told = f"client {found['name']} has weight {found['weight']:g}, priority {found['priority']:+d}"
    session.show(found, lambda: print(told))
