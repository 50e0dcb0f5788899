"""Artifacts come up: in pieces by their offset, into a file of this master's, and whole and checked into the store.

A call that is repeated, for its answer was lost, changes nothing; one that comes to another master, or for a file that was
changed meanwhile, begins anew. What an agent says of a path is never a place on a disk here.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy import delete, func, insert, select

from orchestrator.agents.sessions import Session, Sessions
from orchestrator.faultpoints import reach
from orchestrator.files.base import FileStore
from orchestrator.files.local import name_of
from orchestrator.model.states import AttemptState
from orchestrator.model.tables import Artifact, Attempt, Task, table
from orchestrator.store.writer import Tx, Writer

artifacts, attempts, tasks = table(Artifact), table(Attempt), table(Task)

LARGEST_PIECE = 4 << 20
MOST_FILES = 1000  # of one attempt
CALLS = 4  # pieces written, or files checked and stored, at a time


def is_safe(path: str) -> bool:
    """Whether a path can only mean a file below the folder it is relative to, wherever that is."""
    if any(letter < " " or letter in "\x7f\\" or "\ud800" <= letter <= "\udfff" for letter in path):
        return False
    return len(path.encode()) <= 1000 and all(part not in ("", ".", "..") for part in path.split("/"))


def _safe(path: str) -> str:
    if not is_safe(path):
        raise ValueError("is no path below the work folder, or has letters that no artifact may have")
    return path


class Piece(BaseModel):
    """Bytes of a file from `offset`; the call's body has them. `size` and `sha256` are the whole file's."""

    attempt: int = Field(ge=1, lt=1 << 62)
    path: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_safe)]
    size: int = Field(ge=0, lt=1 << 50)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    offset: int = Field(ge=0, lt=1 << 50)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes: of one file, and of all files of one attempt."""

    file: int
    attempt: int


class Refusal(Exception):
    """Why a piece is not taken. 409: the file is to be sent anew; all others are final."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ArtifactIntake:
    """What is under way lies in `room`; it may be lost, for its agent sends it again."""

    def __init__(self, writer: Writer, sessions: Sessions, store: FileStore, room: Path, limits: Limits) -> None:
        self._writer = writer
        self._sessions = sessions
        self._store = store
        self._room = room
        self._limits = limits
        self._threads = ThreadPoolExecutor(CALLS, "artifacts")  # which starts none before the first piece

    async def take(self, session: Session, piece: Piece, data: bytes) -> dict[str, Any]:
        """`offset`: where to go on; `stored` once the file is kept. Raises Refusal."""
        if not await self._on_thread(self._sessions.owns, session, {piece.attempt}):
            raise Refusal(403, f"attempt {piece.attempt} is not of this node")
        if piece.offset + len(data) > piece.size:
            raise Refusal(422, "these bytes are beyond the end of the file")
        if piece.offset == 0 and await self._writer.awrite(lambda tx: self._look(tx, piece)):
            return {"offset": piece.size, "stored": True}
        reach("artifact.before_append")
        size = await self._on_thread(self._append, piece, data)
        if size < piece.size:
            return {"offset": size, "stored": False}
        await self._on_thread(self._keep, piece)
        reach("artifact.before_write")
        await self._writer.awrite(lambda tx: self._record(tx, piece))
        reach("artifact.before_answer")
        return {"offset": size, "stored": True}

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _on_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        done: Awaitable[Any] = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        return await done

    def _look(self, tx: Tx, piece: Piece) -> bool:
        """Whether this very file is kept already. Raises Refusal where it may not come."""
        here = (artifacts.c.attempt_id == piece.attempt, artifacts.c.path == piece.path)
        kept = tx.connection.execute(select(artifacts.c.size, artifacts.c.sha256).where(*here)).first()
        if kept is not None and (kept.size, kept.sha256) == (piece.size, piece.sha256):
            return True
        self._may_come(tx, piece)
        return False

    def _may_come(self, tx: Tx, piece: Piece) -> Any:
        """The task of its attempt. Raises Refusal."""
        of = select(tasks.c.id, tasks.c.job_id, tasks.c.spec).join(attempts, attempts.c.task_id == tasks.c.id)
        query = of.where(attempts.c.id == piece.attempt, attempts.c.state == AttemptState.RUNNING)
        task = tx.connection.execute(query.with_for_update(of=attempts)).first()
        if task is None:
            raise Refusal(410, f"attempt {piece.attempt} has ended")
        if "artifacts" not in task.spec:
            raise Refusal(403, "its task declares no artifacts")
        if piece.size > self._limits.file:
            raise Refusal(413, f"it has {piece.size} bytes, over artifact_limit_mb ({self._limits.file / 1e6:g} MB)")
        others = (artifacts.c.attempt_id == piece.attempt, artifacts.c.path != piece.path)
        query = select(func.count(), func.coalesce(func.sum(artifacts.c.size), 0)).where(*others)
        count, total = tx.connection.execute(query).one()
        if count >= MOST_FILES:
            raise Refusal(413, f"its attempt has {MOST_FILES} artifacts already; pack them into one file")
        if total + piece.size > self._limits.attempt:
            limit = f"artifacts_limit_mb ({self._limits.attempt / 1e6:g} MB)"
            raise Refusal(413, f"with it the attempt's artifacts would be over {limit}")
        return task

    def _append(self, piece: Piece, data: bytes) -> int:
        """Write what comes next; how much of the file there is. An attempt has one file under way, so that its node
        cannot fill this disk with beginnings."""
        place = self._place(piece)
        if piece.offset == 0:
            self._room.mkdir(parents=True, exist_ok=True)
            for other in self._room.glob(f"{piece.attempt}-*"):
                if other != place:
                    other.unlink(missing_ok=True)
            place.touch()
        try:
            with place.open("r+b") as file:
                size = file.seek(0, 2)
                if piece.offset <= size:
                    file.seek(piece.offset)
                    file.write(data)
                    size = max(size, piece.offset + len(data))
                return size
        except FileNotFoundError:
            return 0

    def _keep(self, piece: Piece) -> None:
        place = self._place(piece)
        try:
            with place.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != piece.sha256:
                place.unlink()
                raise Refusal(409, "it was changed while it was sent")
            reach("artifact.before_keep")
            self._store.put(piece.attempt, piece.path, place)
        except FileNotFoundError:
            raise Refusal(409, "another call has stored it") from None

    def _record(self, tx: Tx, piece: Piece) -> None:
        task = self._may_come(tx, piece)
        here = (artifacts.c.attempt_id == piece.attempt, artifacts.c.path == piece.path)
        tx.connection.execute(delete(artifacts).where(*here))
        row = {"job_id": task.job_id, "task_id": task.id, "attempt_id": piece.attempt, "path": piece.path}
        row |= {"size": piece.size, "sha256": piece.sha256, "stored_at": tx.now}
        tx.connection.execute(insert(artifacts).values(row))

    def _place(self, piece: Piece) -> Path:
        return self._room / f"{piece.attempt}-{name_of(piece.path)[:32]}-{piece.sha256[:32]}"
