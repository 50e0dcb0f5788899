"""API tokens: made once, shown once, kept as a hash; each with a role, perhaps for one client, perhaps for a while."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from orchestrator.fleet.secrets import sha256
from orchestrator.model.tables import ApiToken, Client, User, table
from orchestrator.people.roles import Identity, Role
from orchestrator.store.writer import Tx

tokens, clients, users = table(ApiToken), table(Client), table(User)


def make_token(
    tx: Tx,
    name: str,
    role: Role = Role.ADMIN,
    *,
    client_id: int | None = None,
    user_id: int | None = None,
    expires_at: datetime | None = None,
    actor: str = "master",
) -> str:
    """A new token with this name; an older one of the same name is no longer valid. `user_id`: it ends with that person."""
    text = f"eo_{secrets.token_urlsafe(32)}"
    tx.connection.execute(tokens.delete().where(tokens.c.name == name))
    row = {"name": name, "hash": sha256(text), "role": role, "client_id": client_id, "user_id": user_id}
    tx.connection.execute(insert(tokens).values(**row, created_at=tx.now, expires_at=expires_at))
    tx.tell("token", 0, f"an API token named {name!r} was made, {role}", actor=actor)
    return text


def revoke(tx: Tx, name: str, *, actor: str) -> bool:
    """Whether there was such a token that was not revoked yet."""
    valid = tokens.c.name == name, tokens.c.revoked_at.is_(None)
    if not tx.connection.execute(update(tokens).where(*valid).values(revoked_at=tx.now)).rowcount:
        return False
    tx.tell("token", 0, f"the API token named {name!r} was revoked", actor=actor)
    return True


def list_tokens(connection: Connection, name: str | None = None) -> list[dict[str, Any]]:
    """All tokens, revoked and expired ones too, without their hashes."""
    columns = [column for column in tokens.c if column.name != "hash"]
    query = (
        select(*columns, clients.c.name.label("client"), users.c.name.label("made_by"))
        .join(clients, clients.c.id == tokens.c.client_id, isouter=True)
        .join(users, users.c.id == tokens.c.user_id, isouter=True)
        .order_by(tokens.c.name)
    )
    found = connection.execute(query.where(tokens.c.name == name) if name is not None else query)
    return [dict(row) for row in found.mappings()]


def owner(connection: Connection, text: str, now: datetime) -> Identity | None:
    """Who calls with this token; None when it is unknown, revoked or expired, or its maker is disabled."""
    query = (
        select(tokens, clients.c.name.label("client"), users.c.disabled_at)
        .join(clients, clients.c.id == tokens.c.client_id, isouter=True)
        .join(users, users.c.id == tokens.c.user_id, isouter=True)
        .where(tokens.c.hash == sha256(text), tokens.c.revoked_at.is_(None))
    )
    row = connection.execute(query).first()
    if row is None or row.disabled_at is not None or (row.expires_at is not None and row.expires_at <= now):
        return None
    return Identity(
        f"token {row.name}",
        Role(row.role),
        client_id=row.client_id,
        client=row.client,
        user_id=row.user_id,
        expires_at=row.expires_at,
    )
