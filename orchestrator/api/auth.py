"""API tokens: made once, shown once, kept as a hash. Every call under `/api` carries one."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine, insert, select

from orchestrator.api.problems import Problem
from orchestrator.fleet.secrets import sha256
from orchestrator.model.tables import ApiToken, table
from orchestrator.store.writer import Tx

tokens = table(ApiToken)
bearer = HTTPBearer(auto_error=False, description="An API token; `orchestrator serve` writes the first to admin.token")


def make_token(tx: Tx, name: str) -> str:
    """A new token with this name; an older one of the same name is no longer valid."""
    text = f"eo_{secrets.token_urlsafe(32)}"
    tx.connection.execute(tokens.delete().where(tokens.c.name == name))
    tx.connection.execute(insert(tokens).values(name=name, hash=sha256(text), created_at=tx.now))
    tx.tell("token", 0, f"an API token named {name!r} was made")
    return text


class Tokens:
    """Checks tokens; a valid one is remembered by its hash."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, str] = {}

    def name_of(self, text: str) -> str | None:
        hashed = sha256(text)
        if hashed not in self._known:
            query = select(tokens.c.name).where(tokens.c.hash == hashed, tokens.c.revoked_at.is_(None))
            with self._engine.connect() as connection:
                name = connection.execute(query).scalar()
            if name is None:
                return None
            self._known[hashed] = name
        return self._known[hashed]


async def caller(
    request: Request,
    _: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)] = None,  # for the OpenAPI document
) -> str:
    """The name of the token that calls. Raises 401."""
    return authenticated(request)


def authenticated(request: Request) -> str:
    """The name of the token that calls. Raises 401."""
    known: Tokens = request.app.state.tokens
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    name = known.name_of(text.strip()) if scheme.lower() == "bearer" and text else None
    if name is None:
        fix = "send `Authorization: Bearer TOKEN`; the first token is in admin.token of the master's data folder"
        raise Problem(401, "Who are you?", f"this call needs an API token: {fix}")
    return name


Caller = Annotated[str, Depends(caller)]
