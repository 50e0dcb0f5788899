"""People: who there is, with which role, and a new password or a link for whoever cannot come in."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi import Path as UrlPath
from pydantic import BaseModel, Field, StringConstraints

from orchestrator.api.auth import Caller, needs
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import PROBLEMS, FieldProblem, Problem, not_found
from orchestrator.api.session import NewPassword
from orchestrator.api.shapes import NO_NUL, Page
from orchestrator.app import Master
from orchestrator.jobs.clients import client_id
from orchestrator.jobs.spec import Name
from orchestrator.people import logins, passwords, users
from orchestrator.people.roles import Role
from orchestrator.store.writer import Tx

router = APIRouter(prefix="/api/v1/users", tags=["people"], responses=PROBLEMS)
NOBODY = frozenset({"master", "agent", "nobody"})  # actors that are no person
UserName = Annotated[str, UrlPath(max_length=100, pattern=NO_NUL)]
# Plain letters: two names that look alike are alike.
NewName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$")]


class UserIn(BaseModel):
    model_config = {"extra": "forbid"}

    name: NewName
    role: Role
    client: Annotated[Name | None, Field(description="the one client whose things they see and touch; default: all")] = None
    password: Annotated[
        NewPassword | None, Field(description="default: one is made, which they change at their first login")
    ] = None


class UserChange(BaseModel):
    """What changes; what is left out stays. Their logins end."""

    model_config = {"extra": "forbid"}

    role: Role | None = None
    client: Annotated[Name | None, Field(description="null: all clients")] = None
    disabled: bool | None = None


class PasswordIn(BaseModel):
    model_config = {"extra": "forbid"}

    password: Annotated[NewPassword | None, Field(description="default: one is made, which they change at their login")] = (
        None
    )


class UserOut(BaseModel):
    name: str
    role: Role
    client: str | None
    must_change_password: bool
    created_at: datetime
    disabled_at: datetime | None


class UserMade(UserOut):
    password: str | None = Field(description="the one-time password that was made, shown this once; null: it was given")


class LinkOut(BaseModel):
    link: str = Field(description="to be opened once: the master's address, /#link= and the secret")
    expires_at: datetime


@router.get("")
@needs(Role.ADMIN)
def list_users(master: MasterDep) -> Page[UserOut]:
    with master.engine.connect() as connection:
        return Page(items=[UserOut(**row) for row in users.list_users(connection)])


@router.post("", status_code=201)
@needs(Role.ADMIN)
def add_user(master: MasterDep, caller: Caller, body: UserIn) -> UserMade:
    """Add a person. Without a password one is made, shown here once and changed at their first login."""
    if body.name in NOBODY:
        wrong = FieldProblem(path="name", message=f"events call no person {body.name}; choose another name")
        raise Problem(422, "The user is refused", wrong.message, [wrong])
    password = body.password or passwords.one_time()
    password_hash = passwords.hashed(password)

    def work(tx: Tx) -> None:
        limited = client_id(tx, body.client) if body.client is not None else None
        must_change = body.password is None
        users.add(tx, body.name, password_hash, body.role, client_id=limited, must_change=must_change, actor=caller)

    try:
        master.writer.write(work)
    except users.UserExists as error:
        raise Problem(409, "The user is there already", str(error)) from error
    return UserMade(**_get(master, body.name), password=None if body.password else password)


@router.get("/{name}")
@needs(Role.ADMIN)
def show_user(master: MasterDep, name: UserName) -> UserOut:
    return UserOut(**_get(master, name))


@router.patch("/{name}")
@needs(Role.ADMIN)
def change_user(request: Request, master: MasterDep, caller: Caller, name: UserName, body: UserChange) -> UserOut:
    """Change role or client, disable or enable."""
    user = _get(master, name)
    given = body.model_fields_set

    def work(tx: Tx) -> None:
        values: dict[str, Any] = {}
        told = []
        if body.role is not None:
            values["role"] = body.role
            told.append(f"is {body.role}")
        if "client" in given:
            values["client_id"] = client_id(tx, body.client) if body.client is not None else None
            told.append(f"is limited to client {body.client}" if body.client else "is not limited to a client")
        if body.disabled is not None:
            values["disabled_at"] = tx.now if body.disabled else None
            told.append("is disabled" if body.disabled else "is enabled")
        if values:
            users.change(tx, user["id"], f"user {name} {' and '.join(told)}", actor=caller, **values)

    master.writer.write(work)
    request.app.state.identities.forget()
    return UserOut(**_get(master, name))


@router.delete("/{name}")
@needs(Role.ADMIN)
async def delete_user(request: Request, master: MasterDep, caller: Caller, name: UserName) -> UserOut:
    """Delete a person and their logins, revoke the tokens they made. Where nobody is left, the next start makes `admin`."""
    user = await asyncio.to_thread(_get, master, name)
    await master.writer.awrite(lambda tx: users.remove(tx, user["id"], name, actor=caller))
    request.app.state.identities.forget()
    return UserOut(**user)


@router.post("/{name}/password")
@needs(Role.ADMIN)
def set_password(request: Request, master: MasterDep, caller: Caller, name: UserName, body: PasswordIn) -> UserMade:
    """Give a person a new password. Without one, one is made, shown here once and changed at their next login."""
    user = _get(master, name)
    password = body.password or passwords.one_time()
    values = {"password_hash": passwords.hashed(password), "must_change_password": body.password is None}
    told = f"user {name} was given a new password"
    master.writer.write(lambda tx: users.change(tx, user["id"], told, actor=caller, **values))
    request.app.state.identities.forget()
    return UserMade(**_get(master, name), password=None if body.password else password)


@router.post("/{name}/link")
@needs(Role.ADMIN)
async def make_link(master: MasterDep, caller: Caller, name: UserName, _: Annotated[Any, Body()] = None) -> LinkOut:
    """A link that logs this person in once, within ten minutes: for a first look, or a forgotten password."""
    user = await asyncio.to_thread(_get, master, name)
    if user["disabled_at"] is not None:
        raise Problem(
            409, "The user is disabled", f"user {name} is disabled; `orchestrator user disable {name} --off` first"
        )
    text = await master.writer.awrite(lambda tx: logins.make_link(tx, user["id"], name, actor=caller))
    expires_at = master.clock() + timedelta(seconds=logins.LINK_S)
    return LinkOut(link=f"{master.settings.api_url}/#link={text}", expires_at=expires_at)


def _get(master: Master, name: str) -> dict[str, Any]:
    with master.engine.connect() as connection:
        user = users.find(connection, name)
    if user is None:
        raise not_found("user", name)
    return user
