"""What the API shows: one shape a noun, the same in lists and alone."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from orchestrator.jobs.spec import Name

T = TypeVar("T")
Limit = Annotated[int, Query(ge=1, le=1000, description="most items of one page")]
Before = Annotated[
    int | None, Query(ge=1, lt=1 << 62, description="only items with a smaller id: the cursor of the last page")
]
RowId = Annotated[int, Field(ge=1, lt=1 << 62)]


class Page(BaseModel, Generic[T]):
    """Newest first. `next` is the `before` of the next page, null at the end."""

    items: list[T]
    next: int | None = None


class JobOut(BaseModel):
    id: int
    name: str
    client: str
    state: str
    reason: str | None
    waiting: str | None = Field(description="why machines that it asked for cannot be had now")
    token: str | None
    priority: int
    tasks: int
    open_tasks: int
    submitted_by: str | None
    submitted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None


class TaskOut(BaseModel):
    id: int
    job_id: int
    name: str
    kind: str
    state: str
    reason: str | None
    token: str | None
    pool: str | None
    attempts: int
    exit_code: int | None
    node_id: int | None = Field(description="where its last attempt ran")
    attempt_id: int | None = Field(description="its last attempt, whose log is shown")
    run_after: datetime | None
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


class AttemptOut(BaseModel):
    """One try of a task. `claimed_at` is the master's clock, the other times are the node's."""

    id: int
    task_id: int
    task: str
    number: int
    node_id: int
    state: str
    reason: str | None
    exit_code: int | None
    log_size: int
    claimed_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class PoolIn(BaseModel):
    """A pool: machines of one cloud, with the template every launch begins from."""

    model_config = {"extra": "forbid"}

    name: Name
    cloud: Name
    policy: Annotated[str, Field(pattern="^iaas$")] = "iaas"
    min_nodes: Annotated[int, Field(ge=0, le=10_000, description="nodes without a token that are kept up")] = 0
    max_nodes: Annotated[int, Field(ge=1, le=10_000)] = 10
    slots: Annotated[int, Field(ge=1, le=256, description="tasks that one node runs at a time")] = 1
    launch: dict[str, Any] = Field(description="image, instance_type, sizes, agent, and the cloud's own settings")
    boot_timeout_s: Annotated[int, Field(ge=5, le=86_400)] = 600
    heartbeat_timeout_s: Annotated[int, Field(ge=5, le=86_400)] = 90
    drain_timeout_s: Annotated[int, Field(ge=1, le=604_800)] = 300
    lease_s: Annotated[int, Field(ge=10, le=604_800)] = 900


class PoolChange(BaseModel):
    """Only what is given is changed."""

    model_config = {"extra": "forbid"}

    min_nodes: Annotated[int, Field(ge=0, le=10_000)] | None = None
    max_nodes: Annotated[int, Field(ge=1, le=10_000)] | None = None
    paused: bool | None = Field(None, description="false resumes a pool; true lets it launch nothing more")


class PoolOut(BaseModel):
    id: int
    name: str
    cloud: str
    policy: str
    min_nodes: int
    max_nodes: int
    slots: int
    launch: dict[str, Any]
    boot_timeout_s: int
    heartbeat_timeout_s: int
    drain_timeout_s: int
    lease_s: int
    state: str = Field(description="active, paused, frozen or deleting")
    state_reason: str | None
    nodes: dict[str, int] = Field(description="how many nodes are in which state, terminated ones left out")
    created_at: datetime


class NodeOut(BaseModel):
    id: int
    pool: str
    state: str
    reason: str | None
    end_reason: str | None
    token: str | None
    slots: int
    busy: int
    protected: bool
    instance_id: str | None
    address: str | None
    agent_version: str | None
    launch_id: int
    requested_at: datetime
    launched_at: datetime | None
    enrolled_at: datetime | None
    heartbeat_at: datetime | None
    terminating_at: datetime | None
    terminated_at: datetime | None


class EventOut(BaseModel):
    id: int
    at: datetime
    subject: str
    subject_id: int
    from_state: str | None
    to_state: str | None
    reason: str
    detail: str | None
    actor: str
    job_id: int | None
    task_id: int | None
    attempt_id: int | None
    node_id: int | None
    pool_id: int | None


class ExplanationOut(BaseModel):
    subject: str
    state: str
    sentences: list[str]
    next: str


class SubmittedOut(BaseModel):
    id: int
    repeated: bool = Field(description="true where this idempotency key was used before: nothing new was created")


class CancelOut(BaseModel):
    id: int
    cancelling: bool = Field(description="false where the job had ended already")


class Finding(BaseModel):
    cloud: str
    machine: str | None
    cloud_says: str
    node: int | None
    we_say: str
    trouble: str


class AuditOut(BaseModel):
    agrees: bool
    alive: int
    accounted: int
    unreachable: dict[str, str]
    findings: list[Finding]
