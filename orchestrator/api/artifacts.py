"""Artifacts: the files that a job's tasks left, listed and downloaded."""

from __future__ import annotations

import mimetypes
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from orchestrator.api.auth import Who, needs
from orchestrator.api.deps import MasterDep, find_job, get_job
from orchestrator.api.problems import PROBLEMS, Problem
from orchestrator.api.shapes import ArtifactOut, Limit, Page, RowId
from orchestrator.files.base import Missing
from orchestrator.people.roles import Role
from orchestrator.store import queries

router = APIRouter(prefix="/api/v1", tags=["artifacts"], responses=PROBLEMS)


@router.get("/jobs/{job_id}/artifacts")
@needs(Role.VIEWER, of_client=True)
def list_artifacts(
    master: MasterDep,
    who: Who,
    job_id: RowId,
    limit: Limit = 1000,
    after: Annotated[int, Query(ge=0, lt=1 << 62)] = 0,
    task: Annotated[str | None, Query(max_length=120, description="only this task's")] = None,
    every: Annotated[bool, Query(description="of every attempt, not only of each task's newest that has some")] = False,
) -> Page[ArtifactOut]:
    """What the job's tasks left, in the order it was stored; `next` is the `after` of the next page."""
    with master.engine.connect() as connection:
        get_job(connection, who, job_id)
        rows = queries.list_artifacts(connection, job_id, limit, after, task, every)
    return Page(items=[ArtifactOut(**row) for row in rows], next=rows[-1]["id"] if len(rows) == limit else None)


@router.get(
    "/artifacts/{artifact_id}",
    response_class=StreamingResponse,
    responses={200: {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}},
)
@needs(Role.VIEWER, of_client=True)
def download(master: MasterDep, who: Who, artifact_id: RowId) -> StreamingResponse:
    """The file itself; its SHA-256 is the `ETag`."""
    with master.engine.connect() as connection:
        row = queries.get_artifact(connection, artifact_id)
        seen = row is not None and find_job(connection, who, row["job_id"]) is not None
    if row is None or not seen:
        raise Problem(404, "Not found", f"there is no artifact {artifact_id}; see `orchestrator job artifacts JOB`")
    try:
        pieces = master.files.read(row["attempt_id"], row["path"])
    except Missing:
        raise Problem(410, "Gone", f"artifact {artifact_id} was removed; see setting artifact_retention_days") from None
    name = row["path"].rpartition("/")[2]
    headers = {
        "Content-Length": str(row["size"]),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "ETag": f'"{row["sha256"]}"',
        "X-Content-Type-Options": "nosniff",  # a job's file is never a page of ours
        "Content-Security-Policy": "sandbox",
    }
    kind, packed = mimetypes.guess_type(name)
    return StreamingResponse(pieces, media_type="application/octet-stream" if packed or not kind else kind, headers=headers)
