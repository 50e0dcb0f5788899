"""Logins of people at browsers, and links that log in once: random texts, kept as hashes. Neither passes for the other."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select

from orchestrator.fleet.secrets import sha256
from orchestrator.model.tables import Client, Login, User, table
from orchestrator.people.roles import Identity, Role
from orchestrator.store.writer import Tx

logins, users, clients = table(Login), table(User), table(Client)
LINK_S = 600.0
COOKIE, LINK = "eos_", "eol_"


def begin(tx: Tx, user_id: int, lasts_s: float) -> str:
    """A new login; returns the cookie's value. What has expired is cleared away."""
    tx.connection.execute(delete(logins).where(logins.c.expires_at <= tx.now))
    return _store(tx, COOKIE, user_id, lasts_s)


def end(tx: Tx, text: str) -> None:
    tx.connection.execute(delete(logins).where(logins.c.hash == sha256(text)))


def make_link(tx: Tx, user_id: int, name: str, *, actor: str) -> str:
    """A text that logs this person in once, within ten minutes."""
    tx.tell("user", user_id, f"a link that logs {name} in once was made", actor=actor)
    return _store(tx, LINK, user_id, LINK_S)


def use_link(tx: Tx, text: str) -> int | None:
    """Whom it logs in; None when it is unknown, used or expired, or they are disabled."""
    if not text.startswith(LINK):
        return None
    used = delete(logins).where(logins.c.hash == sha256(text), logins.c.expires_at > tx.now).returning(logins.c.user_id)
    user_id = tx.connection.execute(used).scalar()
    active = select(users.c.id).where(users.c.id == user_id, users.c.disabled_at.is_(None))
    return tx.connection.execute(active).scalar()


def owner(connection: Connection, text: str, now: datetime) -> Identity | None:
    """Who is logged in with this cookie; None when nobody is any more."""
    if not text.startswith(COOKIE):
        return None
    query = (
        select(users, logins.c.csrf, logins.c.expires_at, clients.c.name.label("client"))
        .join(users, users.c.id == logins.c.user_id)
        .join(clients, clients.c.id == users.c.client_id, isouter=True)
        .where(logins.c.hash == sha256(text), logins.c.expires_at > now, users.c.disabled_at.is_(None))
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    return Identity(
        row.name,
        Role(row.role),
        client_id=row.client_id,
        client=row.client,
        user_id=row.id,
        csrf=row.csrf,
        expires_at=row.expires_at,
    )


def _store(tx: Tx, kind: str, user_id: int, lasts_s: float) -> str:
    text = kind + secrets.token_urlsafe(32)
    row = {"hash": sha256(text), "user_id": user_id, "csrf": secrets.token_urlsafe(32), "created_at": tx.now}
    tx.connection.execute(insert(logins).values(**row, expires_at=tx.now + timedelta(seconds=lasts_s)))
    return text
