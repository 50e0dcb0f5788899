"""Nodes: list, show, explain, console, terminate."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from orchestrator.api.auth import Caller, needs
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import CLOUD_PROBLEMS, PROBLEMS, Problem, not_found
from orchestrator.api.shapes import Before, ConsoleOut, ExplanationOut, Limit, NodeOut, Page, RowId
from orchestrator.app import Master
from orchestrator.fleet import leaving
from orchestrator.fleet.explain import explain_node
from orchestrator.model.states import NodeState
from orchestrator.people.roles import Role
from orchestrator.store import queries

router = APIRouter(prefix="/api/v1/nodes", tags=["nodes"], responses=PROBLEMS)


@router.get("")
@needs(Role.VIEWER)
def list_nodes(
    master: MasterDep,
    _: Caller,
    limit: Limit = 100,
    before: Before = None,
    state: NodeState | None = None,
    pool: Annotated[str | None, Query(max_length=100)] = None,
    live: Annotated[bool, Query(description="only those not terminated")] = False,
) -> Page[NodeOut]:
    """Nodes, newest first."""
    with master.engine.connect() as connection:
        rows = queries.list_nodes(connection, limit, before, state, pool, live)
    return Page(
        items=[NodeOut.of(row, master.clock()) for row in rows], next=rows[-1]["id"] if len(rows) == limit else None
    )


@router.get("/{node_id}")
@needs(Role.VIEWER)
def show_node(master: MasterDep, _: Caller, node_id: RowId) -> NodeOut:
    return NodeOut.of(_get(master, node_id), master.clock())


@router.get("/{node_id}/explain")
@needs(Role.VIEWER)
def explain(master: MasterDep, _: Caller, node_id: RowId) -> ExplanationOut:
    """Why the node exists, how it is, what it did, and what is expected next."""
    with master.engine.connect() as connection:
        found = explain_node(connection, node_id, master.clock())
    if found is None:
        raise not_found("node", node_id)
    return ExplanationOut(subject=found.subject, state=found.state, sentences=found.sentences, next=found.next)


@router.get("/{node_id}/console", responses=CLOUD_PROBLEMS)
@needs(Role.VIEWER)
def console(master: MasterDep, _: Caller, node_id: RowId) -> ConsoleOut:
    """The boot log: what was kept when its boot failed, else what its cloud has of it now."""
    with master.engine.connect() as connection:
        machine = queries.machine_of(connection, node_id)
    if machine is None:
        raise not_found("node", node_id)
    if machine["console"] is not None:
        return ConsoleOut(node_id=node_id, kept=True, text=machine["console"])
    if machine["instance_id"] is None:
        raise Problem(409, "It has no machine", f"node {node_id} has no machine; see `orchestrator node explain {node_id}`")
    return ConsoleOut(node_id=node_id, kept=False, text=master.clouds.get(machine["cloud"]).console(machine["instance_id"]))


@router.post("/{node_id}/terminate", status_code=202)
@needs(Role.OPERATOR)
async def terminate(
    master: MasterDep,
    caller: Caller,
    node_id: RowId,
    now: Annotated[bool, Query(description="do not let it finish what it runs; its tasks are queued again")] = False,
    _: Annotated[Any, Body()] = None,
) -> NodeOut:
    """End a node: it drains first, unless `now`."""

    def work(tx: Any) -> dict[str, Any] | None:
        if queries.get_node(tx.connection, node_id) is None:
            return None
        if now:
            leaving.at_once(tx, node_id, "operator", f"terminated by {caller}", actor=caller)
        else:
            leaving.begin(tx, node_id, "operator", f"terminated by {caller}", actor=caller)
        return queries.get_node(tx.connection, node_id)

    row = await master.writer.awrite(work)
    if row is None:
        raise not_found("node", node_id)
    return NodeOut.of(row, master.clock())


@router.post("/{node_id}/protect")
@needs(Role.OPERATOR)
async def protect(
    master: MasterDep,
    caller: Caller,
    node_id: RowId,
    off: Annotated[bool, Query(description="let policies release it again")] = False,
    _: Annotated[Any, Body()] = None,
) -> NodeOut:
    """Protect a node: no policy releases it, an operator still may end it. With `off`, no longer."""

    def work(tx: Any) -> dict[str, Any] | None:
        if not leaving.protect(tx, node_id, not off, actor=caller):
            return None
        return queries.get_node(tx.connection, node_id)

    row = await master.writer.awrite(work)
    if row is None:
        raise not_found("node", node_id)
    return NodeOut.of(row, master.clock())


def _get(master: Master, node_id: int) -> dict[str, Any]:
    with master.engine.connect() as connection:
        row = queries.get_node(connection, node_id)
    if row is None:
        raise not_found("node", node_id)
    return row
