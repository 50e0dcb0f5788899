"""What the API shows: one shape a noun, the same in lists and alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, BeforeValidator, Field, create_model

from orchestrator.fleet.health import signals
from orchestrator.jobs.layers import Source
from orchestrator.jobs.params import EnvName, EnvValue
from orchestrator.jobs.spec import Name
from providers.base import Verdict

T = TypeVar("T")
Limit = Annotated[int, Query(ge=1, le=1000, description="most items of one page")]
Before = Annotated[
    int | None, Query(ge=1, lt=1 << 62, description="only items with a smaller id: the cursor of the last page")
]
NO_NUL = r"^[^\x00]*$"  # PostgreSQL keeps no text with one in it
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
    priority: int = Field(description="that of its file and its client together")
    dry_run: bool = Field(description="true: `sleep 1` in place of each command")
    tasks: int
    open_tasks: int
    submitted_by: str | None
    submitted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    rerun_of: int | None = Field(description="the job that it does again")
    version: str | None = Field(description="SHA-256 of its canonical job file")
    template: str | None = Field(description="the template it was launched from")
    template_version: int | None = Field(description="and the number of the version")
    template_version_id: int | None


class JobWithRunsOut(JobOut):
    runs_before: list[int] = Field(description="the jobs that it is a rerun of, the nearest first")
    reruns: list[int] = Field(description="the jobs that did it again")


class RerunIn(BaseModel):
    """Which tasks of an ended job run again; neither `from` nor `failed`: all. What succeeded else is kept."""

    model_config = {"extra": "forbid"}

    from_: Annotated[list[Annotated[str, Field(max_length=120)]], Field(alias="from", max_length=1000)] = []
    failed: bool = Field(False, description="what did not succeed, and all that needs it")
    params: dict[EnvName, EnvValue] = Field({}, description="over those of the job")


class JobParamOut(BaseModel):
    name: str
    value: str = Field(description="*** for a secret")
    secret: bool
    source: Source | None = Field(description="who gave it; null for jobs of older masters")


class JobParamsOut(BaseModel):
    precedence: list[Source] = Field(description="who is further on wins")
    items: list[JobParamOut]


class ArtifactOut(BaseModel):
    """A file that a task left; `number` is which try of its task wrote it."""

    id: int
    job_id: int
    task: str
    attempt_id: int
    number: int
    path: str = Field(description="relative to the attempt's work folder")
    size: int
    sha256: str
    stored_at: datetime


class TaskOut(BaseModel):
    id: int
    job_id: int
    name: str
    kind: str
    state: str
    reason: str | None
    token: str | None
    pool: str | None
    slots: int = Field(description="how many of its node's it takes")
    memory_mb: int | None = Field(description="memory it needs of its node")
    labels: list[str] | None = Field(description="what the pool of its node must have")
    attempts: int
    exit_code: int | None
    condition: str | None
    skipped_because: str | None = Field(description="of a skipped one: condition or upstream_failed")
    progress: float | None = Field(description="0 … 1, as it reports while it runs")
    progress_note: str | None
    values: dict[str, str] | None = Field(description="the variables that its array or matrix gave it")
    outputs: dict[str, str] | None = Field(description="what it wrote to its output file")
    node_id: int | None = Field(description="where its last attempt ran")
    attempt_id: int | None = Field(description="its last attempt, whose log is shown")
    run_after: datetime | None
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


class TaskSummaryOut(BaseModel):
    """The tasks of one name in the job file: a task by itself, or all elements of an array."""

    name: str
    tasks: int
    states: dict[str, int] = Field(description="how many are in which state")
    progress: float = Field(description="how much of them is done, 0 … 1; running ones by what they report")


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


Seconds = Annotated[int, Field(ge=5, le=86_400)]
LongSeconds = Annotated[int, Field(ge=1, le=604_800)]
Strikes = Annotated[int, Field(ge=1, le=100, description="bad signs in a row with which a node is replaced")]


Price = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
_or_empty = BeforeValidator(lambda value: value or [])
Names = Annotated[list[Name], Field(max_length=50), _or_empty]
Prices = Annotated[dict[Annotated[str, Field(max_length=100)], Price], BeforeValidator(lambda value: value or {})]


class PoolLimits(BaseModel):
    """What of a pool may be changed while it runs: its bounds, its deadlines, how many failures it bears."""

    model_config = {"extra": "forbid"}

    min_nodes: Annotated[int, Field(ge=0, le=10_000, description="nodes without a token that are kept up")] = 0
    max_nodes: Annotated[int, Field(ge=1, le=10_000)] = 10
    slots: Annotated[int, Field(ge=1, le=256, description="tasks that one node runs at a time")] = 1
    labels: Annotated[Names, Field(description="what its machines have: tasks may ask for it")] = []
    clients: Annotated[Names, Field(description="the only clients that may use it; empty: all")] = []
    prices: Annotated[Prices, Field(description="what an hour of a machine costs, by instance type")] = {}
    launch_timeout_s: Annotated[Seconds, Field(description="how long a cloud may leave a launch unanswered")] = 600
    boot_timeout_s: Annotated[Seconds, Field(description="from the machine's start to its agent's enrolment")] = 600
    enrol_timeout_s: Annotated[Seconds, Field(description="from the agent's fetch to its enrolment")] = 120
    heartbeat_timeout_s: Annotated[Seconds, Field(description="silence after which a node is lost")] = 90
    drain_timeout_s: Annotated[LongSeconds, Field(description="how long a leaving node may finish its tasks")] = 300
    terminate_timeout_s: Annotated[LongSeconds, Field(description="after it a machine that is not gone alarms")] = 900
    lease_s: Annotated[LongSeconds, Field(ge=10, description="an idle node without a master ends itself")] = 900
    cloud_strikes: Strikes = 3
    agent_strikes: Strikes = 3
    engine_strikes: Strikes = 3
    breaker_failures: Annotated[int, Field(ge=1, le=1000, description="boot failures in a row that hold a kind")] = 3
    breaker_pause_s: Annotated[LongSeconds, Field(description="how long a kind is held before a probe")] = 300
    relaunch_limit: Annotated[int, Field(ge=1, le=100_000, description="failures that hold the whole pool")] = 20
    relaunch_window_s: Annotated[LongSeconds, Field(description="… within this time")] = 3600


class PoolIn(PoolLimits):
    """A pool: machines of one cloud, with the template every launch begins from."""

    name: Name
    cloud: Name
    policy: Annotated[str, Field(pattern="^iaas$")] = "iaas"
    launch: dict[str, Any] = Field(
        default_factory=dict, description="image, instance_type, sizes, agent, rungs, and the cloud's own settings"
    )


_optional: Any = {name: (field.rebuild_annotation() | None, None) for name, field in PoolLimits.model_fields.items()}


class PoolChange(create_model("_Changes", **_optional)):  # type: ignore[misc]
    """Only what is given is changed."""

    model_config = {"extra": "forbid"}

    launch: dict[str, Any] | None = Field(None, description="the whole template, for launches from now on")
    paused: bool | None = Field(None, description="false resumes a pool; true lets it launch nothing more")


class PoolOut(PoolLimits):
    model_config = {"extra": "ignore"}

    id: int
    name: str
    cloud: str
    policy: str
    launch: dict[str, Any]
    state: str = Field(description="active, paused, frozen or deleting")
    state_reason: str | None
    nodes: dict[str, int] = Field(description="how many nodes are in which state, terminated ones left out")
    currency: str = Field(description="what prices are in, as the settings say")
    created_at: datetime


class SignalOut(BaseModel):
    """One of a node's three signals of health: of its cloud, its agent, its engine."""

    name: str
    told: str
    age_s: float | None = Field(description="how old it is; null where nothing was said yet")
    strikes: int
    most: int = Field(description="with so many strikes the node is replaced")


class EnrolmentIn(BaseModel):
    """Machines that exist already, to join a pool of a cloud that launches none."""

    model_config = {"extra": "forbid"}

    count: Annotated[int, Field(ge=1, le=1000, description="machines that may use the command, each once")] = 1
    name: Annotated[str, Field(max_length=100, pattern=r"^[\w.-]*$", description="default: that of its host")] = ""
    token: Annotated[str, Field(max_length=200)] | None = Field(
        None, description="CLIENT/TOKEN of the tasks it serves; default: tasks without a token"
    )


class EnrolmentOut(BaseModel):
    """`command` holds a secret: it works once a machine, until `expires_at`."""

    pool: str
    launch_id: int
    nodes: list[int]
    expires_at: datetime
    command: str


class NodeOut(BaseModel):
    id: int
    pool: str
    state: str
    reason: str | None
    end_reason: str | None
    token: str | None
    slots: int
    memory_mb: int | None = Field(description="what its machine has; null until its agent has said it")
    busy: int
    protected: bool
    instance_id: str | None
    address: str | None
    agent_version: str | None
    launch_id: int
    cloud: str
    kind: str = Field(description="the rung of its pool's ladder that it was launched on")
    boot_phase: str | None
    boot_phase_at: datetime | None
    reclaim_at: datetime | None = Field(description="when its cloud takes the machine back")
    signals: list[SignalOut]
    requested_at: datetime
    launched_at: datetime | None
    enrolled_at: datetime | None
    heartbeat_at: datetime | None
    terminating_at: datetime | None
    terminated_at: datetime | None

    @classmethod
    def of(cls, row: Mapping[str, Any], now: datetime) -> NodeOut:
        """From a row of `store.queries`, with its signals as they are now."""
        return cls(**row, signals=[SignalOut(**asdict(signal)) for signal in signals(row, now)])


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


class UsageOut(BaseModel):
    """How an account's calls are at this moment."""

    rate: float = Field(description="calls a second that are made at most now")
    throttled_for_s: float | None = Field(description="how long the cloud has held us below the full rate")
    under_way: int
    calls: dict[str, int] = Field(description="calls made since the master started, by verb")
    refused: int = Field(description="calls that the cloud answered with too many")
    held_back: int = Field(description="calls that were not made for that")
    last_error: str | None
    last_error_ago_s: float | None


class CloudOut(BaseModel):
    name: str
    provider: str
    limiter: str = Field(description="clouds of the same limiter share one rate limit")
    rents: bool | None = Field(description="false: its machines exist already and only join; null: not known, see trouble")
    trouble: str | None = Field(description="why it cannot be used at all; `orchestrator doctor` asks the cloud itself")
    usage: UsageOut | None


class CatalogueItemOut(BaseModel):
    """An image, a size or a location that a pool may name by its id."""

    id: str
    name: str
    detail: str


class InstanceOut(BaseModel):
    """One machine of this installation as its cloud shows it. Strangers' machines are never listed."""

    id: str
    state: str
    address: str | None
    launched_at: datetime | None
    fault: str | None
    pool: str | None = Field(description="the pool it was launched for, by its tag")
    launch: str | None = Field(description="the launch it came from, by its tag")
    node_id: int | None = Field(description="the node whose machine it is; null: none, see `orchestrator audit`")
    node_state: str | None
    tags: dict[str, str]


class ConsoleOut(BaseModel):
    node_id: int
    kept: bool = Field(description="true: kept when its boot failed; false: asked from the cloud just now")
    text: str = Field(description="empty where the cloud has none (yet)")


class DoctorFinding(BaseModel):
    about: str = Field(description="master, cloud NAME, pool NAME, or pool NAME and one of its rungs")
    subject: str
    verdict: Verdict
    told: str


class DoctorOut(BaseModel):
    healthy: bool = Field(description="nothing is wrong; there may be warnings")
    counts: dict[Verdict, int]
    findings: list[DoctorFinding]


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
