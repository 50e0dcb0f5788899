"""A master: the real launcher, watcher, reaper, planner, deadlines and exchange, in a process that dies at any point."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine

from orchestrator.agents.exchange import Answer, LogChunk, SyncMessage, exchange
from orchestrator.agents.refusals import Refusals
from orchestrator.agents.sessions import Session, Sessions
from orchestrator.clock import SteadyClock
from orchestrator.clouds import Clouds
from orchestrator.files.local import LocalLogs
from orchestrator.fleet import deadlines, planner, signals
from orchestrator.fleet.enrolment import Enrol, Refused, enrol
from orchestrator.fleet.launcher import Launcher
from orchestrator.fleet.reaper import Reaper
from orchestrator.fleet.secrets import enrolment_secret
from orchestrator.fleet.watcher import Watcher
from orchestrator.jobs.due import wake_due
from orchestrator.model.states import NodeState
from orchestrator.settings import CloudSettings
from orchestrator.simulation.cloud import VISIBILITY_S, SimulatedCloud, user_data
from orchestrator.simulation.database import INSTALLATION, raw
from orchestrator.simulation.line import Call
from orchestrator.simulation.plan import Faults
from orchestrator.simulation.world import Died, Process, Signal, World
from orchestrator.store.doors import StateConflict
from orchestrator.store.trouble import CommitUnknown, Full, StoreTrouble, Unavailable
from orchestrator.store.writer import EventRow, Queued, Tx, Writer
from providers.fake import FakeProvider

T = TypeVar("T")
KEY = b"k" * 32
ORPHAN_GRACE_S = 60.0
LOOK_S = 60.0
WATCH_FAST_S = 30.0
LOG_LIMIT = 10_000
NO_MORE = 1 << 61
# The steps, and what must be there for a look to find anything to do.
STEPS = {
    "planner": "SELECT 1 FROM pool WHERE min_nodes > 0 OR EXISTS (SELECT 1 FROM deployment WHERE closed_at IS NULL)"
    " OR EXISTS (SELECT 1 FROM node WHERE state <> 'terminated')",
    "launcher": "SELECT 1 FROM launch WHERE state IN ('requested', 'launching')",
    "watcher": "SELECT 1 FROM node WHERE state <> 'terminated'",
    "reaper": "SELECT 1 FROM node WHERE state = 'terminating'",
    "due": "SELECT 1 FROM task WHERE state = 'queued' AND run_after IS NOT NULL",
    "deadlines": "SELECT 1 FROM node WHERE state IN ('booting', 'ready', 'draining')",
}


class SimulatedClouds(Clouds):
    """The configured clouds, all of them made already."""

    def __init__(self, clouds: Mapping[str, SimulatedCloud]) -> None:
        super().__init__({name: CloudSettings(provider="fake") for name in clouds}, INSTALLATION)
        self._providers = {name: FakeProvider(cloud, INSTALLATION) for name, cloud in clouds.items()}


class MortalWriter(Writer):
    """The one writer, committing where it stands; its process may die right before a commit and right after it, the
    database may not take it, and the answer to it may be lost: then nobody is told of its events, either."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime], name: str, faults: Faults, base: Base) -> None:
        super().__init__(engine, clock, inline=True)
        self._name = name
        self._faults = faults
        self._base = base

    def submit(self, work: Callable[[Tx], T]) -> Future[T]:
        if self._base.is_away():
            raise Unavailable("the database is locked by another program")
        if self._base.disk_is_full():
            raise Full("the disk of the database is full")

        def mortal(tx: Tx) -> T:
            answer = work(tx)
            if self._faults.strikes("master dies before a commit", self._name):
                raise Died
            if self._faults.strikes("commit fails", self._name):
                raise Unavailable("the database did not take it")
            return answer

        if self._faults.strikes("answer to a commit lost", self._name):
            listeners, self._listeners = self._listeners, []
            try:
                super().submit(mortal).result()
            finally:
                self._listeners = listeners
            raise CommitUnknown("the database went away while it committed")
        future = super().submit(mortal)
        if self._faults.strikes("master dies after a commit", self._name):
            raise Died
        return future


class Base:
    """What the masters have in common, and what outlives them."""

    def __init__(
        self, engine: Engine, world: World, faults: Faults, clouds: Mapping[str, SimulatedCloud], room: Path
    ) -> None:
        self.engine = engine
        self.world = world
        self.faults = faults
        self.clouds = clouds
        self.logs = LocalLogs(room / "logs", LOG_LIMIT)
        self.away_until = -1.0  # the database
        self.full_until = -1.0  # the disk of it and of the logs
        self.defects: list[str] = []
        self.enrolled: list[tuple[int, str, str]] = []  # (node, machine, credential), as masters let them in
        self._cursor = raw(engine).cursor()
        self.planned = 0  # steps of the planner carried out to their end

    def has_work_for(self, step: str) -> bool:
        """Whether a look could find anything to do. Asked past everything: looks at nothing would cost most of the time."""
        if step == "watcher" and any(cloud.existing(INSTALLATION) for cloud in self.clouds.values()):
            return True
        return self._cursor.execute(STEPS[step]).fetchone() is not None

    def last_moment(self) -> datetime | None:
        """When the last event was: a master's clock does not go on before it."""
        row = self._cursor.execute("SELECT at FROM event ORDER BY id DESC LIMIT 1").fetchone()
        return datetime.fromisoformat(row[0]).replace(tzinfo=UTC) if row else None

    def is_away(self) -> bool:
        return self.world.now < self.away_until

    def disk_is_full(self) -> bool:
        return self.world.now < self.full_until


class _Turns(Executor):
    """Work given to "another thread" gets a turn of its own."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        def run() -> None:
            try:
                work(*arguments)
            except StoreTrouble as trouble:  # a pool keeps it in the future, where nobody looks
                self._process.world.note(self._process.name, str(trouble))

        self._process.spawn(run)
        return Future()


class SimulatedMaster:
    """One life of a master. The next one is another object on the same base."""

    def __init__(self, name: str, base: Base, clock_offset_s: float) -> None:
        self._base = base
        self._world = world = base.world
        self.name = name
        self.process = Process(world, name)
        self.clock_offset_s = clock_offset_s  # of the host's clock
        self.clock = SteadyClock(self._wall_s, lambda: world.now)
        if (last := base.last_moment()) is not None:
            self.clock.not_before(last)
        self.writer = MortalWriter(base.engine, self.clock, name, base.faults, base)
        self.writer.listen(self._committed)
        self._sessions = Sessions(base.engine)
        clouds = SimulatedClouds(base.clouds)
        self._launcher = Launcher(
            self.writer, clouds, INSTALLATION, self._user_data, VISIBILITY_S, executor=_Turns(self.process)
        )
        self._watcher = Watcher(
            self.writer,
            clouds,
            self.clock,
            installation=INSTALLATION,
            visibility_s=VISIBILITY_S,
            orphan_grace_s=ORPHAN_GRACE_S,
        )
        self._reaper = Reaper(self.writer, clouds)
        self._refusals = Refusals()
        self._listening_since = self.clock()
        self._spared = False
        self._wakes = {name: Signal(world) for name in STEPS}
        self._waiting: dict[int, _Waiter] = {}
        self._open: dict[Call, None] = {}
        self.process.when_dead.append(self._break_calls)
        for step in STEPS:
            self.process.spawn(partial(self._repeat, step, getattr(self, f"_{step}_step")))

    def _wall_s(self) -> float:
        return self._world.moment(self.clock_offset_s).timestamp()

    def call(self, work: Callable[[Tx], object], done: Callable[[], None]) -> None:
        """A person's call of the API: `done` hears that it was done, unless the master dies first or cannot do it."""

        def serve() -> None:
            try:
                self.writer.write(work)
            except StoreTrouble as trouble:
                self._world.note(self.name, str(trouble))
            else:
                done()

        self.process.spawn(serve)

    # steps

    def _repeat(self, name: str, step: Callable[[], float | None]) -> None:
        """What `fleet.loops.Loop` does on a thread."""
        while True:
            next_s = None
            try:
                if self._base.has_work_for(name):
                    next_s = step()
            except StoreTrouble as trouble:
                self._world.note(self.name, f"{name}: {trouble}")
            except StateConflict as conflict:
                self._world.note(self.name, f"{name}: {conflict}")
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what the simulation looks for
                self._base.defects.append(f"{name} of {self.name} raised {type(error).__name__}: {error}")
            self._world.sleep(0.1)
            self._wakes[name].wait(LOOK_S if next_s is None else max(0.0, min(next_s, LOOK_S)))

    def _planner_step(self) -> None:
        self._spared = self.writer.write(planner.plan)
        self._base.planned += 1

    def _launcher_step(self) -> float | None:
        return self._launcher.step()

    def _watcher_step(self) -> float | None:
        self._watcher.step()
        return WATCH_FAST_S if self._base.has_work_for("launcher") or self._base.has_work_for("reaper") else None

    def _reaper_step(self) -> None:
        self._reaper.step()

    def _due_step(self) -> float | None:
        return self.writer.write(wake_due)

    def _deadlines_step(self) -> float:
        heard = self._sessions.flush()
        self.writer.write(lambda tx: deadlines.keep(tx, heard, self._listening_since))
        return LOOK_S / 2

    def _user_data(self, launch_id: int, pool: Mapping[str, Any], _limit: int) -> bytes:
        return user_data(enrolment_secret(KEY, INSTALLATION, launch_id), pool["lease_s"])

    def _committed(self, events: Sequence[EventRow], queued: Queued) -> None:
        """Whoever is concerned looks at once, as in `orchestrator.app`."""
        for event in events:
            subject, to = event["subject"], event["to_state"]
            told = f"{event['from_state'] or ''}→{to}" if to else ""
            self._world.note(self.name, f"{subject} {event['subject_id']} {told} {event['reason']}")
            if event["reason"].startswith("a defect"):
                self._base.defects.append(f"{self.name}: {event['reason']}")
            if (
                subject in ("deployment", "pool")
                or (event["from_state"] == "running")
                or to in ("terminating", "terminated")
            ):
                self._wakes["planner"].set()
            if subject == "launch":
                self._wakes["launcher"].set()
            if to == NodeState.TERMINATING or to == "launched":
                self._wakes["reaper"].set()
            if subject == "task" and to == "queued":
                self._wakes["due"].set()
            if subject == "job" and event["reason"] == "cancel requested":
                self._wake(lambda _: True)
            elif subject == "node" and to in (NodeState.DRAINING, NodeState.TERMINATING, NodeState.TERMINATED):
                self._wake(lambda waiter, id_=event["subject_id"]: waiter.node_id == id_)  # type: ignore[misc]
        for token, _pool in queued:
            self._wake(lambda waiter, token=token: waiter.wants_tasks and waiter.token == token)  # type: ignore[misc]

    def _wake(self, concerned: Callable[[_Waiter], bool]) -> None:
        for waiter in self._waiting.values():
            if concerned(waiter):
                waiter.signal.set()

    # agents

    def told_of_boot(self, told: signals.Booting) -> None:
        def note() -> None:
            try:
                self.writer.write(
                    lambda tx: signals.booting(tx, told, key=KEY, installation=INSTALLATION, refusals=self._refusals)
                )
            except (StoreTrouble, StateConflict) as error:
                self._world.note(self.name, str(error))

        self.process.spawn(note)

    def receive(self, call: Call) -> None:
        self._open[call] = None
        self.process.spawn(lambda: self._serve(call))

    def _break_calls(self) -> None:
        for call in self._open:
            self._world.at(0.02, partial(call.fail, "the master closed the connection"))

    def _serve(self, call: Call) -> None:
        serve = self._enrol if call.path.endswith("enrol") else self._sync
        try:
            status, answer = serve(call)
        except StoreTrouble as trouble:
            status, answer = 507 if isinstance(trouble, Full) else 503, {"error": str(trouble)}
        except StateConflict as conflict:
            status, answer = 503, {"error": str(conflict)}
        self._open.pop(call, None)  # a doubled message is served twice
        call.socket.network.answer(call, status, answer)

    def _enrol(self, call: Call) -> tuple[int, dict[str, Any]]:
        said = json.loads(call.content)
        who = (said["secret"], said["instance_id"], said["credential"])
        request = Enrol(*who, said["agent_version"], memory_mb=said.get("memory_mb"))
        answer = self.writer.write(lambda tx: enrol(tx, request, key=KEY, installation=INSTALLATION))
        if isinstance(answer, Refused):
            return (403 if answer.final else 425), {"error": answer.reason}
        self._base.enrolled.append((answer.node_id, call.machine.id, request.credential))
        return 200, {**asdict(answer), "log_limit": LOG_LIMIT}

    def _sync(self, call: Call) -> tuple[int, dict[str, Any]]:
        session = self._sessions.known(call.credential) or self._sessions.look_up(call.credential)
        if session is None:
            return 401, {"error": "unknown node credential"}
        message = SyncMessage.model_validate_json(call.content)
        self._sessions.heard(session.node_id, self.clock())
        self._hear(session, message)
        offsets = self._store_logs(session, message.logs)
        answer = self._exchange(session, message)
        if answer.gone:
            self._sessions.forget(call.credential)
            return 410, {"error": "this node has ended"}
        return 200, {
            "orders": answer.orders,
            "stop": [{"attempt": id_, "why": why} for id_, why in answer.stop.items()],
            "acknowledged": answer.acknowledged,
            "logs": [{"attempt": id_, "offset": offset} for id_, offset in offsets.items()],
            "draining": answer.draining,
        }

    def _hear(self, session: Session, message: SyncMessage) -> None:
        health, reclaim_at = message.health, message.reclaim_at
        if health is not None and health.check != session.checked:
            trouble = "" if health.ok else health.trouble
            self.writer.write(lambda tx: signals.engine_checked(tx, session.node_id, trouble))
            session.checked = health.check
        if reclaim_at is not None:
            at = datetime.fromtimestamp(reclaim_at, UTC)
            self.writer.write(lambda tx: signals.taken_back(tx, session.node_id, at))

    def _exchange(self, session: Session, message: SyncMessage) -> Answer:
        waits = message.wait_s > 0 and not message.results and not message.logs
        deadline = self._world.now + min(message.wait_s, session.longest_wait_s)
        if (older := self._waiting.get(session.node_id)) is not None:
            older.overtaken = True
            older.signal.set()
        waiter = _Waiter(self._world, session, wants_tasks=message.free > 0)
        self._waiting[session.node_id] = waiter
        try:
            while True:
                answer = self.writer.write(lambda tx: exchange(tx, session.node_id, message))
                left_s = deadline - self._world.now
                if not waits or answer.is_news(message) or left_s <= 0:
                    return answer
                waiter.signal.wait(left_s)
                if waiter.overtaken:
                    return Answer()
        finally:
            if self._waiting.get(session.node_id) is waiter:
                del self._waiting[session.node_id]

    def _store_logs(self, session: Session, chunks: Sequence[LogChunk]) -> dict[int, int]:
        if chunks and self._base.disk_is_full():
            raise Full("the master's disk is full")
        mine = self._sessions.owns(session, {chunk.attempt for chunk in chunks})
        offsets = {}
        for chunk in chunks:
            data = base64.b64decode(chunk.data)
            fits = chunk.attempt in mine
            offsets[chunk.attempt] = self._base.logs.append(chunk.attempt, chunk.offset, data) if fits else NO_MORE
        return offsets


class _Waiter:
    """One waiting call of a node; a newer one sends it home."""

    def __init__(self, world: World, session: Session, *, wants_tasks: bool) -> None:
        self.node_id = session.node_id
        self.token = session.token
        self.wants_tasks = wants_tasks
        self.signal = Signal(world)
        self.overtaken = False
