"""`orchestrator pool …`: list, create, show, change, scale, pause, resume, delete, explain."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from orchestrator.cli.render import ago, counts, explanation, fields, table
from orchestrator.cli.session import Session, command, pool_path

app = typer.Typer(no_args_is_help=True, help="Pools: which machines may be rented where, and how many.")
PoolName = Annotated[str, typer.Argument(metavar="POOL", help="name of a pool")]
Seconds = Annotated[int | None, typer.Option(metavar="SECONDS")]
Labels = Annotated[list[str] | None, typer.Option(metavar="NAME", help="what its machines have, such as gpu")]
Clients = Annotated[list[str] | None, typer.Option(metavar="CLIENT", help="the only clients that may use it")]
Prices = Annotated[list[str] | None, typer.Option(metavar="TYPE=PRICE", help="what an hour of a machine of a type costs")]


@command(app, "list")
def list_pools(session: Session) -> None:
    """All pools, and how many machines each has."""
    page = session.api.get("pools")
    columns = ("name", "cloud", "state", "least", "most", "slots", "nodes", "reason")
    none = "There are no pools; `orchestrator pool create NAME --cloud C --image I --instance-type T` makes one."
    session.show(page, lambda: table(columns, map(_row, page["items"]), none))


@command(app, "create")
def create(
    session: Session,
    name: PoolName,
    cloud: Annotated[str, typer.Option(help="cloud account, by its name in the settings")],
    image: Annotated[str | None, typer.Option(help="image that every machine boots")] = None,
    instance_type: Annotated[str | None, typer.Option(help="size of a machine, as the cloud calls it")] = None,
    max_nodes: Annotated[int | None, typer.Option(help="most machines at a time (10)")] = None,
    min_nodes: Annotated[int | None, typer.Option(help="machines without a token that are kept up (0)")] = None,
    slots: Annotated[int | None, typer.Option(help="tasks that one machine runs at a time (1)")] = None,
    launch: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="more of the launch template: agent, sizes.LARGE, or the cloud's own keys"),
    ] = None,
    label: Labels = None,
    client: Clients = None,
    price: Prices = None,
    boot_timeout: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="until its agent must have called (600)")
    ] = None,
    heartbeat_timeout: Annotated[int | None, typer.Option(metavar="SECONDS", help="silence before it is lost (90)")] = None,
    drain_timeout: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="what a leaving one may still run (300)")
    ] = None,
    lease: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="it ends itself after so long without us (900)")
    ] = None,
) -> None:
    """A new pool."""
    template = {"image": image, "instance_type": instance_type}
    asked = {
        "name": name,
        "cloud": cloud,
        "launch": {**{key: value for key, value in template.items() if value is not None}, **_launch(launch or [])},
        "max_nodes": max_nodes,
        "min_nodes": min_nodes,
        "slots": slots,
        "labels": label,
        "clients": client,
        "prices": _prices(price or []) or None,
        "boot_timeout_s": boot_timeout,
        "heartbeat_timeout_s": heartbeat_timeout,
        "drain_timeout_s": drain_timeout,
        "lease_s": lease,
    }
    pool = session.api.post("pools", {key: value for key, value in asked.items() if value is not None})
    kind = f" of type {instance_type}" if instance_type else ""
    _tell(session, pool, f"created: up to {pool['max_nodes']} machine(s){kind} in cloud {cloud}")


@command(app, "show")
def show(session: Session, name: PoolName) -> None:
    """One pool with all its settings."""
    pool = session.api.get(pool_path(name))

    def text() -> None:
        template = [(f"launch.{key}", _plain(value)) for key, value in pool["launch"].items()]
        limits = [(key.removesuffix("_s").replace("_", " "), f"{pool[key]} s") for key in pool if key.endswith("_s")]
        fields(
            [
                ("pool", pool["name"]),
                ("cloud", pool["cloud"]),
                ("state", pool["state"]),
                ("reason", pool["state_reason"]),
                ("policy", pool["policy"]),
                ("nodes", counts(pool["nodes"]) or "none"),
                ("bounds", f"{pool['min_nodes']} to {pool['max_nodes']} nodes"),
                ("slots", pool["slots"]),
                ("labels", ", ".join(pool["labels"])),
                ("clients", ", ".join(pool["clients"]) or "all"),
                *((f"an hour of {type_}", f"{price:g} {pool['currency']}") for type_, price in pool["prices"].items()),
                *limits,
                *template,
                ("created", ago(pool["created_at"])),
            ]
        )

    session.show(pool, text)


@command(app, "change")
def change(
    session: Session,
    name: PoolName,
    slots: Annotated[int | None, typer.Option(min=1, help="tasks that one machine to come runs at a time")] = None,
    label: Labels = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="its machines have nothing particular any more")] = False,
    client: Clients = None,
    all_clients: Annotated[bool, typer.Option("--all-clients", help="any client may use it again")] = False,
    price: Prices = None,
) -> None:
    """Say anew what its machines have, who may use it, and what an hour costs. Labels and clients replace those before;
    prices are added to them, TYPE= takes one away."""
    said = {"slots": slots, "labels": [] if no_labels else label, "clients": [] if all_clients else client}
    changes: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
    if price:
        known = session.api.get(pool_path(name))["prices"]
        changes["prices"] = {type_: each for type_, each in {**known, **_prices(price)}.items() if each is not None}
    if not changes:
        from orchestrator.cli.client import Complaint

        raise Complaint("nothing to change; give --slots, --label, --client or --price")
    pool = session.api.patch(pool_path(name), changes)
    _tell(session, pool, "is changed: " + ", ".join(f"{key} {_plain(value) or 'none'}" for key, value in changes.items()))


@command(app, "scale")
def scale(
    session: Session,
    name: PoolName,
    nodes: Annotated[int, typer.Argument(min=0, help="machines without a token that are kept up")],
    max_nodes: Annotated[int | None, typer.Option(min=1, help="most machines at a time; unchanged where not given")] = None,
) -> None:
    """Keep so many machines up for jobs without a token. More than the pool's most is refused, not raised."""
    changes = {"min_nodes": nodes} | ({"max_nodes": max_nodes} if max_nodes is not None else {})
    pool = session.api.patch(pool_path(name), changes)
    _tell(
        session,
        pool,
        f"keeps {pool['min_nodes']} to {pool['max_nodes']} machines; it has {counts(pool['nodes']) or 'none'}",
    )


@command(app, "pause")
def pause(session: Session, name: PoolName) -> None:
    """Launch nothing more there; what runs goes on."""
    _tell(session, session.api.patch(pool_path(name), {"paused": True}), "is paused: it launches nothing more")


@command(app, "resume")
def resume(session: Session, name: PoolName) -> None:
    """Launch again."""
    pool = session.api.patch(pool_path(name), {"paused": False})
    _tell(session, pool, " ".join(filter(None, (f"is {pool['state']}", pool["state_reason"]))))


@command(app, "delete")
def delete(session: Session, name: PoolName) -> None:
    """Let its machines drain and leave, then the pool itself."""
    pool = session.api.delete(pool_path(name))
    _tell(session, pool, f"is being deleted: {counts(pool['nodes']) or 'no nodes'} to leave")


@command(app, "explain")
def explain(session: Session, name: PoolName) -> None:
    """What is asked of it, what it has, and what holds it back."""
    found = session.api.get(f"{pool_path(name)}/explain")
    session.show(found, lambda: explanation(found))


def _tell(session: Session, pool: dict[str, Any], told: str) -> None:
    session.show(pool, lambda: print(f"pool {pool['name']} {told}"))


def _row(pool: dict[str, Any]) -> tuple[object, ...]:
    bounds = (pool["min_nodes"], pool["max_nodes"], pool["slots"])
    return pool["name"], pool["cloud"], pool["state"], *bounds, counts(pool["nodes"]) or "none", pool["state_reason"]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _prices(pairs: list[str]) -> dict[str, float | None]:
    """TYPE=PRICE pairs; None where the price is left out."""
    from orchestrator.cli.client import Complaint

    prices: dict[str, float | None] = {}
    for pair in pairs:
        type_, equals, text = pair.rpartition("=")
        try:
            if not equals:
                raise ValueError
            prices[type_] = float(text) if text else None
        except ValueError:
            raise Complaint(f"--price: {pair!r} is not TYPE=PRICE; write one such as m6i.large=0.096") from None
    return prices


def _launch(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs; a value that is JSON (a list, a number, true) is taken as such, a dotted key goes inwards."""
    from orchestrator.cli.client import Complaint

    template: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        *outer, last = key.split(".")
        inner = template
        for part in outer:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise Complaint(f"--launch: {part!r} is both a value and a group in {pair!r}; keep one")
        if not equals or not last or "" in outer:
            raise Complaint(f"--launch: {pair!r} is not KEY=VALUE; write one such as agent=preinstalled")
        try:
            inner[last] = json.loads(text)
        except ValueError:
            inner[last] = text
    return template
