"""Clients and their parameters. Values of secret ones go in and never come out."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Path as UrlPath
from pydantic import BaseModel, Field

from orchestrator.api.auth import Who, needs
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import PROBLEMS, FieldProblem, Problem, not_found
from orchestrator.api.shapes import Before, Limit, Page
from orchestrator.app import Master
from orchestrator.jobs import clients, layers
from orchestrator.jobs.params import EnvName, EnvValue
from orchestrator.jobs.spec import Name
from orchestrator.people.roles import Role

router = APIRouter(prefix="/api/v1/clients", tags=["clients"], responses=PROBLEMS)
ClientName = Annotated[Name, UrlPath(description="name of a client")]
ParamName = Annotated[EnvName, UrlPath(description="name of a parameter")]


class ClientOut(BaseModel):
    id: int
    name: str
    weight: float = Field(description="its share of nodes that several clients use")
    templates: int
    params: int
    created_at: datetime


class ClientParamIn(BaseModel):
    model_config = {"extra": "forbid"}

    value: EnvValue
    secret: bool = Field(False, description="encrypted at rest and never shown again")


class ClientParamOut(BaseModel):
    name: str
    value: str = Field(description="*** for a secret")
    secret: bool
    updated_at: datetime
    updated_by: str


class ClientParamsOut(BaseModel):
    client: str
    precedence: list[layers.Source] = Field(description="who is further on wins")
    items: list[ClientParamOut]


@router.get("")
@needs(Role.VIEWER, of_client=True)
def list_clients(master: MasterDep, who: Who, limit: Limit = 50, before: Before = None) -> Page[ClientOut]:
    """Clients, newest first. A client is made by its first job, template or parameter."""
    with master.engine.connect() as connection:
        rows = clients.list_clients(connection, limit, before, who.client)
    return Page(items=[ClientOut(**row) for row in rows], next=rows[-1]["id"] if len(rows) == limit else None)


@router.get("/{name}/params")
@needs(Role.VIEWER, of_client=True)
def list_params(master: MasterDep, who: Who, name: ClientName) -> ClientParamsOut:
    """What all jobs of the client have unless their job file or their launch says otherwise."""
    with master.engine.connect() as connection:
        if not who.sees(name) or not clients.list_clients(connection, 1, None, name):
            raise not_found("client", name)
        rows = clients.list_params(connection, name)
    return ClientParamsOut(client=name, precedence=list(layers.PRECEDENCE), items=[_shown(row) for row in rows])


@router.put("/{name}/params/{param}")
@needs(Role.OPERATOR, of_client=True)
async def set_param(master: MasterDep, who: Who, name: ClientName, param: ParamName, body: ClientParamIn) -> ClientParamOut:
    """Set a parameter for the jobs submitted from now on. The client need not have been heard of before."""
    if not who.sees(name):
        raise not_found("client", name)
    problems = layers.text_problems(body.value) + (layers.secret_problems(body.value) if body.secret else [])
    if problems:
        errors = [FieldProblem(path="value", message=problem) for problem in problems]
        raise Problem(422, "The parameter is refused", f"value: {problems[0]}", errors)
    value = await asyncio.to_thread(master.vault.seal, body.value) if body.secret else body.value
    new = layers.OfClient(param, value, body.secret)
    await master.writer.awrite(lambda tx: clients.set_param(tx, name, new, actor=who.actor))
    return await asyncio.to_thread(lambda: _shown(_get(master, name, param)))


@router.delete("/{name}/params/{param}")
@needs(Role.OPERATOR, of_client=True)
async def unset_param(master: MasterDep, who: Who, name: ClientName, param: ParamName) -> ClientParamOut:
    """Remove a parameter; jobs that were submitted with it keep it."""
    if not who.sees(name):
        raise not_found("client", name)
    found = await asyncio.to_thread(_get, master, name, param)
    await master.writer.awrite(lambda tx: clients.unset_param(tx, name, param, actor=who.actor))
    return _shown(found)


def _get(master: Master, client: str, param: str) -> dict[str, Any]:
    with master.engine.connect() as connection:
        rows = [row for row in clients.list_params(connection, client) if row["name"] == param]
    if not rows:
        fix = f"`orchestrator client params get {client}` lists them"
        raise Problem(404, "Not found", f"client {client} has no parameter {param}; {fix}")
    return rows[0]


def _shown(row: dict[str, Any]) -> ClientParamOut:
    return ClientParamOut(**{**row, "value": layers.MASK if row["secret"] else row["value"]})
