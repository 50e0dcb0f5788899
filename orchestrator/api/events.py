"""Events: the history, and the same as a live stream (server-sent events)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from orchestrator.api.auth import Caller
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import PROBLEMS
from orchestrator.api.shapes import Before, EventOut, Limit, Page
from orchestrator.store import queries

router = APIRouter(prefix="/api/v1/events", tags=["events"], responses=PROBLEMS)
Link = Annotated[int | None, Query(ge=0, lt=1 << 62)]
KEEP_ALIVE_S = 15.0


@router.get("")
def list_events(
    master: MasterDep,
    _: Caller,
    limit: Limit = 100,
    before: Before = None,
    after: Annotated[int | None, Query(ge=0, lt=1 << 62, description="oldest first from here, to catch up")] = None,
    job_id: Link = None,
    task_id: Link = None,
    node_id: Link = None,
    pool_id: Link = None,
) -> Page[EventOut]:
    """What happened, why, and who did it; newest first unless `after` is given."""
    with master.engine.connect() as connection:
        links = {"job_id": job_id, "task_id": task_id, "node_id": node_id, "pool_id": pool_id}
        rows = queries.list_events(connection, limit, before, after, **links)
    return Page(items=[EventOut(**row) for row in rows], next=rows[-1]["id"] if len(rows) == limit else None)


@router.get("/stream", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}})
async def stream_events(master: MasterDep, _: Caller) -> StreamingResponse:
    """Every event from now on, as it is committed."""

    async def lines() -> AsyncIterator[bytes]:
        yield b": connected\n\n"
        async for batch in master.stream.follow(KEEP_ALIVE_S):
            if not batch:
                yield b": still here\n\n"
            for event in batch:
                yield b"id: %d\ndata: %s\n\n" % (event["id"], orjson.dumps(_shown(event)))

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _shown(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "at": event["at"].isoformat()}
