"""What share a client has of the nodes that several use."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Path as UrlPath
from pydantic import BaseModel, Field

from orchestrator.api.auth import Caller, needs
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import PROBLEMS, Problem
from orchestrator.app import Master
from orchestrator.jobs import shares
from orchestrator.people.roles import Role

router = APIRouter(prefix="/api/v1/clients", tags=["clients"], responses=PROBLEMS)
ClientName = Annotated[str, UrlPath(max_length=100)]
Weight = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False, description="its share among clients of one priority")]
Priority = Annotated[int, Field(ge=-1000, le=1000, description="added to that of its jobs")]


class ShareChange(BaseModel):
    """Only what is given is changed, for tasks queued from then on."""

    model_config = {"extra": "forbid"}

    weight: Weight | None = None
    priority: Priority | None = None


class ShareOut(BaseModel):
    name: str
    weight: Weight
    priority: Priority


@router.get("/{name}/share")
@needs(Role.VIEWER)
def show_share(master: MasterDep, _: Caller, name: ClientName) -> ShareOut:
    return _get(master, name)


@router.patch("/{name}/share")
@needs(Role.ADMIN)
async def change_share(master: MasterDep, caller: Caller, name: ClientName, body: ShareChange) -> ShareOut:
    """Weigh a client against the others, or let all its jobs go before theirs."""

    def work(tx: Any) -> bool:
        return shares.change(tx, name, weight=body.weight, priority=body.priority, actor=caller)

    await master.writer.awrite(work)
    return _get(master, name)


def _get(master: Master, name: str) -> ShareOut:
    with master.engine.connect() as connection:
        found = shares.share(connection, name)
    if found is None:
        raise Problem(404, "Not found", f"no client is named {name!r}; a client is there from its first job on")
    return ShareOut(**found)
