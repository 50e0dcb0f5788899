"""`orchestrator notify …`, `client notify` and `job notifications`: who is told of jobs' ends, and what came of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import typer

from orchestrator.cli.render import ago, table
from orchestrator.cli.session import Session, command

app = typer.Typer(no_args_is_help=True, help="Notifications: the secret that signs them, and a trial.")
Place = Annotated[str, typer.Argument(metavar="URL|ADDRESS", help="a webhook's URL, or an e-mail address")]
SecretName = Annotated[str | None, typer.Option(metavar="NAME", help="sign with the client's secret of this name")]


class Ends(StrEnum):
    ALWAYS = "always"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Action(StrEnum):
    LIST = "list"
    ADD = "add"
    REMOVE = "remove"


@command(app, "secret")
def secret(
    session: Session,
    client: Annotated[str | None, typer.Option(help="with --name: the client whose webhooks name it")] = None,
    name: Annotated[str | None, typer.Option(help="the `secret:` that webhooks of this client name")] = None,
) -> None:
    """Print what receivers of webhooks check signatures with."""
    found = session.api.get("notify/secret", client=client, name=name)
    session.show(found, lambda: print(found["secret"]))


@command(app, "test")
def test(
    session: Session,
    place: Place,
    client: Annotated[str | None, typer.Option(help="with --secret: whose it is")] = None,
    secret: SecretName = None,
) -> None:
    """Send a trial message now. Exit status 1 where it does not arrive."""
    body = _place(place, secret) | ({"client": client} if client else {})
    done = session.api.post("notify/test", body)
    session.show(done, lambda: print(f"{'sent' if done['sent'] else 'not sent'}: {done['reason']}"))
    if not done["sent"]:
        raise typer.Exit(1)


def client_notify(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="CLIENT", help="name of a client")],
    action: Annotated[Action, typer.Argument(help="what to do")] = Action.LIST,
    what: Annotated[
        str, typer.Argument(metavar="[URL|ADDRESS|NUMBER]", help="the place to add, or the number to remove")
    ] = "",
    on: Annotated[list[Ends] | None, typer.Option(help="of which ends; default: always")] = None,
    secret: SecretName = None,
) -> None:
    """Who hears of every job of a client: `CLIENT list`, `CLIENT add URL|ADDRESS --on failed`, `CLIENT remove NUMBER`."""
    path = f"clients/{quote(name, safe='')}/notify"
    if (action is Action.LIST) != (not what):
        raise typer.BadParameter(f"`{action}` {'takes nothing more' if action is Action.LIST else 'says what'}; see --help")
    if action is Action.ADD:
        ends = {"on": [end.value for end in on]} if on else {}
        done = session.api.post(path, {**_place(what, secret), **ends})
        session.show(done, lambda: print(f"{done['number']}: {done['to']} hears of {name}'s jobs"))
    elif action is Action.REMOVE:
        if not what.isdigit():
            raise typer.BadParameter(f"{what!r} is not a number; `orchestrator client notify {name} list` shows them")
        session.api.call("DELETE", f"{path}/{what}", {})
        session.show({"number": int(what)}, lambda: print(f"{what} hears of {name}'s jobs no longer"))
    else:
        page = session.api.get(path)
        rows = [(each["number"], each["to"], ", ".join(each["on"]), each["secret"]) for each in page["items"]]
        session.show(page, lambda: table(("number", "to", "on", "secret"), rows, f"Nobody hears of {name}'s jobs."))


def job_notifications(
    session: Session, job: Annotated[int, typer.Argument(metavar="JOB", min=1, help="number of a job")]
) -> None:
    """Who is told of its end, and what came of it."""
    page = session.api.page(f"jobs/{job}/notifications", 1000)
    rows = [
        (each["id"], each["to"], each["state"], each["tries"], ago(each["sent_at"]), each["reason"])
        for each in page["items"]
    ]
    columns = ("id", "to", "state", "tries", "sent", "reason")
    session.show(page, lambda: table(columns, rows, "Nobody is told of it; `notify:` in its job file names who is."))


def _place(what: str, secret: str | None) -> dict[str, str]:
    kind = "webhook" if "://" in what else "email"
    return {kind: what} | ({"secret": secret} if secret else {})
