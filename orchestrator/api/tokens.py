"""API tokens: made, listed, revoked. The text itself is shown once."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Path as UrlPath
from pydantic import BaseModel, Field

from orchestrator.api.auth import Who, needs
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import PROBLEMS, Problem, not_found
from orchestrator.api.shapes import NO_NUL, Page
from orchestrator.jobs.clients import client_id
from orchestrator.jobs.duration import Duration
from orchestrator.jobs.spec import Name
from orchestrator.people import tokens
from orchestrator.people.roles import Role
from orchestrator.store.writer import Tx

router = APIRouter(prefix="/api/v1/tokens", tags=["people"], responses=PROBLEMS)
TokenName = Annotated[str, UrlPath(max_length=100, pattern=NO_NUL)]


class TokenIn(BaseModel):
    model_config = {"extra": "forbid"}

    name: Name
    role: Role
    client: Annotated[Name | None, Field(description="the one client whose things it sees and touches; default: all")] = (
        None
    )
    expires_in: Annotated[
        Duration | None,
        Field(
            description="seconds, or such as 90d; default: it does not expire",
            json_schema_extra={
                "anyOf": [{"type": "number", "minimum": 1, "maximum": 999999999}, {"type": "string"}, {"type": "null"}]
            },
        ),
    ] = None


class TokenOut(BaseModel):
    name: str
    role: Role
    client: str | None
    made_by: str | None = Field(description="the person who made it and with whom it ends; null: it was made with a token")
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class TokenMade(TokenOut):
    token: str = Field(description="shown this once")


@router.get("")
@needs(Role.ADMIN)
def list_tokens(master: MasterDep) -> Page[TokenOut]:
    """All tokens, revoked and expired ones too."""
    with master.engine.connect() as connection:
        return Page(items=[TokenOut(**row) for row in tokens.list_tokens(connection)])


@router.post("", status_code=201)
@needs(Role.ADMIN)
def create_token(master: MasterDep, who: Who, body: TokenIn) -> TokenMade:
    """Make a token. A name is free again once its token is revoked or has expired."""

    def work(tx: Tx) -> str | None:
        there = tokens.list_tokens(tx.connection, body.name)
        if there and _valid(there[0], tx.now):
            return None
        return tokens.make_token(
            tx,
            body.name,
            body.role,
            client_id=client_id(tx, body.client) if body.client is not None else None,
            user_id=who.user_id,
            expires_at=tx.now + timedelta(seconds=body.expires_in) if body.expires_in is not None else None,
            actor=who.actor,
        )

    text = master.writer.write(work)
    if text is None:
        told = f"there is a token {body.name} already; revoke it, or choose another name"
        raise Problem(409, "The token is there already", told)
    with master.engine.connect() as connection:
        return TokenMade(**tokens.list_tokens(connection, body.name)[0], token=text)


@router.delete("/{name}")
@needs(Role.ADMIN)
def revoke_token(request: Request, master: MasterDep, who: Who, name: TokenName) -> TokenOut:
    """Revoke a token: from now on nobody calls with it (at other masters: within some seconds)."""
    revoked = master.writer.write(lambda tx: tokens.revoke(tx, name, actor=who.actor))
    request.app.state.identities.forget()
    if not revoked:
        raise not_found("token", name)
    with master.engine.connect() as connection:
        return TokenOut(**tokens.list_tokens(connection, name)[0])


def _valid(token: dict[str, Any], now: datetime) -> bool:
    return token["revoked_at"] is None and (token["expires_at"] is None or token["expires_at"] > now)
