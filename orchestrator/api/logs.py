"""Logs of a job: a piece by its offset, first and last lines, lines with a text, and all of it as it comes."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from orchestrator.api.auth import Who, needs
from orchestrator.api.deps import MasterDep, get_job
from orchestrator.api.events import KEEP_ALIVE_S
from orchestrator.api.follow import Follower, News
from orchestrator.api.problems import PROBLEMS, Problem
from orchestrator.api.shapes import RowId
from orchestrator.app import Master
from orchestrator.files import reading
from orchestrator.model.states import AttemptState
from orchestrator.people.roles import Identity, Role
from orchestrator.store import queries
from orchestrator.store.trouble import trouble_of

router = APIRouter(prefix="/api/v1/jobs", tags=["logs"], responses=PROBLEMS)
TaskName = Annotated[str | None, Query(max_length=120, description="only this task's")]
Number = Annotated[int | None, Query(ge=1, lt=1 << 31, description="its first, second, … try; default: the last")]
Lines = Annotated[int | None, Query(ge=1, le=100_000)]
MOST_READ = 64 << 20  # bytes that one search looks through


class LogMatch(BaseModel):
    """A line of a log. `text` is the part with what was looked for, where the line is very long."""

    task: str
    attempt: int
    number: int
    line: int
    offset: int
    text: str


class LogMatches(BaseModel):
    """`next` is the `after` with which the search goes on, null when all was looked through."""

    items: list[LogMatch]
    next: int | None = None


@router.get(
    "/{job_id}/logs",
    response_class=PlainTextResponse,
    response_model=None,
    responses={200: {"content": {"text/plain": {}, "application/json": {"schema": LogMatches.model_json_schema()}}}},
)
@needs(Role.VIEWER, of_client=True)
def read_log(
    master: MasterDep,
    who: Who,
    job_id: RowId,
    task: TaskName = None,
    attempt: Number = None,
    offset: Annotated[int, Query(ge=0, lt=1 << 62)] = 0,
    limit: Annotated[int, Query(ge=1, le=16 << 20, description="most bytes; with `search`: most lines of a task")] = 1
    << 20,
    head: Lines = None,
    tail: Lines = None,
    search: Annotated[str | None, Query(min_length=1, max_length=200, description="a text, not a pattern")] = None,
    after: Annotated[int, Query(ge=0, lt=1 << 62, description="with `search`: go on behind this attempt")] = 0,
) -> Response:
    """What a task wrote, from a byte offset, or its first or last lines. With `search` the lines that have this text, of
    all tasks unless one is named, as JSON.

    `X-Log-Size` says how much there is, `X-Log-Offset` where this piece begins, `X-Log-Attempt` of which attempt."""
    if search is not None:
        found = _found(master, who, job_id, task, attempt, search, min(limit, 1000), after)
        return Response(found.model_dump_json(), media_type="application/json")
    chosen = _chosen(master, who, job_id, task)
    tried = _attempt(master, job_id, chosen["name"], attempt)
    id_ = tried["id"] if tried else 0
    size = master.logs.size(id_) if id_ else 0
    if tried and not size and tried["log_size"] and tried["state"] != AttemptState.RUNNING:
        raise Problem(410, "Gone", f"the log of attempt {id_} was removed; setting log_retention_days says after how long")
    if head is not None:
        limit = min(limit, max(0, reading.end_of_head(master.logs, id_, head) - offset))
    elif tail is not None:
        offset = max(offset, reading.start_of_tail(master.logs, id_, tail))
    data = master.logs.read(id_, offset, limit) if id_ and offset < size and limit else b""
    headers = {
        "X-Log-Size": str(size),
        "X-Log-Offset": str(offset),
        "X-Log-Attempt": str(id_),
        "X-Task-State": chosen["state"],
    }
    return PlainTextResponse(data, headers=headers)


@router.get(
    "/{job_id}/logs/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
@needs(Role.VIEWER, of_client=True)
async def follow_logs(
    master: MasterDep,
    who: Who,
    job_id: RowId,
    task: TaskName = None,
    attempt: Number = None,
    follow: Annotated[bool, Query(description="false: only what there is now")] = True,
    since: Annotated[
        int | None, Query(ge=0, lt=1 << 62, description="to go on: the newest attempt that a broken stream told of")
    ] = None,
    at: Annotated[
        list[Annotated[str, Query(pattern=r"^[1-9][0-9]{0,17}:[0-9]{1,18}$")]],
        Query(max_length=200, description="to go on: ATTEMPT:OFFSET, how far logs were read"),
    ] = [],  # noqa: B006 - FastAPI copies it
) -> StreamingResponse:
    """All logs of the job as they grow, until it has ended (server-sent events).

    `begin`: the newest attempt there is (`newest`); `log`: bytes of one attempt (`task`, `attempt`, `number`, `offset`,
    `data` in base64, none where it begins to be read); `attempt`: it has ended, and this was its whole log; `end`: so has
    the job."""
    await run_in_threadpool(_must_be_there, master, who, job_id, task)
    offsets = {int(id_): int(offset) for id_, _, offset in (item.partition(":") for item in at)}
    lines = _lines(Follower(master, job_id, task, attempt, since=since, offsets=offsets), follow)
    return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _lines(follower: Follower, follow: bool) -> AsyncIterator[bytes]:
    yield b": connected\n\n"
    silent_s, begun = 0.0, False
    try:
        async for news in follower.follow(to_the_end=follow):
            if not begun:
                begun = True
                yield b"event: begin\ndata: %s\n\n" % orjson.dumps({"newest": follower.newest})
            for item in news:
                yield _event(item)
            silent_s = 0.0 if news else silent_s + follower.look_s
            if silent_s >= KEEP_ALIVE_S:
                silent_s = 0.0
                yield b": still here\n\n"
    except Exception as error:
        if trouble_of(error) is None:
            raise
        return  # whoever follows comes again, from where it was
    yield b"event: end\ndata: %s\n\n" % orjson.dumps({"state": follower.state})


def _must_be_there(master: Master, who: Identity, job_id: int, task: str | None) -> None:
    with master.engine.connect() as connection:
        get_job(connection, who, job_id)
        if task is not None and not queries.list_tasks(connection, job_id, 1, name=task):
            raise _no_task(job_id, task)


def _event(news: News) -> bytes:
    trail = news.trail
    told: dict[str, Any] = {"task": trail.task, "attempt": trail.id, "number": trail.number, "offset": news.offset}
    if news.data is None:
        return b"event: attempt\ndata: %s\n\n" % orjson.dumps({**told, "state": trail.state})
    return b"event: log\ndata: %s\n\n" % orjson.dumps({**told, "data": base64.b64encode(news.data).decode()})


def _chosen(master: Master, who: Identity, job_id: int, task: str | None) -> dict[str, Any]:
    with master.engine.connect() as connection:
        job = get_job(connection, who, job_id)
        chosen = queries.list_tasks(connection, job_id, 10, name=task)
    if not chosen:
        raise _no_task(job_id, task)
    if len(chosen) > 1:
        names = ", ".join(row["name"] for row in chosen) + (", …" if job["tasks"] > len(chosen) else "")
        raise Problem(422, "Which task?", f"job {job_id} has {job['tasks']} tasks; name one with `task`: {names}")
    return chosen[0]


def _attempt(master: Master, job_id: int, task: str, number: int | None) -> dict[str, Any] | None:
    with master.engine.connect() as connection:
        rows = queries.last_attempts(connection, job_id, task, number)
    if number is not None and not rows:
        raise Problem(404, "Not found", f"task {task!r} of job {job_id} has had no attempt {number}")
    return rows[0] if rows else None


def _found(
    master: Master, who: Identity, job_id: int, task: str | None, number: int | None, text: str, most: int, after: int
) -> LogMatches:
    _must_be_there(master, who, job_id, task)
    with master.engine.connect() as connection:
        rows = queries.last_attempts(connection, job_id, task, number)
    items: list[LogMatch] = []
    read = 0
    for row in rows:
        if row["id"] <= after:
            continue
        if read > MOST_READ or len(items) >= most:
            return LogMatches(items=items, next=after)
        matches = reading.search(master.logs, row["id"], text, most)
        items += [LogMatch(task=row["task"], attempt=row["id"], number=row["number"], **asdict(match)) for match in matches]
        read += max(row["log_size"], 1 << 12)
        after = row["id"]
    return LogMatches(items=items)


def _no_task(job_id: int, task: str | None) -> Problem:
    return Problem(404, "Not found", f"job {job_id} has no task {task!r}; see `orchestrator job show {job_id}`")
