"""Events: the history, and the same as a live stream (server-sent events)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from orchestrator.api.auth import Identities, Who, needs
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import PROBLEMS
from orchestrator.api.shapes import NO_NUL, Before, EventOut, Limit, Page
from orchestrator.app import Master
from orchestrator.people.roles import Identity, Role
from orchestrator.store import queries
from orchestrator.store.writer import EventRow

router = APIRouter(prefix="/api/v1/events", tags=["events"], responses=PROBLEMS)
Link = Annotated[int | None, Query(ge=0, lt=1 << 62)]
KEEP_ALIVE_S = 15.0


@router.get("")
@needs(Role.VIEWER, of_client=True)
def list_events(
    master: MasterDep,
    who: Who,
    limit: Limit = 100,
    before: Before = None,
    after: Annotated[int | None, Query(ge=0, lt=1 << 62, description="oldest first from here, to catch up")] = None,
    job_id: Link = None,
    task_id: Link = None,
    node_id: Link = None,
    pool_id: Link = None,
    actor: Annotated[str | None, Query(max_length=200, pattern=NO_NUL, description="only what they did")] = None,
    requests: Annotated[bool, Query(description="only calls on record: changes, and refusals for who called")] = False,
) -> Page[EventOut]:
    """What happened, why, and who did it; newest first unless `after` is given."""
    with master.engine.connect() as connection:
        links = {"job_id": job_id, "task_id": task_id, "node_id": node_id, "pool_id": pool_id}
        rows = queries.list_events(
            connection,
            limit,
            before,
            after,
            actor=actor,
            requests=requests,
            only_client_id=who.client_id,
            **links,
        )
    return Page(items=[EventOut(**row) for row in rows], next=rows[-1]["id"] if len(rows) == limit else None)


@router.get("/stream", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}})
@needs(Role.VIEWER, of_client=True)
async def stream_events(request: Request, master: MasterDep, who: Who) -> StreamingResponse:
    """Every event from now on, as it is committed, as long as the caller's token or login is valid."""
    known: Identities = request.app.state.identities

    async def lines() -> AsyncIterator[bytes]:
        yield b": connected\n\n"
        async for batch in master.stream.follow(KEEP_ALIVE_S):
            if await known.of(request) is None:
                return
            if not batch:
                yield b": still here\n\n"
            for event in await _seen(master, who, batch):
                yield b"id: %d\ndata: %s\n\n" % (event["id"], orjson.dumps(_shown(event)))

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _seen(master: Master, who: Identity, batch: Sequence[EventRow]) -> Sequence[EventRow]:
    """What of it the caller may see: all, or what happened to their client's jobs."""
    client_id = who.client_id
    if client_id is None or not batch:
        return batch
    ids = {event["job_id"] for event in batch} - {None}

    def theirs() -> set[int]:
        with master.engine.connect() as connection:
            return queries.jobs_of_client(connection, client_id, ids)

    mine = await asyncio.to_thread(theirs) if ids else set()
    return [event for event in batch if event["job_id"] in mine]


def _shown(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "at": event["at"].isoformat()}
