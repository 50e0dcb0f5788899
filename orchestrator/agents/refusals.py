"""Refusals on record, but not each: who knocks at a wrong door a thousand times a minute must not fill the events."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta

PAUSE = timedelta(minutes=1)
MOST = 1000  # told within one pause, from all sources together


@dataclass(frozen=True, slots=True)
class _Told:
    at: datetime
    request: object


class Refusals:
    """Whether a refusal deserves an event: the first of its source and kind does, then none of them for a minute.

    Used on the writer's thread only. Work may run twice there, so the request that was told of first is told of again.
    """

    def __init__(self) -> None:
        self._told: OrderedDict[Hashable, _Told] = OrderedDict()

    def deserves(self, kind: Hashable, request: object, now: datetime) -> bool:
        told = self._told.get(kind)
        if told is not None and now - told.at < PAUSE and told.request is not request:
            return False
        if told is None and len(self._told) >= MOST and not self._forget_oldest(now):
            return False
        self._told[kind] = _Told(now, request)
        self._told.move_to_end(kind)
        return True

    def _forget_oldest(self, now: datetime) -> bool:
        kind, told = next(iter(self._told.items()))
        if now - told.at < PAUSE:
            return False
        del self._told[kind]
        return True
