"""A forecast: what a job would get if it were submitted now. Nothing is stored; the planner's own code decides.

What the job would ask for is laid into the views of its pools as if all of it were asked for at this moment, machines of
tasks that wait for others too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from orchestrator.fleet import planner
from orchestrator.fleet.queued import lacks_of, nodes_for
from orchestrator.fleet.view import pool_view
from orchestrator.jobs import progress
from orchestrator.jobs.fits import Needs
from orchestrator.jobs.spec import JobSpec
from orchestrator.jobs.submit import check_pools, placed, scoped_token
from orchestrator.model.states import NodeState
from policies.base import Demand

FIRST_ID = 1 << 60  # of demands that are not there
NOT_YET = "$JOB_ID"  # stands for itself: the job has no number


@dataclass(frozen=True, slots=True)
class Machines:
    """One launch as the planner would ask for it. `price` is what an hour of one costs, None where it is not known."""

    count: int
    cloud: str
    kind: str
    instance_type: str
    image: str
    probe: bool
    price: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What the job or one of its tasks asks a pool for, what it would get now, and why it would not get the rest."""

    owner: str
    after: Sequence[str]
    pool: str
    count: int
    token: str
    launches: Sequence[Machines]
    waiting: Sequence[str]


@dataclass(frozen=True, slots=True)
class Place:
    """Tasks that may run on the same nodes: how many there are now, and what would keep the tasks waiting."""

    tasks: Sequence[str]
    token: str | None
    pool: str | None
    needs: Needs
    nodes: int
    coming: int
    trouble: str | None


@dataclass(frozen=True, slots=True)
class Forecast:
    asked: Sequence[Asked]
    places: Sequence[Place]

    @property
    def launches(self) -> Iterator[Machines]:
        return (machines for asked in self.asked for machines in asked.launches)

    @property
    def cost(self) -> float:
        """An hour of all machines that would be launched and have a price."""
        return sum(machines.count * (machines.price or 0.0) for machines in self.launches)

    @property
    def unpriced(self) -> list[str]:
        return sorted({machines.instance_type for machines in self.launches if machines.price is None})


def forecast(connection: Connection, spec: JobSpec, now: datetime) -> Forecast:
    """Raises SpecError for what submission would refuse."""
    known = check_pools(connection, spec)
    wishes = list(_wishes(spec, known))
    asked: list[Asked] = []
    for pool in known.values():
        mine = [wish for wish in wishes if wish[2].pool_id == pool["id"]]
        asked += _decided(connection, pool, mine, now)
    return Forecast(asked, [_place(connection, spec, *group, asked) for group in _groups(spec).items()])


Wish = tuple[str, Sequence[str], progress.Target]


def _wishes(spec: JobSpec, known: Mapping[str, Mapping[str, Any]]) -> Iterator[Wish]:
    """Who asks for machines, after which tasks, and for which."""
    job = placed(spec.asked, spec, NOT_YET, known)
    if progress.deploys(job):
        yield "the job", (), job
    for task in spec.tasks:
        target = placed(spec.target(task), spec, NOT_YET, known)
        if task.kind != "undeploy" and progress.deploys(target):
            yield f"task {task.name}", tuple(task.needs), target


def _decided(connection: Connection, pool: Mapping[str, Any], wishes: Sequence[Wish], now: datetime) -> Iterator[Asked]:
    view = pool_view(connection, pool, now)
    demands = [_demand(FIRST_ID + i, owner, target, now) for i, (owner, _, target) in enumerate(wishes)]
    plan = planner.decide(connection, replace(view, demands=(*view.demands, *demands)), pool)
    prices = pool["prices"] or {}
    for demand, (owner, after, _) in zip(demands, wishes, strict=True):
        launches = [
            Machines(
                count=placement.count,
                cloud=placement.rung.cloud,
                kind=placement.rung.label,
                instance_type=placement.rung.instance_type,
                image=placement.rung.image,
                probe=placement.probe,
                price=prices.get(placement.rung.instance_type),
            )
            for wish, placement in plan.launches
            if wish.demand_id == demand.id
        ]
        waiting = [wait.reason for wait in plan.waits if wait.demand_id == demand.id]
        yield Asked(owner, after, pool["name"], demand.count, demand.token, launches, waiting)


def _demand(id_: int, owner: str, target: progress.Target, now: datetime) -> Demand:
    assert target.token is not None and target.count is not None, "only what deploys is asked for"
    return Demand(id_, owner, target.token, target.count, target.image, target.instance_type, now)


Group = tuple[str | None, str | None, Needs]


def _groups(spec: JobSpec) -> dict[Group, list[str]]:
    """The tasks that run somewhere, by what decides where: token, named pool, needs."""
    groups: dict[Group, list[str]] = {}
    for task in spec.tasks:
        if task.kind == "run":
            token = task.asked.token or spec.asked.token
            scoped = scoped_token(spec.client, token, NOT_YET) if token else None
            groups.setdefault((scoped, spec.target(task).pool, spec.needs_of(task)), []).append(task.name)
    return groups


def _place(connection: Connection, spec: JobSpec, group: Group, names: Sequence[str], asked: Sequence[Asked]) -> Place:
    token, pool, needs = group
    there = [node for node in nodes_for(connection, token, spec.client) if pool in (None, node.pool)]
    able = [node for node in there if lacks_of(needs, node) is None and node.state == NodeState.READY]
    coming = sum(each.count for each in asked if each.token == token and pool in (None, each.pool))
    trouble = None
    if not able and not coming:
        kind = f"with token {token}" if token else "without a token"
        trouble = f"no node {kind} is up that can run it"
        if there:
            trouble = f"none of the {len(there)} node(s) {kind} can run it: node {there[0].id} has "
            trouble += lacks_of(needs, there[0]) or f"not enrolled yet ({there[0].state})"
    return Place(names, token, pool, needs, len(able), coming, trouble)
