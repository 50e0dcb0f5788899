"""What endpoints are handed, and what of it their caller may see."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import Connection

from orchestrator.api.problems import not_found
from orchestrator.app import Master
from orchestrator.people.roles import Identity
from orchestrator.store import queries


async def master_of(request: Request) -> Master:  # async, or FastAPI sends it through a thread
    master: Master = request.app.state.master
    return master


MasterDep = Annotated[Master, Depends(master_of)]


def find_job(connection: Connection, who: Identity, job_id: int) -> dict[str, Any] | None:
    """The job, as far as it is there for this caller: another client's is not."""
    row = queries.get_job(connection, job_id)
    return row if row is not None and who.sees(row["client"]) else None


def get_job(connection: Connection, who: Identity, job_id: int) -> dict[str, Any]:
    """The same. Raises 404."""
    if (row := find_job(connection, who, job_id)) is None:
        raise not_found("job", job_id)
    return row
