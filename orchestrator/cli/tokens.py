"""`orchestrator token …`: create, list, revoke."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from orchestrator.cli.render import ago, at, table
from orchestrator.cli.session import Session, command, say
from orchestrator.people.roles import Role

app = typer.Typer(no_args_is_help=True, help="API tokens: for programs, cron and this command line.")
TokenName = Annotated[str, typer.Argument(metavar="NAME", help="name of a token")]


@command(app, "create")
def create(
    session: Session,
    name: TokenName,
    role: Annotated[Role, typer.Option(help="what it may do")] = Role.VIEWER,
    client: Annotated[str | None, typer.Option(help="only this client's jobs are there for it")] = None,
    expires: Annotated[str | None, typer.Option(metavar="TIME", help="such as 90d; default: it does not expire")] = None,
) -> None:
    """Make a token and print it: it is shown this once."""
    body = {"name": name, "role": role, "client": client, "expires_in": expires}
    made = session.api.post("tokens", body)
    session.show(made, lambda: print(made["token"]))
    if not session.json:
        until = f", until {at(made['expires_at'])}" if made["expires_at"] else ""
        say(f"token {name} is {made['role']}{f' of client {client}' if client else ''}{until}; it is not shown again")


@command(app, "list")
def list_tokens(session: Session) -> None:
    """All tokens, revoked and expired ones too."""
    page = session.api.get("tokens")
    columns = ("name", "role", "client", "made by", "made", "expires", "revoked")
    session.show(page, lambda: table(columns, map(_row, page["items"]), "There is no token."))


@command(app, "revoke")
def revoke(session: Session, name: TokenName) -> None:
    """Let nobody call with it any more."""
    if not name:
        raise typer.BadParameter("a token has a name; see `orchestrator token list`")
    found = session.api.delete(f"tokens/{quote(name, safe='')}")
    session.show(found, lambda: print(f"token {name} is revoked"))


def _row(token: dict[str, Any]) -> tuple[object, ...]:
    moments = (ago(token["created_at"]), at(token["expires_at"]), at(token["revoked_at"]))
    return token["name"], token["role"], token["client"], token["made_by"], *moments
