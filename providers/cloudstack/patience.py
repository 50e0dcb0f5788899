"""Many calls of one verb in a row run into the account's allowance, which is renewed within a second or so."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ..base import RateLimited

T = TypeVar("T")


def patiently(
    act: Callable[[], T],
    within_s: float,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Do it; when throttled, wait as long as the cloud says and do it again, where that ends within so many seconds."""
    deadline = now() + within_s
    while True:
        try:
            return act()
        except RateLimited as error:
            if now() + error.retry_after_s > deadline:
                raise
            sleep(error.retry_after_s)
