"""One account's calls: how many a second, how many at a time, and who goes first.

A token bucket whose rate the cloud itself teaches: each refusal halves it, each second without one raises it a little
(additive increase, multiplicative decrease). Nobody sleeps here: who comes too early is told when to come again. What
ends machines may use the whole bucket, what lists them must leave a tenth of it, all else a fifth: so launches and
listings can never starve terminations, nor launches the listings that end rows.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .base import ProviderError, RateLimited

Seconds = Callable[[], float]
"""Gives the present moment in seconds that never jump: `time.monotonic`, or what a test moves."""

RATE_MOST = 50.0  # calls a second; no cloud is asked faster, and none is asked so fast for long
RATE_LEAST = 0.5
GROWTH = 0.5  # calls a second more, each second without a refusal
BURST = 100.0  # calls that may be saved up
AT_A_TIME = 16
SPREAD_MOST_S = 60.0
ROUNDING = 1e-6  # of a call: who waited as long as told is let in
_LEAVES = {"terminate": 0.0, "instances": 0.1, "impaired": 0.1}
_LEAVES_ELSE = 0.2
_RESERVE = BURST * _LEAVES_ELSE


@dataclass(frozen=True, slots=True)
class Usage:
    """How an account's calls are at this moment, for people who ask why something is slow."""

    rate: float
    """Calls a second that are made at most now."""

    throttled_for_s: float | None
    """Since when the cloud holds us below the full rate; None where it does not."""

    under_way: int
    calls: Mapping[str, int]
    """Calls made so far, by verb."""

    refused: int
    """Calls that the cloud answered with "too many"."""

    held_back: int
    """Calls that were not made for that."""

    last_error: str | None
    last_error_ago_s: float | None


class Limiter:
    """The bucket of one account. `enter` before a call, `leave` after it. Thread-safe."""

    def __init__(self, now: Seconds = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._at = now()
        self._rate = RATE_MOST
        self._level = BURST
        self._paused_until = self._terminate_from = self._promised = self._at
        self._cut_at = float("-inf")
        self._throttled_at: float | None = None
        self._under_way = 0
        self._calls: Counter[str] = Counter()
        self._refused = 0
        self._held_back = 0
        self._last_error: tuple[str, float] | None = None

    def enter(self, verb: str) -> float:
        """Take one call of this verb; returns its moment, for `leave`. Raises RateLimited with the time to wait."""
        with self._lock:
            now = self._move()
            share = _LEAVES.get(verb, _LEAVES_ELSE)
            if self._under_way >= AT_A_TIME - int(AT_A_TIME * share):
                self._held_back += 1
                raise RateLimited("held back: as many calls to this cloud account are under way as may be", 1.0)
            paused_until = self._terminate_from if verb == "terminate" else self._paused_until
            wait_s = self._wait(max(0.0, paused_until - now), BURST * share)
            if wait_s > 0:
                self._held_back += 1
                raise RateLimited(self._why(), wait_s if verb == "terminate" else self._spread(now, wait_s))
            self._level -= 1
            self._under_way += 1
            self._calls[verb] += 1
            return now

    def leave(self, verb: str, entered: float, error: BaseException | None) -> None:
        """The call is over: its place is free, and what the cloud said of our pace is learnt."""
        with self._lock:
            now = self._move()
            self._under_way -= 1
            if isinstance(error, ProviderError):
                self._last_error = (f"{verb}: {error}", now)
            if isinstance(error, RateLimited):
                self._refused += 1
                self._slow_down(verb, now, entered, error.retry_after_s)

    def usage(self) -> Usage:
        with self._lock:
            now = self._move()
            message, at = self._last_error or (None, now)
            return Usage(
                rate=round(self._rate, 2),
                throttled_for_s=None if self._throttled_at is None else now - self._throttled_at,
                under_way=self._under_way,
                calls=dict(self._calls),
                refused=self._refused,
                held_back=self._held_back,
                last_error=message,
                last_error_ago_s=None if message is None else now - at,
            )

    def _move(self) -> float:
        """Let the time pass. In a pause the rate does not grow, and no more is saved up than terminations may need."""
        now = self._now()
        for until, most, growth in ((min(now, self._paused_until), _RESERVE, 0.0), (now, BURST, GROWTH)):
            passed = max(0.0, until - self._at)
            self._level = max(self._level, min(most, self._level + passed * self._rate))
            self._rate = min(RATE_MOST, self._rate + growth * passed)
            self._at += passed
        if self._rate == RATE_MOST:
            self._throttled_at = None
        return now

    def _wait(self, pause_s: float, leaves: float) -> float:
        """Seconds until a call may be made after the pause that leaves so much in the bucket."""
        level = max(self._level, min(_RESERVE, self._level + pause_s * self._rate))
        missing = leaves + 1 - level
        return pause_s + (missing / self._rate if missing > ROUNDING else 0.0)

    def _slow_down(self, verb: str, now: float, entered: float, retry_after_s: float) -> None:
        until = now + retry_after_s
        self._paused_until = max(self._paused_until, until)
        if verb == "terminate":  # clouds count verbs apart: only its own refusal holds a termination back
            self._terminate_from = max(self._terminate_from, until)
        self._level = min(self._level, _RESERVE)
        if entered > self._cut_at:  # calls that were under way together say one thing, not many
            self._rate = max(RATE_LEAST, self._rate / 2)
            self._cut_at = now
            self._throttled_at = self._throttled_at if self._throttled_at is not None else now

    def _spread(self, now: float, wait_s: float) -> float:
        """Who is sent away comes again one after the other, not all at the same moment."""
        turn = max(now + wait_s, self._promised + 1 / self._rate)
        self._promised = min(turn, now + wait_s + SPREAD_MOST_S)
        return self._promised - now

    def _why(self) -> str:
        """Without numbers that change: callers tell only of what is new."""
        if self._throttled_at is None:
            return f"held back: more than {RATE_MOST:g} calls a second to this cloud account; it is asked again in its turn"
        return "held back: the cloud refused calls of this account as too many; it is asked again more slowly"
