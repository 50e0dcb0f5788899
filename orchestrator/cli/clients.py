"""`orchestrator client …`: list them, and their parameters."""

from __future__ import annotations

import sys
from typing import Annotated, Any
from urllib.parse import quote

import typer

from orchestrator.cli.render import ago, table
from orchestrator.cli.session import Session, command

app = typer.Typer(no_args_is_help=True, help="Clients, and the parameters that all their jobs have.")
params = typer.Typer(no_args_is_help=True, help="Parameters of a client: under its templates', under a launch's.")
app.add_typer(params, name="params")
ClientName = Annotated[str, typer.Argument(metavar="CLIENT", help="name of a client")]
ParamName = Annotated[str, typer.Argument(metavar="NAME", help="name of a parameter")]


@command(app, "list")
def list_clients(session: Session, limit: Annotated[int, typer.Option(min=1, help="most clients shown")] = 1000) -> None:
    """Clients, newest first."""
    page = session.api.page("clients", limit)
    columns = ("id", "name", "weight", "templates", "parameters", "since")
    none = "There are no clients; the first job, template or parameter of one makes it."
    session.show(page, lambda: table(columns, map(_client_row, page["items"]), none))


@command(params, "get")
def get(
    session: Session,
    client: ClientName,
    name: Annotated[str | None, typer.Argument(help="only this one's value")] = None,
) -> None:
    """A client's parameters; secret ones show as ***."""
    from orchestrator.cli.client import Complaint

    found = session.api.get(_path(client))
    if name is None:
        columns = ("name", "value", "set", "by")
        rows = [(each["name"], each["value"], ago(each["updated_at"]), each["updated_by"]) for each in found["items"]]
        session.show(found, lambda: table(columns, rows, f"Client {client} has no parameters."))
        return
    one = next((each for each in found["items"] if each["name"] == name), None)
    if one is None:
        raise Complaint(f"client {client} has no parameter {name}; `orchestrator client params get {client}` lists them")
    session.show(one, lambda: print(one["value"]))


@command(params, "set")
def set_param(
    session: Session,
    client: ClientName,
    name: ParamName,
    value: Annotated[str, typer.Argument(help="its value; - reads standard input, which no list of processes shows")],
    secret: Annotated[bool, typer.Option("--secret", help="encrypted at rest, never shown again")] = False,
) -> None:
    """Set a parameter for the jobs submitted from now on."""
    text = _from_standard_input() if value == "-" else value
    done = session.api.put(_path(client, name), {"value": text, "secret": secret})
    kind = "secret parameter" if secret else "parameter"
    session.show(done, lambda: print(f"{kind} {name} of client {client} is set"))


@command(params, "unset")
def unset(session: Session, client: ClientName, name: ParamName) -> None:
    """Remove a parameter; jobs that have it keep it."""
    done = session.api.delete(_path(client, name))
    session.show(done, lambda: print(f"parameter {name} of client {client} is removed"))


def _from_standard_input() -> str:
    """All of it, but for the line end that `echo` and editors add."""
    text = sys.stdin.read()
    return text.removesuffix("\n").removesuffix("\r")


def _path(client: str, name: str | None = None) -> str:
    return "/".join(["clients", quote(client, safe="") or "-", "params", *([quote(name, safe="") or "-"] if name else [])])


def _client_row(row: dict[str, Any]) -> tuple[object, ...]:
    return row["id"], row["name"], f"{row['weight']:g}", row["templates"], row["params"], ago(row["created_at"])
