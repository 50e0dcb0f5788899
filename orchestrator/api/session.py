"""People at browsers: log in, see who is logged in, log out."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, Field

from orchestrator.api.auth import COOKIE, Identities, Who, needs
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import PROBLEMS, FieldProblem, Problem
from orchestrator.api.record import address_of
from orchestrator.api.shapes import NO_NUL
from orchestrator.app import Master
from orchestrator.people import logins, passwords, users
from orchestrator.people.backoff import Backoff
from orchestrator.people.roles import Identity, Role
from orchestrator.store.writer import Tx

PATH = "/api/v1/session"
public = APIRouter(prefix=PATH, tags=["people"], responses=PROBLEMS)
router = APIRouter(prefix=PATH, tags=["people"], responses=PROBLEMS)
NewPassword = Annotated[str, Field(min_length=passwords.SHORTEST, max_length=passwords.LONGEST)]
_places = threading.BoundedSemaphore(4)  # passwords looked at or waiting for it: a flood must not take all threads


class LoginIn(BaseModel):
    """Name and password, with a new password to change it; or the text of a link that logs in once."""

    model_config = {"extra": "forbid"}

    name: Annotated[str, Field(max_length=100, pattern=NO_NUL)] = ""
    password: Annotated[str, Field(max_length=passwords.LONGEST)] = ""
    new_password: NewPassword | None = None
    link: Annotated[str | None, Field(max_length=200)] = None


class SessionOut(BaseModel):
    actor: str
    role: Role
    client: str | None = Field(description="the one client whose things they see; null: all")
    csrf: str | None = Field(description="what a browser sends as X-CSRF-Token with each change; null for a token")
    expires_at: datetime | None


@public.post("")
def log_in(request: Request, response: Response, master: MasterDep, body: LoginIn) -> SessionOut:
    """Log a person in: the answer sets the session's cookie. Too many wrong ones are told to wait (429, `Retry-After`)."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Problem(403, "Not from our page", f"a login from a page of {origin} is refused; use the master's own page")
    user_id = _by_link(request, master, body.link) if body.link is not None else _by_password(request, master, body)
    lasts_s = master.settings.session_h * 3600
    earlier = request.cookies.get(COOKIE)

    def begin(tx: Tx) -> str:
        if earlier is not None:
            logins.end(tx, earlier)
        return logins.begin(tx, user_id, lasts_s)

    text = master.writer.write(begin)
    _identities(request).forget()
    with master.engine.connect() as connection:
        who = logins.owner(connection, text, master.clock())
    if who is None:  # disabled in between
        raise _wrong()
    request.scope["state"]["who"] = who
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, text, max_age=int(lasts_s), path="/", secure=secure, httponly=True, samesite="lax")
    response.headers["Cache-Control"] = "no-store"
    return _shown(who)


@router.get("")
@needs(Role.VIEWER, of_client=True)
async def show_session(who: Who, response: Response) -> SessionOut:
    """Who calls, and what they may."""
    response.headers["Cache-Control"] = "no-store"
    return _shown(who)


@router.delete("")
@needs(Role.VIEWER, of_client=True)
async def log_out(
    request: Request, response: Response, master: MasterDep, who: Who, _: Annotated[Any, Body()] = None
) -> SessionOut:
    """End this browser's session. A token is revoked, not logged out."""
    if who.csrf is None:
        raise Problem(409, "No session", "this call came with a token; revoke that with `orchestrator token revoke`")
    await master.writer.awrite(lambda tx: logins.end(tx, request.cookies[COOKIE]))
    _identities(request).forget()
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")
    return _shown(who)


def _by_password(request: Request, master: Master, body: LoginIn) -> int:
    """The person whose name and password these are. Raises 401, 403 where it must be changed, 429."""
    backoff: Backoff = request.app.state.backoff
    name, address = ("name", body.name), ("address", address_of(request.scope))
    request.scope["state"]["claimed"] = body.name
    if (wait_s := backoff.begin((name, address), time.monotonic())) > 0:
        raise _later(wait_s)
    if not _places.acquire(blocking=False):
        raise _later(1.0)
    try:
        with master.engine.connect() as connection:
            user = users.find(connection, body.name)
        if not passwords.fits(body.password, user["password_hash"] if user else None) or not user or user["disabled_at"]:
            raise _wrong()
        backoff.forgive(name)
        backoff.take_back(address)
        if body.new_password is not None:
            _change_password(master, user, body)
        elif user["must_change_password"]:
            told = "this password works once: send a new one with it"
            raise Problem(403, "Change your password", told, [FieldProblem(path="new_password", message=told)])
    finally:
        _places.release()
    return int(user["id"])


def _change_password(master: Master, user: dict[str, Any], body: LoginIn) -> None:
    assert body.new_password is not None
    if body.new_password == body.password:
        told = "it is the old one; choose another"
        raise Problem(422, "Choose another password", told, [FieldProblem(path="new_password", message=told)])
    values = {"password_hash": passwords.hashed(body.new_password), "must_change_password": False}
    told = f"{user['name']} changed their password"
    master.writer.write(lambda tx: users.change(tx, user["id"], told, actor=user["name"], **values))


def _by_link(request: Request, master: Master, link: str) -> int:
    backoff: Backoff = request.app.state.backoff
    address = ("address", address_of(request.scope))
    if (wait_s := backoff.begin((address,), time.monotonic())) > 0:
        raise _later(wait_s)
    user_id = master.writer.write(lambda tx: logins.use_link(tx, link))
    if user_id is None:
        raise Problem(401, "Who are you?", "this link was used, is older than ten minutes, or is none; ask for another")
    backoff.take_back(address)
    return user_id


def _wrong() -> Problem:
    return Problem(
        401, "Who are you?", "name and password do not fit; an admin can give a new one: `orchestrator user passwd`"
    )


def _later(wait_s: float) -> Problem:
    told = f"too many logins that failed; try again in {max(1, round(wait_s))} s"
    return Problem(429, "Too many tries", told, retry_after_s=wait_s)


def _shown(who: Identity) -> SessionOut:
    return SessionOut(actor=who.actor, role=who.role, client=who.client, csrf=who.csrf, expires_at=who.expires_at)


def _identities(request: Request) -> Identities:
    known: Identities = request.app.state.identities
    return known
