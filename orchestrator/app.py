"""The composition root: one master process, put together from its parts, started and ended in order."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

import structlog
from sqlalchemy import Engine, func, select

from orchestrator.agents.artifacts import ArtifactIntake, Limits
from orchestrator.agents.endpoints import AgentEndpoints
from orchestrator.agents.masks import Masks
from orchestrator.agents.package import agent_package
from orchestrator.agents.sessions import Sessions
from orchestrator.agents.waiters import Waiters
from orchestrator.clock import Clock, SteadyClock
from orchestrator.clouds import Clouds
from orchestrator.doctor.examine import Doctor
from orchestrator.faultpoints import reach
from orchestrator.files.opening import open_stores
from orchestrator.files.retention import LOOK_S, Retention
from orchestrator.fleet import deadlines, planner
from orchestrator.fleet.bootstrap import BootstrapParams, render_command, render_user_data
from orchestrator.fleet.launcher import Launcher
from orchestrator.fleet.loops import Loop
from orchestrator.fleet.reaper import Reaper
from orchestrator.fleet.secrets import enrolment_secret, load_key
from orchestrator.fleet.watcher import Watcher
from orchestrator.jobs.due import wake_due
from orchestrator.jobs.secrets import Vault
from orchestrator.model.states import LaunchState, NodeState, NotificationState
from orchestrator.model.tables import Event, Node, table
from orchestrator.notify.courier import Courier
from orchestrator.notify.sender import Sender
from orchestrator.settings import Settings
from orchestrator.store.engine import lock_sqlite, open_engine
from orchestrator.store.installation import installation_id
from orchestrator.store.migrate import upgrade
from orchestrator.store.stream import EventStream
from orchestrator.store.trouble import trouble_of
from orchestrator.store.writer import EventRow, Queued, Tx, Writer
from providers.base import Misconfigured, Verdict

log = structlog.get_logger(__name__)
nodes, events = table(Node), table(Event)

PLAN_PACE_S = 0.02
WATCH_FAST_S = 1.0
CHANGING = (NodeState.LAUNCHING, NodeState.TERMINATING)


class Master:
    """Everything one master process holds. `start` needs the running event loop; `close` undoes it."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.settings = settings
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock: IO[str] | None = lock_sqlite(settings.database)
        self.engine = open_engine(settings.database)
        reach("start.before_migrate")
        upgrade(self.engine)
        reach("start.after_migrate")
        clock = self.clock = clock or _clock(self.engine)
        self.writer = Writer(self.engine, clock)
        self.installation = self.writer.write(installation_id)
        self.key = load_key(settings.data_dir / "master.key")
        self.clouds = Clouds(settings.clouds, self.installation)
        self.doctor = Doctor(settings, self.clouds, self.engine, clock)
        self.logs, self.files = open_stores(settings, self.installation)
        self.vault = Vault(settings.secrets_file)
        self.sessions = Sessions(self.engine)
        self.waiters = Waiters()
        self.stream = EventStream()
        self.agents = AgentEndpoints(
            self.writer,
            self.sessions,
            self.waiters,
            self.logs,
            self._artifact_intake(),
            clock,
            masks=Masks(self.engine, self.vault, self.logs),
            key=self.key,
            installation=self.installation,
        )
        self.courier = Courier(settings, self.key, self.installation)
        self._ca_pin = certificate_pin(settings)
        self._listening_since = clock()
        self._spared = False
        self._make_loops()

    def _artifact_intake(self) -> ArtifactIntake:
        limits = Limits(int(self.settings.artifact_limit_mb * 1e6), int(self.settings.artifacts_limit_mb * 1e6))
        return ArtifactIntake(self.writer, self.sessions, self.files, self.settings.data_dir / "uploads", limits)

    def _make_loops(self) -> None:
        settings = self.settings
        self._launcher = Launcher(self.writer, self.clouds, self.installation, self.user_data, settings.visibility_s)
        self._watcher = Watcher(
            self.writer,
            self.clouds,
            self.clock,
            installation=self.installation,
            visibility_s=settings.visibility_s,
            orphan_grace_s=settings.orphan_grace_s,
        )
        self._reaper = Reaper(self.writer, self.clouds)
        self._sender = Sender(self.writer, self.engine, self.courier, self.clock, settings.api_url)
        look_s = settings.look_s
        self._plan = Loop("planner", self._plan_step, look_s=look_s, pace_s=PLAN_PACE_S)
        self._launch = Loop("launcher", self._launcher.step, look_s=look_s)
        self._watch = Loop("watcher", self._watch_step, look_s=look_s, pace_s=WATCH_FAST_S / 2)
        self._reap = Loop("reaper", self._reap_step, look_s=look_s)
        self._due = Loop("due", lambda: self.writer.write(wake_due), look_s=look_s, pace_s=PLAN_PACE_S)
        self._deadlines = Loop("deadlines", self._deadlines_step, look_s=min(look_s, 5.0))
        self._notify = Loop("notifier", self._sender.step, look_s=look_s)
        self._retention = Loop("retention", self._removal().step, look_s=LOOK_S)
        self._loops = (
            self._plan, self._launch, self._watch, self._reap, self._due, self._deadlines, self._notify, self._retention,
        )  # fmt: skip

    def _removal(self) -> Retention:
        settings = self.settings
        days = {"log_days": settings.log_retention_days, "artifact_days": settings.artifact_retention_days}
        return Retention(self.writer, self.clock, self.logs, self.files, settings.data_dir / "uploads", **days)

    def start(self) -> None:
        """Begin to work. Call it on the event loop."""
        self._event_loop = asyncio.get_running_loop()
        self.writer.listen(self._committed)
        self.writer.finish(lambda tx: self.agents.handover.at_end(tx, self._event_loop))
        for loop in self._loops:
            loop.start()
        threading.Thread(target=self._first_look, name="doctor", daemon=True).start()
        log.info("master started", installation=self.installation, url=self.settings.url, database=self.engine.dialect.name)

    def troubles(self) -> list[str]:
        """Why the master cannot do its work now, in sentences; none when it can. Asks the database."""
        found = [str(self.writer.trouble)] if self.writer.trouble is not None else []
        try:
            with self.engine.connect() as connection:
                connection.execute(select(1))
        except Exception as error:  # noqa: BLE001 - whatever it is, the master is not ready
            told = str(trouble_of(error) or f"the database does not answer: {error}")
            found += [told] if told not in found else []
        return found + self.defects()

    def defects(self) -> list[str]:
        """What only another start can mend."""
        dead = [loop.name for loop in self._loops if not loop.alive]
        dead += [] if self.writer.alive else ["writer"]
        return [f"the {name} has died; start the master again" for name in dead]

    def fix(self) -> None:
        """Look at every cloud now, end what is nobody's, and ask again for every end that is due."""
        self._watcher.fix()
        self._reaper.step()

    def close(self) -> None:
        for loop in self._loops:
            loop.close()
        self._launcher.close()
        self.agents.logs.close()
        self.agents.artifacts.close()
        for loop in self._loops:
            loop.join()
        self.writer.close()
        self.engine.dispose()
        if self._lock is not None:
            self._lock.close()
        log.info("master stopped")

    def user_data(self, launch_id: int, pool: Mapping[str, Any], limit: int) -> bytes:
        """What the machines of this launch are given: where to call, whom to trust, and one secret for enrolment.

        Raises Misconfigured where no machine could start with it: too large for the cloud, a URL that is none.
        """
        try:
            return render_user_data(self._bootstrap_params(launch_id, pool, limit))
        except ValueError as error:
            raise Misconfigured(str(error)) from error

    def enrolment_command(self, launch_id: int, pool: Mapping[str, Any], name: str) -> str:
        """What a person runs on a machine that exists, so that it takes a place of this launch. Raises Misconfigured."""
        try:
            return render_command(self._bootstrap_params(launch_id, pool, limit=0), name)
        except ValueError as error:
            raise Misconfigured(str(error)) from error

    def _bootstrap_params(self, launch_id: int, pool: Mapping[str, Any], limit: int) -> BootstrapParams:
        launch = pool["launch"]
        return BootstrapParams(
            master_url=self.settings.url,
            ca_pin=self._ca_pin,
            enrolment_secret=enrolment_secret(self.key, self.installation, launch_id),
            agent_sha256=agent_package().sha256,
            agent=launch.get("agent", "download"),
            boot_timeout_s=pool["boot_timeout_s"],
            lease_s=pool["lease_s"],
            limit=limit,
            watch_interruption=launch.get("watch_interruption", launch.get("market") == "spot"),
        )

    def _committed(self, events: Sequence[EventRow], queued: Queued) -> None:
        """On the writer's thread: whoever is concerned by what was committed looks at once."""
        if any(queued.values()):
            self._event_loop.call_soon_threadsafe(self.waiters.wake_for, queued)
        leaving: set[int] = set()
        for event in events:
            subject, to = event["subject"], event["to_state"]
            if subject in ("deployment", "pool") or (
                subject == "node" and to in (NodeState.TERMINATED, NodeState.TERMINATING)
            ):
                self._plan.wake()
            if subject == "launch":
                self._launch.wake()
                if to == LaunchState.LAUNCHED:  # a node may be leaving that has its machine only now
                    self._reap.wake()
            elif subject == "node" and to == NodeState.TERMINATING:
                self._reap.wake()
                leaving.add(event["subject_id"])
            elif subject == "node" and to in (NodeState.DRAINING, NodeState.TERMINATED):  # it is told, and ends itself
                leaving.add(event["subject_id"])
            elif subject == "job" and event["reason"] == "cancel requested":
                self._event_loop.call_soon_threadsafe(self.waiters.wake_nodes)
            elif subject == "task" and to == "queued":
                self._due.wake()
            elif subject == "notification" and to == NotificationState.PENDING:
                self._notify.wake()
            if self._spared and event["from_state"] == "running":  # a node that may go has become idle, perhaps
                self._plan.wake()
        if leaving:
            self._event_loop.call_soon_threadsafe(self.waiters.wake_nodes, leaving)
        if events and self.stream.followed:
            self._event_loop.call_soon_threadsafe(self.stream.publish, events)

    def _first_look(self) -> None:
        """What is wrong with the settings or a cloud is told at once; it keeps nothing from starting."""
        told = [(about, found) for about, found in self.doctor.first_look().told() if found.verdict is not Verdict.OK]
        for about, found in told:
            log.warning(found.told, about=about, subject=found.subject, verdict=found.verdict)

        def work(tx: Tx) -> None:
            for about, found in told:
                if found.verdict is Verdict.WRONG:
                    tx.tell(about.split()[0], 0, f"{about}, {found.subject}: {found.told}")

        with suppress(RuntimeError):  # the master has been closed meanwhile
            self.writer.write(work)

    def _plan_step(self) -> None:
        self._spared = self.writer.write(planner.plan)

    def _watch_step(self) -> float | None:
        self._watcher.step()
        with self.engine.connect() as connection:
            changing = connection.execute(select(func.count()).where(nodes.c.state.in_(CHANGING))).scalar_one()
        return WATCH_FAST_S if changing else None

    def _reap_step(self) -> None:
        self._reaper.step()
        self._watch.wake()

    def _deadlines_step(self) -> None:
        heard = self.sessions.flush()
        try:
            self.writer.write(lambda tx: deadlines.keep(tx, heard, self._listening_since))
        except Exception:
            self.sessions.put_back(heard)  # or those who called while the database was away would seem silent after it
            raise


def _clock(engine: Engine) -> SteadyClock:
    """The host's time, and not before the last event: clocks are put back while masters are down, too."""
    clock = SteadyClock()
    with engine.connect() as connection:
        last = connection.execute(select(events.c.at).order_by(events.c.id.desc()).limit(1)).scalar()
    if last is not None:
        clock.not_before(last)
    return clock


def certificate_pin(settings: Settings) -> str:
    """SHA-256 of the master's certificate, which machines pin; empty without TLS."""
    if settings.certificate is None:
        return ""
    der = ssl.PEM_cert_to_DER_cert(settings.certificate.read_text())
    return hashlib.sha256(der).hexdigest()
