"""People: added, given a role, disabled, deleted. Whoever changes loses the logins they had."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from orchestrator.model.tables import ApiToken, Client, Login, User, table
from orchestrator.people.roles import Role
from orchestrator.store.writer import Tx

users, clients, logins, tokens = table(User), table(Client), table(Login), table(ApiToken)
FIRST = "admin"


class UserExists(Exception):
    """There is one of this name."""


def add(
    tx: Tx,
    name: str,
    password_hash: str,
    role: Role,
    *,
    client_id: int | None = None,
    must_change: bool = False,
    actor: str,
) -> None:
    """A new person. Raises UserExists."""
    if tx.connection.execute(select(users.c.id).where(users.c.name == name)).first() is not None:
        raise UserExists(f"there is a user {name} already; see `orchestrator user list`")
    row = {"name": name, "password_hash": password_hash, "role": role, "client_id": client_id}
    made = insert(users).values(**row, must_change_password=must_change, created_at=tx.now).returning(users.c.id)
    user_id = tx.connection.execute(made).scalar_one()
    tx.tell("user", user_id, f"user {name} was added, {role}", actor=actor)


def add_first(tx: Tx, password_hash: str) -> bool:
    """The first admin, whose password must be changed at the first login. Nothing, and False, where there is anybody."""
    if anybody(tx.connection):
        return False
    add(tx, FIRST, password_hash, Role.ADMIN, must_change=True, actor="master")
    return True


def anybody(connection: Connection) -> bool:
    return connection.execute(select(func.count()).select_from(users)).scalar_one() > 0


def change(tx: Tx, user_id: int, what: str, *, actor: str, **values: Any) -> None:
    """Set these columns; `what` says it. The logins they had end: what they may do is settled when they log in."""
    tx.connection.execute(update(users).where(users.c.id == user_id).values(**values))
    _end_logins(tx, user_id)
    tx.tell("user", user_id, what, actor=actor)


def remove(tx: Tx, user_id: int, name: str, *, actor: str) -> None:
    """Delete them, with their logins; tokens they made are revoked."""
    _end_logins(tx, user_id)
    theirs = tokens.c.user_id == user_id, tokens.c.revoked_at.is_(None)
    tx.connection.execute(update(tokens).where(*theirs).values(revoked_at=tx.now))
    tx.connection.execute(delete(users).where(users.c.id == user_id))
    tx.tell("user", user_id, f"user {name} was deleted", actor=actor)


def list_users(connection: Connection, name: str | None = None) -> list[dict[str, Any]]:
    """All people with the name of the client they are limited to."""
    query = select(users, clients.c.name.label("client")).join(clients, clients.c.id == users.c.client_id, isouter=True)
    query = query.order_by(users.c.name)
    found = connection.execute(query.where(users.c.name == name) if name is not None else query)
    return [dict(row) for row in found.mappings()]


def find(connection: Connection, name: str) -> dict[str, Any] | None:
    found = list_users(connection, name)
    return found[0] if found else None


def _end_logins(tx: Tx, user_id: int) -> None:
    tx.connection.execute(delete(logins).where(logins.c.user_id == user_id))
