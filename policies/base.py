"""What a policy sees and what it says. Both are frozen; `decide(view) -> decision` touches no clock, database or cloud.

The planner, not the policy, holds the caps and refuses to release what is busy or protected: a policy says what it wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Demand:
    """Machines asked for: `count` with this token until the asking is closed. `id` is the deployment's."""

    id: int
    owner: str
    token: str
    count: int
    image: str | None
    instance_type: str | None
    since: datetime


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node that is not terminated. `on_its_way` nodes are supply or will be; the others only leave."""

    id: int
    state: str
    on_its_way: bool
    token: str | None
    demand_id: int | None
    busy: bool
    protected: bool
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class Failure:
    """A node that ended before it was of use, lately: boot time-outs, refusals, lost machines."""

    demand_id: int | None
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool at one moment. `nodes` are all that are not terminated; `failures` those of the pool's window, an hour."""

    now: datetime
    name: str
    min_nodes: int
    max_nodes: int
    demands: Sequence[Demand] = ()
    nodes: Sequence[NodeView] = ()
    failures: Sequence[Failure] = ()


@dataclass(frozen=True, slots=True)
class LaunchWish:
    """Start `count` machines for this demand (None: for the pool's floor), and why."""

    count: int
    reason: str
    demand_id: int | None = None
    token: str | None = None
    image: str | None = None
    instance_type: str | None = None


@dataclass(frozen=True, slots=True)
class ReleaseWish:
    """Let this node go, and why."""

    node_id: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Something wanted that cannot be had now, for whom, and why: what `explain` tells."""

    reason: str
    demand_id: int | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    launches: Sequence[LaunchWish] = field(default=())
    releases: Sequence[ReleaseWish] = field(default=())
    waits: Sequence[Wait] = field(default=())


class Policy(Protocol):
    def __call__(self, view: PoolView) -> Decision: ...
