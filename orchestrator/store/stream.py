"""The live stream of committed events, for pages and programs that watch. Lossy by design: who is slow reads the table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from orchestrator.store.writer import EventRow

BACKLOG = 2000


class EventStream:
    """`publish` on the event loop; `follow` gives each subscriber every batch from now on."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[Sequence[EventRow] | None]] = set()

    @property
    def followed(self) -> bool:
        """Whether anybody listens; may be asked from any thread."""
        return bool(self._queues)

    def publish(self, events: Sequence[EventRow]) -> None:
        for queue in list(self._queues):
            if queue.qsize() > BACKLOG:
                self._queues.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(events)

    def end(self) -> None:
        """Let every follower go, so that the server can stop."""
        for queue in self._queues:
            queue.put_nowait(None)
        self._queues.clear()

    async def follow(self, idle_s: float) -> AsyncIterator[Sequence[EventRow]]:
        """Batches as they are committed; an empty one after `idle_s` of silence, to tell that the line is alive."""
        queue: asyncio.Queue[Sequence[EventRow] | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while True:
                try:
                    batch = await asyncio.wait_for(queue.get(), idle_s)
                except TimeoutError:
                    yield []
                    continue
                if batch is None:
                    return
                yield batch
        finally:
            self._queues.discard(queue)
