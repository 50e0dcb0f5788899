"""What a job would get if it were submitted now."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from orchestrator.api.auth import Who, needs, permit_client
from orchestrator.api.deps import MasterDep
from orchestrator.api.jobs import DOCUMENT, read_job
from orchestrator.api.problems import PROBLEMS
from orchestrator.app import Master
from orchestrator.fleet.forecast import Asked, Forecast, Place, forecast
from orchestrator.jobs import spec
from orchestrator.people.roles import Role

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"], responses=PROBLEMS)
NAMED = 20  # tasks told of by name


class PlannedLaunch(BaseModel):
    """One launch as the planner would ask for it, on the first rung of the pool's ladder that is to be had."""

    count: int
    cloud: str
    kind: str = Field(description="the rung of the pool's ladder")
    instance_type: str
    image: str
    probe: bool = Field(description="true: one machine tries again what failed of late")
    price: float | None = Field(description="of an hour of one; null where the pool has no price for its type")
    cost: float | None = Field(description="of an hour of all")


class PlannedMachines(BaseModel):
    owner: str
    after: list[str] = Field(description="tasks that must have succeeded before; empty: at submission")
    pool: str
    count: int
    token: str = Field(description="$JOB_ID in it becomes the job's number")
    launches: list[PlannedLaunch]
    waiting: list[str] = Field(description="why not all of them would be launched at once")

    @classmethod
    def of(cls, asked: Asked) -> PlannedMachines:
        launches = [
            PlannedLaunch(
                count=each.count,
                cloud=each.cloud,
                kind=each.kind,
                instance_type=each.instance_type,
                image=each.image,
                probe=each.probe,
                price=each.price,
                cost=None if each.price is None else each.price * each.count,
            )
            for each in asked.launches
        ]
        return cls(
            owner=asked.owner,
            after=list(asked.after),
            pool=asked.pool,
            count=asked.count,
            token=asked.token,
            launches=launches,
            waiting=list(asked.waiting),
        )


class PlannedPlace(BaseModel):
    """Tasks that may run on the same nodes."""

    tasks: list[str] = Field(description=f"the first {NAMED} of them")
    count: int
    token: str | None
    pool: str | None
    needs: str
    nodes: int = Field(description="ready nodes that can run them, now")
    coming: int = Field(description="machines that the job itself asks for")
    trouble: str | None = Field(description="what would keep them waiting")

    @classmethod
    def of(cls, place: Place) -> PlannedPlace:
        return cls(
            tasks=list(place.tasks[:NAMED]),
            count=len(place.tasks),
            token=place.token,
            pool=place.pool,
            needs=str(place.needs),
            nodes=place.nodes,
            coming=place.coming,
            trouble=place.trouble,
        )


class PlanOut(BaseModel):
    """Nothing of it is stored, and it is only as good as this moment."""

    name: str
    client: str
    machines: list[PlannedMachines]
    tasks: list[PlannedPlace]
    cost_per_hour: float = Field(description="of the machines that would be launched and have a price")
    currency: str
    unpriced: list[str] = Field(description="instance types among them without a price")


@router.post("/plan", openapi_extra={"requestBody": DOCUMENT})
@needs(Role.OPERATOR, of_client=True)
async def plan_job(master: MasterDep, who: Who, request: Request) -> PlanOut:
    """Check a job file and say what would be launched where, why, and at which price. Nothing is created."""
    job, _ = await read_job(request)
    permit_client(who, job.client)
    found = await asyncio.to_thread(_forecast, master, job)
    return PlanOut(
        name=job.name,
        client=job.client,
        machines=[PlannedMachines.of(asked) for asked in found.asked],
        tasks=[PlannedPlace.of(place) for place in found.places],
        cost_per_hour=found.cost,
        currency=master.settings.currency,
        unpriced=found.unpriced,
    )


def _forecast(master: Master, job: spec.JobSpec) -> Forecast:
    with master.engine.connect() as connection:
        return forecast(connection, job, master.clock())
