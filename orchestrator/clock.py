"""Time as an argument. Everything that reads the clock takes a `Clock`; tests hand it one that they move."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

Clock = Callable[[], datetime]
"""Gives the present moment, aware, in UTC."""

log = structlog.get_logger(__name__)
JUMP_S = 5.0
SLEW = 0.1
FARTHEST_S = 86400.0


def utc_now() -> datetime:
    return datetime.now(UTC)


class SteadyClock:
    """The host's time without its jumps: for a master, which measures silence, graces and deadlines by it.

    It goes on with the monotonic clock and follows the host's time at a tenth of the pace of time at most. So when the
    host's clock is put an hour forward, no node seems silent for an hour; when it is put back, nothing waits for an hour
    and no event stands before its cause. An hour is caught up within ten. Thread-safe.
    """

    def __init__(self, wall_s: Callable[[], float] = time.time, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._now_s = wall_s()
        self._read_at_s = monotonic_s()
        self._off_s = 0.0

    def __call__(self) -> datetime:
        with self._lock:
            return datetime.fromtimestamp(self._read(), UTC)

    def not_before(self, moment: datetime) -> None:
        """Go on from this moment if the host's clock is behind it: what was written already must not lie in the future.

        A moment more than a day ahead was written by a clock that was wrong, and is passed over.
        """
        with self._lock:
            ahead_s = moment.timestamp() - self._read()
            if 0 < ahead_s <= FARTHEST_S:
                self._now_s += ahead_s
                self._off_s -= ahead_s
                log.warning("the host's clock is behind the database; it is followed slowly", seconds=round(ahead_s, 3))

    def _read(self) -> float:
        read_at_s = self._monotonic_s()
        passed_s, self._read_at_s = read_at_s - self._read_at_s, read_at_s
        self._now_s += passed_s
        off_s = self._wall_s() - self._now_s
        if abs(off_s - self._off_s) > JUMP_S:
            log.warning("the host's clock jumped; it is followed slowly", seconds=round(off_s, 3))
        most_s = passed_s * SLEW
        followed_s = max(-most_s, min(off_s, most_s))
        self._now_s += followed_s
        self._off_s = off_s - followed_s
        return self._now_s
