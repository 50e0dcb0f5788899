"""Who waits for more of which logs. Everything here runs on the event loop's thread.

It only makes following quick: what comes to another master is found at the follower's next look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection


class LogFeed:
    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Event]] = {}

    def arrived(self, attempt_id: int) -> None:
        """More of this attempt's log is kept."""
        for more in self._waiting.get(attempt_id, ()):
            more.set()

    async def more(self, attempt_ids: Collection[int], longest_s: float) -> None:
        """Until more of one of these logs is here, or the time is over."""
        more = asyncio.Event()
        for attempt_id in attempt_ids:
            self._waiting.setdefault(attempt_id, set()).add(more)
        try:
            await asyncio.wait_for(more.wait(), longest_s)
        except TimeoutError:
            pass
        finally:
            for attempt_id in attempt_ids:
                waiting = self._waiting[attempt_id]
                waiting.discard(more)
                if not waiting:
                    del self._waiting[attempt_id]
