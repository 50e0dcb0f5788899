"""Who of this process may launch under an id, and for how long a POST may still bring servers.

A cloud with idempotency tokens needs none of this. It is lost with the process, which is no harm: the next one takes
longer to start than a POST takes to arrive, and looks before it asks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Turn:
    """The launches of one id, one after the other."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    holders: int = 0
    settles_at: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether all that an earlier try asked for must have come by now."""
        return time.monotonic() >= self.settles_at

    def settles_in(self, seconds: float) -> None:
        self.settles_at = time.monotonic() + seconds


_turns: dict[str, Turn] = {}
_guard = threading.Lock()


@contextmanager
def turn_of(launch_id: str) -> Iterator[Turn]:
    """This launch id's turn, alone. Ids are unique among all clouds, so there is one list of turns."""
    with _guard:
        for stale in [id_ for id_, turn in _turns.items() if not turn.holders and turn.settled]:
            del _turns[stale]
        turn = _turns.setdefault(launch_id, Turn())
        turn.holders += 1
    try:
        with turn.lock:
            yield turn
    finally:
        with _guard:
            turn.holders -= 1
