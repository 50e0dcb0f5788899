"""Time as an argument. Everything that reads the clock takes a `Clock`; tests hand it one that they move."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Gives the present moment, aware, in UTC."""


def utc_now() -> datetime:
    return datetime.now(UTC)
