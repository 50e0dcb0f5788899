"""Pools: list, create, show, change (scale, pause, resume), delete, explain."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Path as UrlPath

from orchestrator.api.auth import Caller, needs
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import PROBLEMS, FieldProblem, Problem, not_found
from orchestrator.api.shapes import (
    Before,
    EnrolmentIn,
    EnrolmentOut,
    ExplanationOut,
    Limit,
    NodeOut,
    Page,
    PoolChange,
    PoolIn,
    PoolOut,
)
from orchestrator.app import Master
from orchestrator.fleet import joining, pools
from orchestrator.fleet.explain import explain_pool
from orchestrator.people.roles import Role
from orchestrator.store import queries
from providers.base import Misconfigured, ProviderError

router = APIRouter(prefix="/api/v1/pools", tags=["pools"], responses=PROBLEMS)
PoolName = Annotated[str, UrlPath(max_length=100)]


@router.get("")
@needs(Role.VIEWER)
def list_pools(master: MasterDep, _: Caller) -> Page[PoolOut]:
    with master.engine.connect() as connection:
        return Page(items=[PoolOut(**row, currency=master.settings.currency) for row in queries.list_pools(connection)])


@router.post("", status_code=201)
@needs(Role.ADMIN)
async def create_pool(master: MasterDep, caller: Caller, body: PoolIn) -> PoolOut:
    """Create a pool. Its cloud must be one of the settings', its launch template one that the cloud's provider takes."""
    if body.min_nodes > body.max_nodes:
        wrong = FieldProblem(path="min_nodes", message=f"{body.min_nodes} is more than max_nodes ({body.max_nodes})")
        raise Problem(422, "The pool is refused", f"{wrong.path}: {wrong.message}", [wrong])
    try:
        await asyncio.to_thread(pools.check_launch, master.clouds, body.cloud, body.launch)
    except ProviderError as error:
        path = "cloud" if body.cloud not in master.clouds.names() else "launch"
        raise Problem(422, "The pool is refused", str(error), [FieldProblem(path=path, message=str(error))]) from error
    try:
        policy = {} if master.clouds.rents(body.cloud) else {"policy": joining.POLICY}
        await master.writer.awrite(lambda tx: pools.create(tx, {**body.model_dump(), **policy}, actor=caller))
    except pools.PoolExists as error:
        raise Problem(409, "The pool is there already", str(error)) from error
    return PoolOut(**_get(master, body.name))


@router.get("/{name}")
@needs(Role.VIEWER)
def show_pool(master: MasterDep, _: Caller, name: PoolName) -> PoolOut:
    return PoolOut(**_get(master, name))


@router.patch("/{name}")
@needs(Role.OPERATOR)
async def change_pool(master: MasterDep, caller: Caller, name: PoolName, body: PoolChange) -> PoolOut:
    """Scale (`min_nodes`: nodes without a token that are kept up), set the cap, pause or resume."""
    pool = await asyncio.to_thread(_get, master, name)
    changes = body.model_dump(exclude_none=True)
    least, most = changes.get("min_nodes", pool["min_nodes"]), changes.get("max_nodes", pool["max_nodes"])
    if least > most:
        path = "min_nodes" if "min_nodes" in changes else "max_nodes"
        message = f"min_nodes ({least}) may not be more than max_nodes ({most}); raise max_nodes too"
        raise Problem(422, "The change is refused", message, [FieldProblem(path=path, message=message)])
    if pool["deleted_at"]:
        raise Problem(409, "The pool is being deleted", f"pool {name} is being deleted; create it anew when it is gone")
    if "launch" in changes:
        try:
            await asyncio.to_thread(pools.check_launch, master.clouds, pool["cloud"], changes["launch"])
        except ProviderError as error:
            wrong = FieldProblem(path="launch", message=str(error))
            raise Problem(422, "The change is refused", str(error), [wrong]) from error
    await master.writer.awrite(lambda tx: pools.change(tx, pool["id"], changes, actor=caller))
    return PoolOut(**await asyncio.to_thread(_get, master, name))


@router.delete("/{name}", status_code=202)
@needs(Role.ADMIN)
async def delete_pool(master: MasterDep, caller: Caller, name: PoolName) -> PoolOut:
    """Delete a pool: its nodes drain and leave, then it is gone. Refused while tasks are still to run there."""
    pool = await asyncio.to_thread(_get, master, name)

    def work(tx: Any) -> str | None:
        refusal = pools.in_use(tx, pool["id"])
        if refusal is None:
            pools.delete(tx, pool["id"], actor=caller)
        return refusal

    refusal = await master.writer.awrite(work)
    if refusal is not None:
        raise Problem(409, "The pool is in use", f"pool {name} is in use: {refusal}")
    return PoolOut(**{**pool, "state": "deleting", "state_reason": "its nodes are leaving"})


@router.get("/{name}/nodes")
@needs(Role.VIEWER)
def pool_nodes(master: MasterDep, _: Caller, name: PoolName, limit: Limit = 100, before: Before = None) -> Page[NodeOut]:
    pool = _get(master, name)
    with master.engine.connect() as connection:
        rows = queries.list_nodes(connection, limit, before, pool=pool["name"])
    return Page(
        items=[NodeOut.of(row, master.clock()) for row in rows], next=rows[-1]["id"] if len(rows) == limit else None
    )


@router.post("/{name}/enrolments", status_code=201)
@needs(Role.OPERATOR)
async def enrol(master: MasterDep, caller: Caller, name: PoolName, body: EnrolmentIn) -> EnrolmentOut:
    """Places for machines that exist already, and the command that each of them is to run, as root, until `expires_at`."""
    pool = await asyncio.to_thread(_get, master, name)
    try:
        places = await master.writer.awrite(
            lambda tx: joining.invite(tx, pool["id"], body.count, token=body.token, actor=caller)
        )
        command = master.enrolment_command(places.launch_id, pool, body.name)
    except (joining.NoPlace, Misconfigured) as error:
        raise Problem(409, "The pool takes no such machines now", str(error)) from error
    return EnrolmentOut(
        pool=name, launch_id=places.launch_id, nodes=places.node_ids, expires_at=places.expires_at, command=command
    )


@router.get("/{name}/explain")
@needs(Role.VIEWER)
def explain(master: MasterDep, _: Caller, name: PoolName) -> ExplanationOut:
    """What is asked of the pool, what it has, and what holds it back."""
    pool = _get(master, name)
    with master.engine.connect() as connection:
        found = explain_pool(connection, pool["id"], master.clock())
    if found is None:
        raise not_found("pool", name)
    return ExplanationOut(subject=found.subject, state=found.state, sentences=found.sentences, next=found.next)


def _get(master: Master, name: str) -> dict[str, Any]:
    with master.engine.connect() as connection:
        rows = queries.list_pools(connection, name)
    if not rows:
        raise not_found("pool", name)
    return {**rows[0], "currency": master.settings.currency}
