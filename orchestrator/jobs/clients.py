"""Clients and their parameters: what all jobs of a client have unless its job file or the launch says otherwise."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from orchestrator.jobs.layers import OfClient
from orchestrator.model.tables import Client, ClientParam, Template, table
from orchestrator.store.writer import Tx

clients, params, templates = table(Client), table(ClientParam), table(Template)


def client_id(tx: Tx, name: str) -> int:
    """The client of this name, made where there is none yet."""
    found = tx.connection.execute(select(clients.c.id).where(clients.c.name == name)).scalar()
    if found is None:
        made = insert(clients).values(name=name, created_at=tx.now).returning(clients.c.id)
        found = tx.connection.execute(made).scalar_one()
    return int(found)


def list_clients(connection: Connection, limit: int, before: int | None, name: str | None = None) -> list[dict[str, Any]]:
    """Newest first, with how many templates and parameters each has."""
    of_client = {"templates": (templates, templates.c.deleted_at.is_(None)), "params": (params, params.c.id.is_not(None))}
    counts = [
        select(func.count()).where(counted.c.client_id == clients.c.id, condition).scalar_subquery().label(label)
        for label, (counted, condition) in of_client.items()
    ]
    query = select(clients.c.id, clients.c.name, clients.c.weight, clients.c.created_at, *counts)
    if name is not None:
        query = query.where(clients.c.name == name)
    if before is not None:
        query = query.where(clients.c.id < before)
    return [dict(row) for row in connection.execute(query.order_by(clients.c.id.desc()).limit(limit)).mappings()]


def params_of(connection: Connection, client: int) -> list[OfClient]:
    query = select(params.c.name, params.c.value, params.c.secret).where(params.c.client_id == client)
    return [OfClient(*row) for row in connection.execute(query.order_by(params.c.name))]


def list_params(connection: Connection, client: str) -> list[dict[str, Any]]:
    """The rows by the client's name; values of secret ones are encrypted."""
    query = select(params).join(clients, clients.c.id == params.c.client_id).where(clients.c.name == client)
    return [dict(row) for row in connection.execute(query.order_by(params.c.name)).mappings()]


def set_param(tx: Tx, client: str, param: OfClient, *, actor: str) -> None:
    """Make it or put it in the place of the one that is there; its value is told nowhere."""
    owner = client_id(tx, client)
    new = {"value": param.value, "secret": param.secret, "updated_at": tx.now, "updated_by": actor}
    mine = (params.c.client_id == owner, params.c.name == param.name)
    if not tx.connection.execute(update(params).where(*mine).values(**new)).rowcount:
        tx.connection.execute(insert(params).values(client_id=owner, name=param.name, **new))
    kind = "secret parameter" if param.secret else "parameter"
    tx.tell("client", owner, f"{kind} {param.name} was set", actor=actor)


def unset_param(tx: Tx, client: str, name: str, *, actor: str) -> bool:
    """Whether there was one."""
    owner = select(clients.c.id).where(clients.c.name == client).scalar_subquery()
    gone = delete(params).where(params.c.client_id == owner, params.c.name == name).returning(params.c.client_id)
    found = tx.connection.execute(gone).scalar()
    if found is not None:
        tx.tell("client", found, f"parameter {name} was removed", actor=actor)
    return found is not None
