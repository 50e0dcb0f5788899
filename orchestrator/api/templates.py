"""Templates: commit, list, show, compare, roll back, launch, delete."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi import Path as UrlPath
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from orchestrator.api.auth import Who, needs, permit_client
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import PROBLEMS, Problem, not_found
from orchestrator.api.record import address_of
from orchestrator.api.shapes import Before, Limit, Page, SubmittedOut
from orchestrator.app import Master
from orchestrator.jobs import spec, templates
from orchestrator.jobs.params import EnvName, ParamValue
from orchestrator.jobs.submit import Launch, submit
from orchestrator.people.roles import Identity, Role

router = APIRouter(prefix="/api/v1/templates", tags=["templates"], responses=PROBLEMS)
TemplateRef = Annotated[str, UrlPath(max_length=100, pattern=r"^[A-Za-z0-9._-]+$", description="name or id")]
VersionRef = Annotated[
    str, Field(max_length=64, pattern=r"^[0-9a-f]+$", description="its number, or six or more digits of its SHA-256")
]
Note = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$", description="why, for those who read the history")]


class CommitIn(BaseModel):
    model_config = {"extra": "forbid"}

    file: Annotated[str, Field(max_length=16 << 20)] | dict[str, Any] = Field(
        description="a job file: its text, which is kept as it is written, or the document"
    )
    note: Note = ""


class CommittedOut(BaseModel):
    id: int
    name: str
    number: int
    sha256: str
    created: bool = Field(description="false where the current version says the same: nothing was stored")


class TemplateOut(BaseModel):
    """A template with its current version."""

    id: int
    name: str
    client: str
    number: int = Field(description="of its current version")
    sha256: str
    note: str
    committed_by: str
    committed_at: datetime
    description: str | None
    schedule: dict[str, Any] | None
    created_at: datetime


class VersionOut(BaseModel):
    """A version; it never changes."""

    id: int
    number: int
    sha256: str
    note: str
    committed_by: str
    committed_at: datetime


class VersionDetailOut(VersionOut):
    document: dict[str, Any] = Field(description="canonical: what `sha256` is of")
    source: str = Field(description="as it was written")


class DiffOut(BaseModel):
    before: int
    after: int
    diff: str = Field(description="unified; empty where both are written alike")


class RollbackIn(BaseModel):
    model_config = {"extra": "forbid"}

    version: VersionRef


class LaunchIn(BaseModel):
    model_config = {"extra": "forbid"}

    params: dict[EnvName, ParamValue] = Field({}, description="win over the template's, which win over the client's")
    version: VersionRef | None = Field(None, description="default: the current one")


@router.get("")
@needs(Role.VIEWER, of_client=True)
def list_templates(
    master: MasterDep,
    who: Who,
    limit: Limit = 50,
    before: Before = None,
    client: Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")] = None,
) -> Page[TemplateOut]:
    """Templates, newest first."""
    with master.engine.connect() as connection:
        rows = templates.list_templates(connection, limit, before, client, who.client)
    return Page(items=[_shown(row) for row in rows], next=rows[-1]["id"] if len(rows) == limit else None)


@router.post("", status_code=201, responses={200: {"model": CommittedOut, "description": "Nothing new"}})
@needs(Role.OPERATOR, of_client=True)
async def commit(master: MasterDep, who: Who, body: CommitIn) -> JSONResponse:
    """Commit a job file as the next version of the template of its name. What is invalid is refused."""
    job = await asyncio.to_thread(spec.parse, body.file)
    permit_client(who, job.client)
    source = body.file if isinstance(body.file, str) else json.dumps(body.file, indent=2, ensure_ascii=False) + "\n"
    try:
        done = await master.writer.awrite(lambda tx: templates.commit(tx, job, source, body.note, actor=who.actor))
    except templates.TemplateRefused as error:
        raise Problem(409, "The name is taken", str(error)) from error
    out = CommittedOut(id=done.template_id, name=job.name, number=done.number, sha256=done.sha256, created=done.created)
    return JSONResponse(out.model_dump(), 201 if done.created else 200)


@router.get("/{template}")
@needs(Role.VIEWER, of_client=True)
def show_template(master: MasterDep, who: Who, template: TemplateRef) -> TemplateOut:
    return _shown(_get(master, who, template))


@router.delete("/{template}")
@needs(Role.OPERATOR, of_client=True)
async def delete_template(master: MasterDep, who: Who, template: TemplateRef) -> TemplateOut:
    """Delete it. Its versions stay for the jobs that name them, and a commit under its name brings it back."""
    found = await asyncio.to_thread(_get, master, who, template)
    await master.writer.awrite(lambda tx: templates.delete(tx, found, actor=who.actor))
    return _shown(found)


@router.get("/{template}/versions")
@needs(Role.VIEWER, of_client=True)
def list_versions(
    master: MasterDep, who: Who, template: TemplateRef, limit: Limit = 50, before: Before = None
) -> Page[VersionOut]:
    """Its versions, newest first."""
    found = _get(master, who, template)
    with master.engine.connect() as connection:
        rows = templates.list_versions(connection, found["id"], limit, before)
    return Page(items=[VersionOut(**row) for row in rows], next=rows[-1]["id"] if len(rows) == limit else None)


@router.get("/{template}/versions/{version}")
@needs(Role.VIEWER, of_client=True)
def show_version(master: MasterDep, who: Who, template: TemplateRef, version: VersionRef) -> VersionDetailOut:
    return VersionDetailOut(**_version(master, _get(master, who, template), version))


@router.get("/{template}/diff")
@needs(Role.VIEWER, of_client=True)
def diff(
    master: MasterDep,
    who: Who,
    template: TemplateRef,
    before: Annotated[VersionRef | None, Query(description="default: the one before `after`")] = None,
    after: Annotated[VersionRef | None, Query(description="default: the current one")] = None,
) -> DiffOut:
    """How two versions differ as they were written."""
    found = _get(master, who, template)
    newer = _version(master, found, after)
    older = _version(master, found, before if before is not None else str(max(newer["number"] - 1, 1)))
    return DiffOut(before=older["number"], after=newer["number"], diff=templates.difference(older, newer))


@router.post("/{template}/rollback")
@needs(Role.OPERATOR, of_client=True)
async def rollback(master: MasterDep, who: Who, template: TemplateRef, body: RollbackIn) -> TemplateOut:
    """Make this version the current one, from the next launch on."""
    found = await asyncio.to_thread(_get, master, who, template)
    version = await asyncio.to_thread(_version, master, found, body.version)
    await master.writer.awrite(lambda tx: templates.rollback(tx, found, version["number"], actor=who.actor))
    return await asyncio.to_thread(lambda: _shown(_get(master, who, template)))


@router.post("/{template}/launch", status_code=201, responses={200: {"model": SubmittedOut, "description": "Repeated"}})
@needs(Role.OPERATOR, of_client=True)
async def launch(
    request: Request,
    master: MasterDep,
    who: Who,
    template: TemplateRef,
    body: LaunchIn,
    idempotency_key: Annotated[str | None, Header(max_length=200, pattern=r"^[ -~]*$")] = None,
) -> JSONResponse:
    """Make a job of the template now. With an `Idempotency-Key`, asking again gives the same job."""
    version = await asyncio.to_thread(lambda: _version(master, _get(master, who, template), body.version))
    job = await asyncio.to_thread(spec.parse, version["document"])
    brought = Launch(body.params, version["id"], master.vault.seal, f"from {address_of(request.scope)}")
    done = await master.writer.awrite(
        lambda tx: submit(tx, job, actor=who.actor, idempotency_key=idempotency_key, launch=brought)
    )
    return JSONResponse(SubmittedOut(id=done.job_id, repeated=done.repeated).model_dump(), 200 if done.repeated else 201)


def _get(master: Master, who: Identity, ref: str) -> dict[str, Any]:
    with master.engine.connect() as connection:
        found = templates.find(connection, ref)
    if found is None or not who.sees(found["client"]):
        raise not_found("template", ref)
    return found


def _version(master: Master, template: dict[str, Any], ref: str | None) -> dict[str, Any]:
    with master.engine.connect() as connection:
        found = templates.find_version(connection, template, ref)
    if found is None:
        fix = f"`orchestrator template show {template['name']}` lists them"
        raise Problem(404, "Not found", f"{template['name']} has no version {ref}; {fix}")
    return found


def _shown(row: dict[str, Any]) -> TemplateOut:
    document = row["document"]
    return TemplateOut(**row, description=document.get("description"), schedule=document.get("schedule"))
