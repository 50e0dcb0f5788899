"""A client's share of what several use: its weight among clients of one priority, and the priority its jobs begin from."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select, update

from orchestrator.model.tables import Client, table
from orchestrator.store.writer import Tx

clients = table(Client)


def share(connection: Connection, name: str) -> dict[str, Any] | None:
    columns = (clients.c.name, clients.c.weight, clients.c.priority)
    row = connection.execute(select(*columns).where(clients.c.name == name)).mappings().first()
    return dict(row) if row else None


def change(tx: Tx, name: str, *, weight: float | None, priority: int | None, actor: str) -> bool:
    """Set what is given, for tasks queued from now on. False where there is no client of this name."""
    given = {"weight": weight, "priority": priority}
    values = {column: value for column, value in given.items() if value is not None}
    client_id = tx.connection.execute(select(clients.c.id).where(clients.c.name == name)).scalar()
    if client_id is None:
        return False
    if values:
        tx.connection.execute(update(clients).where(clients.c.id == client_id).values(values))
        told = ", ".join(f"{column} = {value}" for column, value in values.items())
        tx.tell("client", client_id, f"changed: {told}", detail=name, actor=actor)
    return True
