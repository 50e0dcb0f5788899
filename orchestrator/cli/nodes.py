"""`orchestrator node …`: list, show, explain, console, enrol, terminate."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli.render import ago, at, clean, explanation, fields, table
from orchestrator.cli.session import Session, command, pool_path, say

app = typer.Typer(no_args_is_help=True, help="Nodes: each rented machine, from the wish to the end.")
NodeId = Annotated[int, typer.Argument(metavar="NODE", min=1, help="number of a node")]


@command(app, "list")
def list_nodes(
    session: Session,
    all_: Annotated[bool, typer.Option("--all", help="terminated ones too")] = False,
    pool: Annotated[str | None, typer.Option(help="only this pool's")] = None,
    state: Annotated[str | None, typer.Option(help="only those in this state, such as ready or terminated")] = None,
    limit: Annotated[int, typer.Option(min=1, help="most nodes shown")] = 100,
) -> None:
    """Nodes that are not terminated, newest first."""
    if pool is not None:
        session.api.get(pool_path(pool))  # an unknown pool is an error, not an empty list
    live = None if all_ or state else True
    page = session.api.page("nodes", limit, pool=pool, state=state, live=live)
    columns = ("id", "pool", "state", "busy", "token", "instance", "address", "asked for", "reason")
    session.show(page, lambda: table(columns, map(_row, page["items"]), "There are no such nodes."))
    if page["next"] and not session.json:
        say(f"there are more; --limit {limit * 10} shows more of them")


@command(app, "show")
def show(session: Session, node: NodeId) -> None:
    """One node."""
    found = session.api.get(f"nodes/{node}")

    def text() -> None:
        plain = (
            "pool",
            "cloud",
            "kind",
            "state",
            "reason",
            "end_reason",
            "token",
            "instance_id",
            "address",
            "agent_version",
            "launch_id",
        )
        moments = ("requested_at", "launched_at", "enrolled_at", "heartbeat_at", "terminating_at", "terminated_at")
        fields(
            [
                ("node", found["id"]),
                *((key.replace("_", " "), found[key]) for key in plain),
                ("busy", f"{found['busy']} of {found['slots']} slot(s)"),
                ("protected", "yes" if found["protected"] else None),
                *((key.removesuffix("_at"), at(found[key])) for key in moments),
                ("boot", found["boot_phase"]),
                ("taken back", at(found["reclaim_at"])),
                *((f"signal: {signal['name']}", _signal(signal)) for signal in found["signals"]),
            ]
        )

    session.show(found, text)


@command(app, "explain")
def explain(session: Session, node: NodeId) -> None:
    """Why it exists, how it is, and what comes next."""
    found = session.api.get(f"nodes/{node}/explain")
    session.show(found, lambda: explanation(found))


@command(app, "console")
def console(session: Session, node: NodeId) -> None:
    """Its boot log: as kept when its boot failed, else as its cloud has it now."""
    found = session.api.get(f"nodes/{node}/console")

    def text() -> None:
        for line in found["text"].splitlines():
            print(clean(line))
        if not found["text"]:
            say("its cloud has no console of it, or not yet: some show it minutes after the boot")

    session.show(found, text)


@command(app, "enrol")
def enrol(
    session: Session,
    pool: Annotated[str, typer.Argument(metavar="POOL", help="pool of a cloud whose machines exist already")],
    count: Annotated[int, typer.Option(min=1, help="machines that may use the command, each once")] = 1,
    name: Annotated[str, typer.Option(help="name of the machine; default: that of its host")] = "",
    served: Annotated[
        str | None, typer.Option("--for", metavar="CLIENT/TOKEN", help="it serves tasks with this token, not those without")
    ] = None,
) -> None:
    """Print the command that lets a machine which exists already join a pool; run it there as root."""
    asked = {"count": count, "name": name, "token": served}
    found = session.api.post(f"{pool_path(pool)}/enrolments", asked)
    nodes = ", ".join(map(str, found["nodes"]))
    session.show(found, lambda: print(found["command"]))
    if not session.json:
        each = "on the machine" if count == 1 else f"on each of the {count} machines"
        say(f"run this as root {each} until {at(found['expires_at'])}; it holds a secret that works once a machine")
        say(f"see it come with `orchestrator node list --pool {pool}`: node {nodes}")


@command(app, "terminate")
def terminate(
    session: Session,
    node: NodeId,
    now: Annotated[bool, typer.Option("--now", help="do not wait for its tasks: they are queued again")] = False,
) -> None:
    """End it: it takes no new task, finishes what it runs, and its machine goes."""
    found = session.api.post(f"nodes/{node}/terminate", now=now)
    session.show(found, lambda: print(f"node {node} is {found['state']}"))


@command(app, "protect")
def protect(
    session: Session,
    node: NodeId,
    off: Annotated[bool, typer.Option("--off", help="let policies release it again")] = False,
) -> None:
    """Let no policy release it; `node terminate` still ends it."""
    found = session.api.post(f"nodes/{node}/protect", off=off)
    session.show(found, lambda: print(f"node {node} is {'protected' if found['protected'] else 'not protected any more'}"))


def _signal(signal: dict[str, Any]) -> str:
    age = "" if signal["age_s"] is None else f", {signal['age_s']:.0f} s ago"
    return f"{signal['told']}{age}; {signal['strikes']} of {signal['most']} strikes"


def _row(node: dict[str, Any]) -> tuple[object, ...]:
    busy, asked = f"{node['busy']}/{node['slots']}", ago(node["requested_at"])
    where = (node["token"], node["instance_id"], node["address"])
    return node["id"], node["pool"], node["state"], busy, *where, asked, node["reason"]
