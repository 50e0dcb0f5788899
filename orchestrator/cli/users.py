"""`orchestrator user …`: add, list, passwd, link, role, disable, delete."""

from __future__ import annotations

import sys
from typing import Annotated, Any
from urllib.parse import quote

import typer

from orchestrator.cli.render import ago, at, table
from orchestrator.cli.session import Session, command, say
from orchestrator.people.roles import Role

app = typer.Typer(no_args_is_help=True, help="People: who may log in, and what they may do.")
UserName = Annotated[str, typer.Argument(metavar="USER", help="name of a user")]
ClientOption = Annotated[str | None, typer.Option("--client", help="only this client's jobs are there for them")]
Stdin = Annotated[bool, typer.Option("--password-stdin", help="read the password from standard input; default: make one")]


@command(app, "list")
def list_users(session: Session) -> None:
    """Everybody."""
    page = session.api.get("users")
    columns = ("name", "role", "client", "added", "disabled")
    session.show(page, lambda: table(columns, map(_row, page["items"]), "There is nobody yet."))


@command(app, "add")
def add(
    session: Session,
    name: UserName,
    role: Annotated[Role, typer.Option(help="what they may do")] = Role.VIEWER,
    client: ClientOption = None,
    password_stdin: Stdin = False,
) -> None:
    """Add a user. Prints a one-time password, which they change at their first login."""
    body = {"name": name, "role": role, "client": client, "password": _read_password() if password_stdin else None}
    _show_password(session, session.api.post("users", body))


@command(app, "passwd")
def passwd(session: Session, name: UserName, password_stdin: Stdin = False) -> None:
    """Give a user a new password; their logins end. Prints a one-time password, unless one is given."""
    password = _read_password() if password_stdin else None
    _show_password(session, session.api.post(f"{_path(name)}/password", {"password": password}))


@command(app, "link")
def link(session: Session, name: UserName) -> None:
    """Print an address that logs the user in once, within ten minutes."""
    found = session.api.post(f"{_path(name)}/link")
    session.show(found, lambda: print(found["link"]))
    if not session.json:
        say(f"it works once, until {at(found['expires_at'])}")


@command(app, "role")
def role(
    session: Session,
    name: UserName,
    role: Annotated[Role, typer.Argument(metavar="ROLE", help="viewer, operator or admin")],
    client: ClientOption = None,
    all_clients: Annotated[bool, typer.Option("--all-clients", help="no longer limited to one client")] = False,
) -> None:
    """Change what a user may do; their logins end."""
    limited = {"client": client} if client is not None or all_clients else {}
    found = session.api.patch(_path(name), {"role": role, **limited})
    session.show(found, lambda: print(f"{name} is {found['role']}{_of_client(found)}"))


@command(app, "disable")
def disable(
    session: Session,
    name: UserName,
    off: Annotated[bool, typer.Option("--off", help="let them in again")] = False,
) -> None:
    """Let a user in no more, nor the tokens they made."""
    found = session.api.patch(_path(name), {"disabled": not off})
    session.show(found, lambda: print(f"{name} is {'disabled' if found['disabled_at'] else 'enabled'}"))


@command(app, "delete")
def delete(session: Session, name: UserName) -> None:
    """Delete a user; the tokens they made are revoked."""
    found = session.api.delete(_path(name))
    session.show(found, lambda: print(f"{name} is deleted"))


def _show_password(session: Session, user: dict[str, Any]) -> None:
    session.show(user, lambda: print(user["password"] or f"{user['name']} has that password now"))
    if user["password"] and not session.json:
        say(f"{user['name']} is {user['role']}{_of_client(user)}; this password works once, and is changed at the login")


def _read_password() -> str:
    return sys.stdin.readline().rstrip("\r\n")


def _of_client(user: dict[str, Any]) -> str:
    return f" of client {user['client']}" if user["client"] else ""


def _path(name: str) -> str:
    if not name:
        raise typer.BadParameter("a user has a name; see `orchestrator user list`")
    return f"users/{quote(name, safe='')}"


def _row(user: dict[str, Any]) -> tuple[object, ...]:
    return user["name"], user["role"], user["client"], ago(user["created_at"]), at(user["disabled_at"])
