"""The master's real endpoints over a real database, served over HTTP; and the line to them, which a test cuts and mends."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from fake_master import AgentBox, until
from starlette.applications import Starlette

from orchestrator.agents.artifacts import ArtifactIntake, Limits
from orchestrator.agents.endpoints import AgentEndpoints
from orchestrator.agents.masks import Masks
from orchestrator.agents.sessions import Sessions
from orchestrator.agents.waiters import Waiters
from orchestrator.files.base import FileStore, LogStore
from orchestrator.files.local import LocalFiles, LocalLogs
from orchestrator.fleet import deadlines
from orchestrator.fleet.secrets import enrolment_secret
from orchestrator.jobs.secrets import Vault
from orchestrator.model.states import NodeState
from orchestrator.model.tables import Attempt, Node, Task

KEY, INSTALLATION = b"k" * 32, "installation-1"


class Line:
    """A TCP line to a port of this host. While it is cut, whoever calls is hung up on."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._ends: set[socket.socket] = set()
        self._cut = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._cut = True
        for end in list(self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._cut = False

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._cut:
                    near.close()
                    continue
                far = socket.create_connection(self._to)
                for source, target in ((near, far), (far, near)):
                    self._ends.add(source)
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()
        self._ends.discard(source)


class RealMaster:
    """What a master is to its agents, without clouds and loops: a test moves its clock and keeps its deadlines."""

    def __init__(self, store: Any, folder: Path, port: int, logs: LogStore, files: FileStore) -> None:
        self.store = store
        self.line = Line(port)
        self.pool = store.pool(slots=2, heartbeat_timeout_s=15)
        self._folder = folder
        self.logs = logs
        self.files = files

    def machine(self, pyz: Path) -> tuple[int, AgentBox]:
        """A node whose machine boots, its agent not started yet."""
        node_id = self.store.node(self.pool, NodeState.BOOTING, slots=2)
        row = self.store.one(Node, node_id)
        box = AgentBox(self._folder / f"machine-{node_id}", pyz, f"http://127.0.0.1:{self.line.port}", row.instance_id)
        box.config["enrolment_secret"] = enrolment_secret(KEY, INSTALLATION, row.launch_id)
        return node_id, box

    def ready(self, node_id: int) -> None:
        until(lambda: self.store.state(Node, node_id) == NodeState.READY)

    def task(self, job_id: int) -> Any:
        (row,) = self.store.rows(Task, job_id=job_id)
        return row

    def finished(self, job_id: int) -> Any:
        until(lambda: self.task(job_id).state in ("succeeded", "failed", "cancelled"), 30, lambda: self.task(job_id))
        return self.task(job_id)

    def log(self, job_id: int) -> bytes:
        """Of the task's first attempt."""
        attempts = self.store.rows(Attempt, task_id=self.task(job_id).id)
        return self.logs.read(attempts[0].id) if attempts else b""

    def pass_time(self, seconds: float) -> None:
        """Nobody has called meanwhile."""
        self.store.clock.move(seconds)
        self.store.write(lambda tx: deadlines.keep(tx, {}, self.store.clock.now.replace(year=2000)))


@contextmanager
def real_master(
    store: Any, folder: Path, log_limit: int = 200_000, kept: tuple[LogStore, FileStore] | None = None
) -> Iterator[RealMaster]:
    """`kept`: where logs and artifacts are kept, else in local folders."""
    waiters, loops, sessions = Waiters(), [], Sessions(store.engine)
    logs, files = kept or (LocalLogs(folder / "master-logs", log_limit), LocalFiles(folder / "master-files"))
    masks = Masks(store.engine, Vault(folder / "secrets.key"), logs)
    endpoints = AgentEndpoints(
        store.writer,
        sessions,
        waiters,
        logs,
        ArtifactIntake(store.writer, sessions, files, folder / "uploads", Limits(1_000_000, 2_000_000)),
        store.clock,
        masks=masks,
        key=KEY,
        installation=INSTALLATION,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        loops.append(asyncio.get_running_loop())
        yield

    app = Starlette(routes=endpoints.routes(), lifespan=lifespan)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    store.writer.listen(lambda events, queued: loops[0].call_soon_threadsafe(waiters.wake_nodes))
    master = RealMaster(store, folder, server.servers[0].sockets[0].getsockname()[1], logs, files)
    try:
        yield master
    finally:
        master.line.close()
        server.should_exit = True
        thread.join(10)
