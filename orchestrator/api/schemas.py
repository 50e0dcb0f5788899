"""Schemas of the documents that people write, for editors."""

from __future__ import annotations

from functools import lru_cache

import orjson
from fastapi import APIRouter
from fastapi.responses import Response

from orchestrator.api.auth import needs
from orchestrator.api.problems import PROBLEMS
from orchestrator.people.roles import Role

router = APIRouter(prefix="/api/v1/schemas", tags=["schemas"], responses=PROBLEMS)
_answer: dict[int | str, dict[str, object]] = {
    200: {"description": "JSON Schema, 2020-12", "content": {"application/schema+json": {"schema": {"type": "object"}}}}
}


@router.get("/job", response_class=Response, responses=_answer)
@needs(Role.VIEWER, of_client=True)
def job() -> Response:
    """The job file as JSON Schema."""
    return Response(_job(), media_type="application/schema+json")


@lru_cache
def _job() -> bytes:
    from orchestrator.jobs.schema import job_schema

    return orjson.dumps(job_schema())
