"""Who hears of every job of a client: the client's own list, kept in its row."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select, update

from orchestrator.jobs.notify import MOST, Notify, shown
from orchestrator.model.tables import Client, table
from orchestrator.store.writer import Tx

clients = table(Client)


class ListFull(Exception):
    """The client has as many as it may have."""


def add(tx: Tx, client: str, wish: Notify, *, actor: str) -> dict[str, Any]:
    """The new entry with its `number`, which it keeps. The client need not have had a job yet. Raises ListFull."""
    kept = _locked(tx, client)
    if kept is None:
        tx.connection.execute(insert(clients).values(name=client, created_at=tx.now))
        kept = []
    if len(kept) >= MOST:
        raise ListFull(f"{client} has {MOST} notifications already; remove one first")
    entry = {"number": max((each["number"] for each in kept), default=0) + 1, **wish.document()}
    _keep(tx, client, [*kept, entry], f"{shown(entry)} hears of {client}'s jobs from now on", actor)
    return entry


def remove(tx: Tx, client: str, number: int, *, actor: str) -> bool:
    """False where there is no such entry."""
    kept = _locked(tx, client) or []
    rest = [each for each in kept if each["number"] != number]
    if len(rest) == len(kept):
        return False
    [gone] = (each for each in kept if each["number"] == number)
    _keep(tx, client, rest, f"{shown(gone)} hears of {client}'s jobs no longer", actor)
    return True


def _locked(tx: Tx, client: str) -> list[dict[str, Any]] | None:
    """The client's list, which nobody else changes until the end of this transaction; None where there is no client."""
    row = tx.connection.execute(select(clients.c.notify).where(clients.c.name == client).with_for_update()).first()
    return None if row is None else list(row.notify or [])


def _keep(tx: Tx, client: str, entries: list[dict[str, Any]], told: str, actor: str) -> None:
    changed = update(clients).where(clients.c.name == client).values(notify=entries or None).returning(clients.c.id)
    tx.tell("client", tx.connection.execute(changed).scalar_one(), told, actor=actor)
