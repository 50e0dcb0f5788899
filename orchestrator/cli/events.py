"""`orchestrator events`: what happened, why, and who did it; with --follow as it happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from orchestrator.cli.render import at, clean
from orchestrator.cli.session import Session, pool_path, say
from orchestrator.cli.waiting import Patience

EVERY = 1 << 30
Asked = dict[str, str | int | None]


def events(
    session: Session,
    job: Annotated[int | None, typer.Option(min=1, help="only of this job")] = None,
    node: Annotated[int | None, typer.Option(min=1, help="only of this node")] = None,
    pool: Annotated[str | None, typer.Option(help="only of this pool")] = None,
    actor: Annotated[str | None, typer.Option(help="only what they did: a person's name, 'token NAME', master")] = None,
    limit: Annotated[int, typer.Option(min=1, help="most of the past that is shown")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on as they happen (JSON: one object a line)")] = False,
) -> None:
    """What happened, oldest first."""
    pool_id = session.api.get(pool_path(pool))["id"] if pool is not None else None
    _show(session, {"job_id": job, "node_id": node, "pool_id": pool_id, "actor": actor}, limit, follow)


def audit_log(
    session: Session,
    actor: Annotated[str | None, typer.Option(help="only their calls: a person's name, 'token NAME', nobody")] = None,
    limit: Annotated[int, typer.Option(min=1, help="most of the past that is shown")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on as they happen (JSON: one object a line)")] = False,
) -> None:
    """Who asked for what, from where, and what came of it: changes, logins and refusals, oldest first."""
    _show(session, {"requests": True, "actor": actor}, limit, follow)


def _show(session: Session, asked: Asked, limit: int, follow: bool) -> None:
    page = session.api.page("events", limit, cursor="before", **asked)
    if session.json and not follow:
        session.show(page, lambda: None)
        return
    show = _json_line if session.json else _line
    for event in reversed(page["items"]):
        show(event)
    if follow:
        _follow(session, asked, page["items"][0]["id"] if page["items"] else 0, show)


def _follow(session: Session, asked: Asked, last: int, show: Callable[[dict[str, Any]], None]) -> None:
    """The stream wakes, the table tells: nothing is missed when the line or the master breaks."""
    from orchestrator.cli.client import Unreachable

    patience = Patience(say)
    while True:
        try:
            with session.api.stream("events/stream") as lines:
                for line in lines:
                    patience.answered()
                    told = int(line[3:]) if line.startswith("id:") else 0
                    if told > last or line.startswith(":"):
                        for event in session.api.page("events", EVERY, cursor="after", after=last, **asked)["items"]:
                            show(event)
                            last = event["id"]
                    last = max(last, told)
            patience.pause("the stream ended")
        except Unreachable as error:
            patience.pause(error.lines[0])


def _json_line(event: dict[str, Any]) -> None:
    print(json.dumps(event, ensure_ascii=False), flush=True)


def _line(event: dict[str, Any]) -> None:
    states = (event["from_state"], event["to_state"])
    step = f" {states[0] or 'new'} → {states[1]}" if event["to_state"] else ""
    actor = "" if event["actor"] == "master" else f" (by {event['actor']})"
    about = event["subject"] if event["subject"] == "request" else f"{event['subject']} {event['subject_id']}"
    origin = f" {event['detail']}" if event["subject"] == "request" else ""
    print(clean(f"{at(event['at'])}  {about}{step}: {event['reason']}{actor}{origin}"), flush=True)
