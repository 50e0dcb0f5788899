"""Tables. States are columns of text whose steps `states` draws; "later" is a time, "please stop" is a time, why is a
`reason`. All times are aware UTC; durations carry their unit last (`boot_timeout_s`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    desc,
    false,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from orchestrator.model.states import AttemptState, JobState, LaunchState, NodeState, TaskState


class _SqliteMoment(sqlite.DATETIME):
    """SQLAlchemy's own text form, by the C functions of `datetime`: every event and state change binds several."""

    def bind_processor(self, dialect: Dialect) -> Any:
        return _text_of_moment

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        return _moment_of_text


@lru_cache(maxsize=64)  # all rows of a transaction have its one moment
def _text_of_moment(value: datetime | None) -> str | None:
    if value is None:
        return None
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def _moment_of_text(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value).replace(tzinfo=UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC on both databases; naive values are refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return _SqliteMoment() if dialect.name == "sqlite" else DateTime(timezone=True)  # type: ignore[no-untyped-call]

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"naive time {value!r}: use an aware one in UTC")
        return value


def _id() -> Any:
    # SQLite numbers only columns declared INTEGER; PostgreSQL's INTEGER would run out of events in some weeks.
    column = Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True)
    return Field(default=None, sa_column=column)


def _number(*, nullable: bool = True) -> Any:
    """An id of a row that may be gone: no reference."""
    return Field(default=None, sa_column=Column(BigInteger(), nullable=nullable))


def _time(*, index: bool = False, nullable: bool = True) -> Any:
    return Field(default=None, sa_column=Column(UtcDateTime(), nullable=nullable, index=index))


def _reference(target: str, *, index: bool = False, nullable: bool = True) -> Any:
    return Field(default=None, sa_column=Column(ForeignKey(target), nullable=nullable, index=index))


def _json(nullable: bool = False) -> Any:
    column = Column(JSON(none_as_null=nullable), nullable=nullable)
    return Field(default=None, sa_column=column) if nullable else Field(default_factory=dict, sa_column=column)


def _index_of_set(name: str, column: str, *more: str) -> Index:
    """Of the rows alone in which the column is set: the others, which are most, cost nothing."""
    only = text(f"{column} IS NOT NULL")
    return Index(name, column, *more, sqlite_where=only, postgresql_where=only)


def _from_database(default: Any, kind: Any) -> Any:
    """A column that inserts on the hot path leave to the database's own default."""
    return Field(default=default, sa_column=Column(kind, nullable=False, server_default=str(default)))


def _text(nullable: bool = True) -> Any:
    return Field(default=None if nullable else "", sa_column=Column(Text, nullable=nullable))


class Meta(SQLModel, table=True):
    """Facts of this installation, by name: its id, which every instance in every cloud carries as a tag."""

    key: str = Field(primary_key=True)
    value: str


class Client(SQLModel, table=True):
    """A tenant: owns templates, parameters and jobs, and the tokens its jobs and nodes carry.

    `weight` is its share of nodes that several clients use; `priority` is added to that of its jobs."""

    id: int = _id()
    name: str = Field(unique=True)
    weight: float = 1.0
    priority: int = 0
    notify: list[Any] | None = _json(nullable=True)
    created_at: datetime = _time(nullable=False)


class ClientParam(SQLModel, table=True):
    """A parameter that all jobs of a client have. A secret one's `value` is encrypted."""

    __tablename__ = "client_param"
    __table_args__ = (UniqueConstraint("client_id", "name"),)

    id: int = _id()
    client_id: int = _reference("client.id", nullable=False)
    name: str
    value: str = _text(nullable=False)
    secret: bool = False
    updated_at: datetime = _time(nullable=False)
    updated_by: str


class Template(SQLModel, table=True):
    """A named job file of a client. `number` is that of its current version; committed versions never change."""

    id: int = _id()
    name: str = Field(unique=True)
    client_id: int = _reference("client.id", nullable=False)
    number: int
    created_at: datetime = _time(nullable=False)
    deleted_at: datetime | None = _time()


class TemplateVersion(SQLModel, table=True):
    """A job file as it was committed: `source` as it was written, `document` canonical, `sha256` of the canonical one."""

    __tablename__ = "template_version"
    __table_args__ = (UniqueConstraint("template_id", "number"),)

    id: int = _id()
    template_id: int = _reference("template.id", nullable=False)
    number: int
    sha256: str
    document: dict[str, Any] = _json()
    source: str = _text(nullable=False)
    note: str = _text(nullable=False)
    committed_by: str
    committed_at: datetime = _time(nullable=False)


class ApiToken(SQLModel, table=True):
    """A person's or a program's key to the API, kept as a hash. `client_id` limits it to one client."""

    __tablename__ = "api_token"

    id: int = _id()
    name: str = Field(unique=True)
    hash: str = Field(unique=True)
    role: str = "admin"
    client_id: int | None = _number()
    user_id: int | None = _number()
    created_at: datetime = _time(nullable=False)
    expires_at: datetime | None = _time()
    revoked_at: datetime | None = _time()


class User(SQLModel, table=True):
    """A person. `client_id` limits what they see and do to one client. (`user` is a word of SQL.)"""

    __tablename__ = "person"

    id: int = _id()
    name: str = Field(unique=True)
    password_hash: str
    role: str
    client_id: int | None = _reference("client.id")
    must_change_password: bool = False
    created_at: datetime = _time(nullable=False)
    disabled_at: datetime | None = _time()


class Login(SQLModel, table=True):
    """A person at a browser. The cookie's value is kept as a hash."""

    id: int = _id()
    hash: str = Field(unique=True)
    user_id: int = _reference("person.id", nullable=False, index=True)
    csrf: str
    created_at: datetime = _time(nullable=False)
    expires_at: datetime = _time(nullable=False)


class Pool(SQLModel, table=True):
    """Machines of one cloud under one policy within bounds. `launch` is the template every launch begins from.

    `labels` say what its machines have, `clients` who may use them (None: all), `prices` what an hour costs by type."""

    id: int = _id()
    name: str = Field(unique=True)
    cloud: str
    policy: str = "iaas"
    min_nodes: int = 0
    max_nodes: int = 10
    slots: int = 1
    launch: dict[str, Any] = _json()
    labels: list[str] | None = _json(nullable=True)
    clients: list[str] | None = _json(nullable=True)
    prices: dict[str, float] | None = _json(nullable=True)
    boot_timeout_s: int = 600
    heartbeat_timeout_s: int = 90
    drain_timeout_s: int = 300
    lease_s: int = 900
    launch_timeout_s: int = 600
    enrol_timeout_s: int = 120
    terminate_timeout_s: int = 900
    cloud_strikes: int = 3
    agent_strikes: int = 3
    engine_strikes: int = 3
    breaker_failures: int = 3
    breaker_pause_s: int = 300
    relaunch_limit: int = 20
    relaunch_window_s: int = 3600
    created_at: datetime = _time(nullable=False)
    paused_at: datetime | None = _time()
    paused_reason: str | None = _text()
    frozen_reason: str | None = _text()
    deleted_at: datetime | None = _time()
    gone_at: datetime | None = _time()


class Job(SQLModel, table=True):
    """One run of a job file. Its state is derived from its tasks; `open_tasks` counts those not ended yet.

    `priority` is that of its file and its client together; `turn` where its client's next task is to stand (see `Task`).
    `version` is the SHA-256 of its canonical job file, `template_version_id` the committed one it was launched from,
    `rerun_of` the job it does again. In a `dry_run` every command is replaced by a short sleep."""

    __table_args__ = (
        _index_of_set("ix_job_rerun_of", "rerun_of"),
        Index(
            "ix_job_turn", "client_id", "priority", "id", sqlite_where=text("turn > 0"), postgresql_where=text("turn > 0")
        ),
    )

    id: int = _id()
    name: str
    client_id: int = _reference("client.id", nullable=False)
    spec: dict[str, Any] = _json()
    params: dict[str, Any] = _json()
    version: str | None = None
    template_version_id: int | None = _number()
    rerun_of: int | None = _number()
    turn: float = _from_database(0, Float)
    dry_run: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))
    token: str | None = None
    operation: str | None = None
    priority: int = 0
    state: str = Field(default=JobState.QUEUED, index=True)
    reason: str | None = _text()
    tasks: int = 0
    open_tasks: int = 0
    idempotency_key: str | None = Field(default=None, unique=True)
    submitted_by: str | None = None
    submitted_at: datetime = _time(nullable=False)
    started_at: datetime | None = _time()
    finished_at: datetime | None = _time()
    cancel_requested_at: datetime | None = _time()


class Task(SQLModel, table=True):
    """One unit of a job's graph, on one node. `waiting_on` counts the needs not done yet.

    `turn` orders tasks of one priority, so that several clients alternate by their weights (`jobs.turns`). `condition` is
    its `when:`, `values` what its matrix gave this one, `outputs` what it wrote for later ones, `has_inputs` says that its
    needs wrote some, `progress` (0 … 1) is what it reports. `skipped_because`: `condition` or `upstream_failed`."""

    __table_args__ = (
        Index("ix_task_queue", "state", "token", desc("priority"), "turn", "id"),
        Index("ix_task_job", "job_id", "state"),
        _index_of_set("ix_task_run_after", "run_after"),
    )

    id: int = _id()
    job_id: int = _reference("job.id", nullable=False)
    name: str
    kind: str = "run"
    spec: dict[str, Any] = _json()
    token: str | None = None
    pool_id: int | None = _reference("pool.id")
    params: dict[str, Any] | None = _json(nullable=True)
    values: dict[str, Any] | None = _json(nullable=True)
    condition: str | None = _text()
    outputs: dict[str, Any] | None = _json(nullable=True)
    has_inputs: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))
    skipped_because: str | None = None
    progress: float | None = None
    progress_note: str | None = None
    slots: int = _from_database(1, Integer)
    memory_mb: int | None = None
    labels: list[str] | None = _json(nullable=True)
    turn: float = _from_database(0, Float)
    priority: int = 0
    state: str = TaskState.WAITING
    reason: str | None = _text()
    waiting_on: int = 0
    attempts: int = 0
    job_failures: int = 0
    infrastructure_failures: int = 0
    run_after: datetime | None = _time()
    queued_at: datetime | None = _time()
    started_at: datetime | None = _time()
    finished_at: datetime | None = _time()
    exit_code: int | None = None


class TaskNeed(SQLModel, table=True):
    """An edge of a job's graph: `task_id` starts only after `needs_id`."""

    __tablename__ = "task_need"

    task_id: int = Field(sa_column=Column(ForeignKey("task.id"), primary_key=True))
    needs_id: int = Field(sa_column=Column(ForeignKey("task.id"), primary_key=True, index=True))


class Attempt(SQLModel, table=True):
    """One try of a task. Its id is the fencing token: a result for another attempt is stored as late, never accepted."""

    __table_args__ = (Index("ix_attempt_node", "node_id", "state"),)

    id: int = _id()
    task_id: int = _reference("task.id", nullable=False, index=True)
    node_id: int = _reference("node.id", nullable=False)
    number: int
    state: str = AttemptState.RUNNING
    reason: str | None = _text()
    exit_code: int | None = None
    log_size: int = Field(default=0, sa_column=Column(BigInteger(), nullable=False))
    claimed_at: datetime = _time(nullable=False)
    started_at: datetime | None = _time()
    finished_at: datetime | None = _time()


class Artifact(SQLModel, table=True):
    """A file that a task declared, as it was when the attempt ended. `path` is relative to the attempt's work folder."""

    __table_args__ = (UniqueConstraint("attempt_id", "path"),)

    id: int = _id()
    job_id: int = _reference("job.id", nullable=False, index=True)
    task_id: int = _reference("task.id", nullable=False)
    attempt_id: int = _reference("attempt.id", nullable=False)
    path: str = _text(nullable=False)
    size: int = Field(sa_column=Column(BigInteger(), nullable=False))
    sha256: str
    stored_at: datetime = _time(nullable=False)


class Notification(SQLModel, table=True):
    """One message about a job's end to one place: sent once it was answered for, tried again until it is given up."""

    id: int = _id()
    job_id: int = _reference("job.id", nullable=False, index=True)
    target: dict[str, Any] = _json()
    state: str = Field(default="pending", index=True)
    reason: str | None = _text()
    tries: int = 0
    run_after: datetime | None = _time()
    created_at: datetime = _time(nullable=False)
    sent_at: datetime | None = _time()


class Deployment(SQLModel, table=True):
    """Machines a job or a task asked for: so many with this token, from when it is opened until it is closed.

    `waiting` says why some of them cannot be had now; `relaunches` how many failing ones are replaced."""

    id: int = _id()
    job_id: int = _reference("job.id", nullable=False, index=True)
    task_id: int | None = _reference("task.id")
    pool_id: int = _reference("pool.id", nullable=False, index=True)
    token: str
    machines: int
    relaunches: int = 10
    image: str | None = None
    instance_type: str | None = None
    waiting: str | None = _text()
    opened_at: datetime = _time(nullable=False)
    closed_at: datetime | None = _time()
    reason: str | None = _text()


class Launch(SQLModel, table=True):
    """One intent to start so many machines. Its id is the cloud's idempotency token.

    `template` is what was settled for it: the pool's launch template with the rung's own values over it. `kind` names all
    launches alike (cloud, image, type, template), and so what a `Hold` holds. A `probe` tries a held kind again."""

    id: int = _id()
    pool_id: int = _reference("pool.id", nullable=False)
    cloud: str
    kind: str
    label: str
    template: dict[str, Any] = _json()
    probe: bool = False
    deployment_id: int | None = _reference("deployment.id")
    state: str = Field(default=LaunchState.REQUESTED, index=True)
    reason: str | None = _text()
    machines: int
    image: str
    instance_type: str
    tries: int = 0
    run_after: datetime | None = _time()
    requested_at: datetime = _time(nullable=False)
    launched_at: datetime | None = _time()


class Hold(SQLModel, table=True):
    """One kind of launch in one pool that is not tried for a while: no capacity, a quota, or machines that do not boot.

    After `until` one launch tries it again, the probe; its success removes the hold."""

    __table_args__ = (UniqueConstraint("pool_id", "kind"),)

    id: int = _id()
    pool_id: int = _reference("pool.id", nullable=False)
    kind: str
    label: str
    cause: str
    reason: str = _text(nullable=False)
    failures: int = 0
    since: datetime = _time(nullable=False)
    until: datetime = _time(nullable=False)
    probe_launch_id: int | None = _number()


class Node(SQLModel, table=True):
    """Our intent for one machine. `instance_id` is what the cloud gave for it; `reason` says why it is in its state,
    `end_reason` in one word why it had to go."""

    __table_args__ = (Index("ix_node_pool", "pool_id", "state"),)

    id: int = _id()
    pool_id: int = _reference("pool.id", nullable=False)
    launch_id: int = _reference("launch.id", nullable=False, index=True)
    deployment_id: int | None = _reference("deployment.id", index=True)
    state: str = NodeState.REQUESTED
    reason: str | None = _text()
    token: str | None = None
    slots: int = 1
    memory_mb: int | None = None
    instance_id: str | None = Field(default=None, unique=True)
    address: str | None = None
    protected: bool = False
    boot_phase: str | None = None
    boot_phase_at: datetime | None = _time()
    cloud_state: str | None = None
    cloud_trouble: str | None = _text()
    cloud_strikes: int = 0
    engine_trouble: str | None = _text()
    engine_at: datetime | None = _time()
    engine_strikes: int = 0
    reclaim_at: datetime | None = _time()
    console: str | None = _text()
    credential_hash: str | None = Field(default=None, unique=True)
    agent_version: str | None = None
    requested_at: datetime = _time(nullable=False)
    launched_at: datetime | None = _time()
    seen_at: datetime | None = _time()
    enrolled_at: datetime | None = _time()
    heartbeat_at: datetime | None = _time()
    draining_at: datetime | None = _time()
    terminating_at: datetime | None = _time()
    terminate_asked_at: datetime | None = _time()
    terminate_tries: int = 0
    terminated_at: datetime | None = _time()
    end_reason: str | None = None


_REQUEST = text("subject = 'request'")


class Event(SQLModel, table=True):
    """Append-only: what happened to what, why, who did it, when."""

    __table_args__ = (
        Index("ix_event_job", "job_id", "id"),
        _index_of_set("ix_event_node", "node_id", "id"),
        _index_of_set("ix_event_pool", "pool_id", "id"),
        Index("ix_event_request", "id", sqlite_where=_REQUEST, postgresql_where=_REQUEST),
    )

    id: int = _id()
    at: datetime = _time(nullable=False)
    subject: str
    subject_id: int = _number(nullable=False)
    from_state: str | None = None
    to_state: str | None = None
    reason: str
    detail: str | None = _text()
    actor: str = "master"
    job_id: int | None = _number()
    task_id: int | None = _number()
    attempt_id: int | None = _number()
    node_id: int | None = _number()
    pool_id: int | None = _number()


def table(model: type[SQLModel]) -> Table:
    """The Core table behind a model, for batches on the hot path."""
    return model.__table__  # type: ignore[attr-defined, no-any-return]
