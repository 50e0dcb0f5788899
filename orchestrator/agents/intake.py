"""What agents send up of their attempts' output: checked, stored, then acknowledged by the offset wanted next."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import structlog

from orchestrator.agents.sessions import Session, Sessions
from orchestrator.faultpoints import reach
from orchestrator.files.base import LogStore
from orchestrator.files.feed import LogFeed
from orchestrator.store.trouble import trouble_of

log = structlog.get_logger(__name__)
NO_MORE = 1 << 61  # an offset beyond every log: the agent sends nothing more of this one
CALLS = 16  # to a store elsewhere, at a time
Filter = Callable[[int, int, bytes], bytes]
"""(attempt, offset, bytes as they came) → the bytes that are kept: as many, for offsets are the agent's own."""


class Refuse(Protocol):
    """Puts a refusal on record."""

    def __call__(self, session: Session, kind: str, reason: str, attempt_id: int | None = None) -> Awaitable[None]: ...


class Chunk(Protocol):
    """Bytes of an attempt's output, base64, from `offset`."""

    @property
    def attempt(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def data(self) -> str: ...


def as_it_came(attempt_id: int, offset: int, data: bytes) -> bytes:  # noqa: ARG001 - a Filter's shape
    """The filter that every chunk passes before it is stored anywhere: this one keeps it as it is."""
    return data


class LogIntake:
    """Into the store, on the event loop where that costs no more than a write to a file, else on threads of its own."""

    def __init__(
        self, store: LogStore, sessions: Sessions, feed: LogFeed, refuse: Refuse, kept: Filter = as_it_came
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._feed = feed
        self._refuse = refuse
        self._kept = kept
        self._cut: set[int] = set()
        self._threads = ThreadPoolExecutor(CALLS, "logs") if store.waits else None

    async def take(self, session: Session, chunks: Sequence[Chunk]) -> dict[int, int]:
        """Append what is the node's; the answer says for each attempt from which offset to go on."""
        if not chunks:
            return {}
        mine = await asyncio.to_thread(self._sessions.owns, session, {chunk.attempt for chunk in chunks})
        offsets: dict[int, int] = {}
        for chunk in chunks:
            if chunk.attempt not in mine:
                await self._refuse(session, "foreign", f"log of attempt {chunk.attempt} refused: it is not of this node")
                offsets[chunk.attempt] = NO_MORE
                continue
            try:
                data = base64.b64decode(chunk.data, validate=True)
            except binascii.Error:
                await self._refuse(session, "unreadable", f"log of attempt {chunk.attempt} refused: not base64")
                continue
            offsets[chunk.attempt] = await self._append(chunk.attempt, chunk.offset, data)
            if chunk.offset + len(data) > self._store.limit:
                offsets[chunk.attempt] = NO_MORE
                await self._say_cut(session, chunk.attempt)
        return offsets

    def over(self, attempt_ids: Iterable[int]) -> None:
        """These attempts' results are taken, and their logs whole: the store may put them in order, whenever it can."""
        if self._threads is not None:
            for attempt_id in attempt_ids:
                self._threads.submit(self._settle, attempt_id)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _append(self, attempt_id: int, offset: int, data: bytes) -> int:
        if self._threads is None:
            wanted = self._keep(attempt_id, offset, data)
        else:
            loop = asyncio.get_running_loop()
            wanted = await loop.run_in_executor(self._threads, self._keep, attempt_id, offset, data)
        reach("log.after_append")
        self._feed.arrived(attempt_id)
        return wanted

    def _keep(self, attempt_id: int, offset: int, data: bytes) -> int:
        data = self._kept(attempt_id, offset, data)  # it may read the store, which may wait
        reach("log.before_append")
        return self._store.append(attempt_id, offset, data)

    def _settle(self, attempt_id: int) -> None:
        try:
            self._store.settle(attempt_id)
        except Exception as error:  # noqa: BLE001 - the log reads the same in pieces
            log.warning("a log stays in pieces", attempt=attempt_id, why=str(trouble_of(error) or error))

    async def _say_cut(self, session: Session, attempt_id: int) -> None:
        if attempt_id not in self._cut:
            self._cut.add(attempt_id)
            limit = f"{self._store.limit / 1e6:g} MB"
            reason = f"log of attempt {attempt_id} is over {limit}: the rest is refused"
            await self._refuse(session, f"cut {attempt_id}", reason, attempt_id)
