"""One exchange with an agent, in one transaction: results up, orders down. Each half may be lost and repeated.

An order counts as delivered when the agent lists its attempt as known; until then every answer carries it again, and the
agent passes over what it has. So a lost answer loses no task, and a repeated one starts none twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from sqlalchemy import bindparam, select, update

from orchestrator.agents.claims import AHEAD, Holder, Load, claim, holder, orders_for
from orchestrator.agents.results import Result, accept
from orchestrator.fleet import leaving
from orchestrator.jobs.outcomes import Artifacts, Control, Outcome
from orchestrator.jobs.params import EnvName, EnvValue
from orchestrator.model.states import AttemptState, NodeState
from orchestrator.model.tables import Attempt, Job, Task, table
from orchestrator.store.prepared import Prepared
from orchestrator.store.writer import Tx

jobs, tasks, attempts = (table(m) for m in (Job, Task, Attempt))

_live = Prepared(
    select(attempts.c.id, jobs.c.cancel_requested_at, tasks.c.slots, tasks.c.memory_mb)
    .join(tasks, tasks.c.id == attempts.c.task_id)
    .join(jobs, jobs.c.id == tasks.c.job_id)
    .where(attempts.c.node_id == bindparam("node_id"), attempts.c.state == AttemptState.RUNNING)
)

Id = Annotated[int, Field(ge=1, lt=1 << 62)]
Moment = Annotated[float, Field(ge=0, lt=1e11)]
Told = Annotated[str, Field(max_length=2000), AfterValidator(lambda text: text.replace("\0", "␀"))]
"""Free text: PostgreSQL takes no NUL, and a message it cannot take would come again for ever."""
Share = Annotated[float, Field(ge=0, le=1)]
Note = Annotated[Told, Field(max_length=300)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer agent may say more


def _storable(text: str) -> str:
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("no environment can hold it")
    return text


class ControlMessage(_Message):
    """What the job's control file asked for, as its agent understood it."""

    retry_after_s: Annotated[float, Field(ge=0, le=1e9)] | None = None
    never: bool = False
    params: Annotated[dict[EnvName, Annotated[EnvValue, AfterValidator(_storable)]], Field(max_length=1000)] | None = None
    progress: Share | None = None
    note: Note | None = None
    trouble: Annotated[Told, Field(max_length=300)] | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _or_trouble(cls, value: Any, check: ModelWrapValidatorHandler[ControlMessage]) -> ControlMessage:
        """A refused result would come again for ever; a control file that this master does not take is only passed over."""
        try:
            return check(value)
        except ValidationError:
            return cls(trouble="was not understood by the master")

    def control(self) -> Control:
        return Control(self.retry_after_s, self.never, self.params, self.trouble, self.progress, self.note)


class OutputsMessage(_Message):
    """What the task's output file said, as its agent understood it; `trouble` tells what was left out."""

    values: Annotated[dict[EnvName, Annotated[EnvValue, AfterValidator(_storable)]], Field(max_length=10_000)] = {}
    trouble: Annotated[Told, Field(max_length=300)] | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _or_trouble(cls, value: Any, check: ModelWrapValidatorHandler[OutputsMessage]) -> OutputsMessage:
        try:
            return check(value)
        except ValidationError:
            return cls(trouble="was not understood by the master")


class ArtifactsMessage(_Message):
    """What became of the artifacts that were to go up before this result."""

    told: Annotated[Told, Field(max_length=1000)]
    whole: bool


class ResultMessage(_Message):
    """How an attempt ended on the node. Times are seconds since 1970 by the node's clock."""

    attempt: Id
    outcome: Literal["exited", "timed_out", "killed", "cancelled", "returned", "lost", "start_failed"]
    exit_code: Annotated[int, Field(ge=-255, lt=1 << 31)] | None = None
    detail: Told | None = None
    log_size: Annotated[int, Field(ge=0, lt=1 << 62)] = 0
    started_at: Moment | None = None
    finished_at: Moment | None = None
    control: ControlMessage | None = None
    outputs: OutputsMessage | None = None
    artifacts: ArtifactsMessage | None = None

    def result(self) -> Result:
        asked = self.control.control() if self.control is not None else None
        kept = Artifacts(self.artifacts.told, self.artifacts.whole) if self.artifacts is not None else None
        return Result(
            attempt=self.attempt,
            outcome=Outcome(self.outcome, self.exit_code, self.detail, asked, kept),
            log_size=self.log_size,
            started_at=_time(self.started_at),
            finished_at=_time(self.finished_at),
            outputs=self.outputs.values if self.outputs is not None else None,
            outputs_trouble=self.outputs.trouble if self.outputs is not None else None,
        )


class LogChunk(_Message):
    """Bytes of an attempt's output, base64, from `offset`."""

    attempt: Id
    offset: Annotated[int, Field(ge=0, lt=1 << 62)]
    data: Annotated[str, Field(max_length=1 << 20)]


class HealthMessage(_Message):
    """One check of the node's engine. An agent that hears no answer says it again: `check` counts them."""

    ok: bool
    trouble: Annotated[Told, Field(max_length=500)] = ""
    check: Annotated[int, Field(ge=0, lt=1 << 62)]


class ProgressMessage(_Message):
    """What a running attempt reports: how far it is, and what it is at."""

    attempt: Id
    progress: Share | None = None
    note: Note | None = None


class SyncMessage(_Message):
    """What an agent says at each call. `known` are all attempts it holds; `free` how many more it would take;
    `stopping` and `draining` what it was told already, so that this is no news to it. `health`, `progress` and
    `reclaim_at` (seconds since 1970) come only when there is something new of them; agents of protocol 1 have none."""

    wait_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    free: Annotated[int, Field(ge=0, le=1000)] = 0
    known: Annotated[list[Id], Field(max_length=1000)] = []
    stopping: Annotated[list[Id], Field(max_length=1000)] = []
    draining: bool = False
    results: Annotated[list[ResultMessage], Field(max_length=1000)] = []
    logs: Annotated[list[LogChunk], Field(max_length=1000)] = []
    progress: Annotated[list[ProgressMessage], Field(max_length=1000)] = []
    health: HealthMessage | None = None
    reclaim_at: Moment | None = None


@dataclass(slots=True)
class Answer:
    """What the agent is told. `stop`: attempts to end, with the reason."""

    orders: list[dict[str, Any]] = field(default_factory=list)
    stop: dict[int, str] = field(default_factory=dict)
    acknowledged: list[int] = field(default_factory=list)
    draining: bool = False
    gone: bool = False

    def is_news(self, message: SyncMessage) -> bool:
        """Whether it says anything that the agent does not know."""
        if self.orders or self.acknowledged or self.gone or (self.draining and not message.draining):
            return True
        return bool(self.stop.keys() - set(message.stopping))


def exchange(tx: Tx, node_id: int, message: SyncMessage) -> Answer:
    """Take what came up, and find what goes down."""
    node = holder(tx, node_id)
    if node.state == NodeState.TERMINATED:
        return Answer(gone=True)
    if message.results:
        accept(tx, node_id, [item.result() for item in message.results])
    if message.progress:
        _note_progress(tx, node_id, message.progress)
    reported = [item.attempt for item in message.results]
    answer = Answer(acknowledged=reported, draining=node.state != NodeState.READY)
    _compare(tx, node, message, set(reported), answer)
    if node.state == NodeState.DRAINING:
        leaving.finish(tx, node_id)
    return answer


def _note_progress(tx: Tx, node_id: int, reports: list[ProgressMessage]) -> None:
    """Only of the node's own live attempts; no event tells of it, for there may be one a second of each task."""
    for report in reports:
        mine = (attempts.c.id == report.attempt, attempts.c.node_id == node_id, attempts.c.state == AttemptState.RUNNING)
        task_id = select(attempts.c.task_id).where(*mine).scalar_subquery()
        said = {"progress": report.progress, "progress_note": report.note}
        tx.connection.execute(update(tasks).where(tasks.c.id == task_id).values(said))


def _compare(tx: Tx, node: Holder, message: SyncMessage, reported: set[int], answer: Answer) -> None:
    """The node's live attempts against what its agent holds: deliver again, stop, and claim into what is free."""
    running = _live.rows(tx.connection, {"node_id": node.id})
    live = {row.id: row.cancel_requested_at for row in running}
    known = set(message.known) - reported
    answer.stop |= dict.fromkeys(known - live.keys(), "fenced")
    answer.stop |= {id_: "cancelled" for id_, asked in live.items() if asked is not None}
    undelivered = sorted(live.keys() - known)
    if undelivered:
        answer.orders += orders_for(tx, node, undelivered)
    load = Load.of(running)
    coming = sum(row.slots for row in running if row.id not in known)
    ahead = 0 if load.sized else AHEAD
    wanted = min(message.free - coming, node.slots + ahead - load.slots)
    answer.orders += claim(tx, node, wanted, load)


def _time(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None
