"""Who calls, and whether they may: one rule for every route under `/api`.

An endpoint declares what it asks by `needs(…)`; one that declares nothing is for admins. `api.http` puts `authorise` before
every router that is not public, so that an endpoint cannot forget it.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Connection, Engine

from orchestrator.api.problems import FieldProblem, Problem
from orchestrator.clock import Clock
from orchestrator.fleet.secrets import sha256
from orchestrator.levels import Level
from orchestrator.people import logins, tokens
from orchestrator.people.roles import ADMIN_ONLY, Identity, Permission, Role
from orchestrator.people.tokens import make_token

__all__ = ["Caller", "Identities", "Who", "authenticated", "authorise", "make_token", "needs", "permit"]

COOKIE = "eo_session"
CSRF = "X-CSRF-Token"
READS = ("GET", "HEAD", "OPTIONS")
FRESH_S = 5.0  # what another master revoked is no longer valid here after so long; SQLite has no other master
F = TypeVar("F", bound=Callable[..., object])
Owner = Callable[[Connection, str, datetime], Identity | None]
bearer = HTTPBearer(auto_error=False, description="An API token; `orchestrator serve` writes the first to admin.token")
cookie = APIKeyCookie(name=COOKIE, auto_error=False, description=f"A person's login; changes carry its {CSRF}, too")


def needs(role: Role, *, of_client: bool = False) -> Callable[[F], F]:
    """Declare what an endpoint asks, below its route: the least role, and whether callers limited to a client may come.

    `of_client` endpoints show and touch only what `Who.sees`; another client's things are not there (404).
    """

    def declare(endpoint: F) -> F:
        endpoint.permission = Permission(role, of_client)  # type: ignore[attr-defined]
        return endpoint

    return declare


class Identities:
    """Who calls with which token or cookie. Whom the database knew is remembered (`FRESH_S`)."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._fresh_s = math.inf if engine.dialect.name == "sqlite" else FRESH_S
        self._known: dict[tuple[Owner, str], tuple[Identity, float]] = {}

    def forget(self) -> None:
        """Tokens, logins or people have changed: look at each again."""
        self._known = {}

    async def of(self, request: Request) -> Identity | None:
        """An API token in the header counts before a cookie."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return await self._look_up(tokens.owner, text.strip())
        if (text := request.cookies.get(COOKIE, "")) != "":
            return await self._look_up(logins.owner, text)
        return None

    async def _look_up(self, owner: Owner, text: str) -> Identity | None:
        known, key = self._known, (owner, sha256(text))
        who, fresh_until = known.get(key, (None, 0.0))
        if fresh_until < time.monotonic():
            known.pop(key, None)
            who = await asyncio.to_thread(self._read, owner, text)
            if who is not None:
                known[key] = (who, time.monotonic() + self._fresh_s)
        if who is not None and who.expires_at is not None and who.expires_at <= self._clock():
            return None
        return who

    def _read(self, owner: Owner, text: str) -> Identity | None:
        with self._engine.connect() as connection:
            return owner(connection, text, self._clock())


async def authenticated(request: Request) -> Identity:
    """Who calls. Raises 401; 403 for a browser's change without the token of its login."""
    known: Identities = request.app.state.identities
    who = await known.of(request)
    if who is None:
        fix = "log in, or send `Authorization: Bearer TOKEN`; the first token is in admin.token of the master's data folder"
        raise Problem(401, "Who are you?", f"this call needs a login or an API token that is valid: {fix}")
    request.scope.setdefault("state", {})["who"] = who  # `api.record` tells it
    if who.csrf is not None and request.method not in READS:
        sent = request.headers.get(CSRF, "")
        if not hmac.compare_digest(sent.encode(), who.csrf.encode()):
            raise Problem(
                403, "Not from our page", f"a change made with a cookie carries the login's {CSRF}; reload the page"
            )
    return who


def permit(who: Identity, asked: Permission) -> None:
    """Raises 403 where the caller's role or client does not reach."""
    if (refusal := asked.refusal(who)) is not None:
        raise Problem(403, "Not allowed", refusal)


def permit_client(who: Identity, client: str) -> None:
    """Raises 403 where a job file is another client's than the caller's."""
    if not who.sees(client):
        told = f"{who.actor} is limited to client {who.client}; write client: {who.client}"
        raise Problem(403, "Not allowed", told, [FieldProblem(path="client", message=told)])


def permit_adding(request: Request) -> None:
    """Raises 403 where the caller's address may add nothing (`allowed_hosts`)."""
    if request.scope.get("level", Level.ALL) < Level.ALL:
        raise Problem(403, "Not from here", "from this address nothing may be added (allowed_hosts in the settings)")


async def authorise(
    request: Request,
    _token: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)] = None,  # for the OpenAPI document
    _cookie: Annotated[str | None, Security(cookie)] = None,
) -> Identity:
    """Who calls, if they may call this. Raises 401, 403."""
    who = await authenticated(request)
    permit(who, getattr(request.scope["endpoint"], "permission", ADMIN_ONLY))
    if request.scope["route"].status_code == 201:  # it makes something new
        permit_adding(request)
    return who


Who = Annotated[Identity, Depends(authorise)]


async def actor(who: Who) -> str:
    """The caller's name as events carry it."""
    return who.actor


Caller = Annotated[str, Depends(actor)]
