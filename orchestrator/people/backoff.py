"""How often somebody may guess: the first few at once, then each after twice the time of the one before. Pure."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

FREE = 5
LONGEST_S = 300.0
FORGOTTEN_S = 3600.0
MOST = 10_000  # sources remembered; of more, those who tried longest ago are forgotten first


@dataclass(frozen=True, slots=True)
class _Tries:
    count: int
    last: float


class Backoff:
    """Counts tries by source. A try counts when it begins, so that many at once gain nothing; a right one forgives.

    Times are seconds of any steady clock. May be used from any thread. Each master counts for itself.
    """

    def __init__(self) -> None:
        self._tries: OrderedDict[Hashable, _Tries] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, sources: Iterable[Hashable], now: float) -> float:
        """0: go on, the try is counted for each source. Else how many seconds are to pass before the next."""
        sources = list(sources)
        with self._lock:
            wait_s = max(self._wait_s(source, now) for source in sources)
            if wait_s <= 0:
                for source in sources:
                    self._count(source, now)
            return max(0.0, wait_s)

    def forgive(self, source: Hashable) -> None:
        """It was the right one: nothing is held against this source."""
        with self._lock:
            self._tries.pop(source, None)

    def take_back(self, source: Hashable) -> None:
        """This one try does not count; those before it do."""
        with self._lock:
            if (tries := self._tries.get(source)) is not None:
                self._tries[source] = _Tries(max(0, tries.count - 1), tries.last)

    def _wait_s(self, source: Hashable, now: float) -> float:
        tries = self._tries.get(source)
        if tries is None or tries.count < FREE:
            return 0.0
        return float(tries.last + min(LONGEST_S, 2.0 ** (tries.count - FREE)) - now)

    def _count(self, source: Hashable, now: float) -> None:
        before = self._tries.pop(source, None)
        count = before.count if before is not None and now - before.last < FORGOTTEN_S else 0
        self._tries[source] = _Tries(min(count + 1, FREE + 20), now)
        if len(self._tries) > MOST:
            self._tries.popitem(last=False)
