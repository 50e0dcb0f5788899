"""What Ctrl-C and signals mean to a command that waits for a job."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Wish(StrEnum):
    """What is to become of the job; `wait` is only ever an answer, never a rule."""

    CANCEL = "cancel"
    DETACH = "detach"
    WAIT = "wait"


class OnInterrupt(StrEnum):
    CANCEL = "cancel"
    DETACH = "detach"


class Interrupted(KeyboardInterrupt):
    """A signal arrived. `status` is what shells call a command that it ended."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.status = 128 + number


@contextmanager
def raised() -> Iterator[None]:
    """Signals raise Interrupted here, but for those that whoever started us had ignored (`nohup`, a shell's `&`)."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _raise)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wish_of_person(job: int, number: int, rule: OnInterrupt | None) -> Wish:
    """The rule; without one whoever pressed Ctrl-C on a terminal is asked, and everybody else detaches."""
    if rule is not None:
        return Wish(rule)
    if number != signal.SIGINT or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return Wish.DETACH
    question = f"\njob {job}: [c]ancel it, [d]etach and let it go on, or Enter to wait on? "
    print(question, end="", file=sys.stderr, flush=True)
    try:
        answer = (sys.stdin.readline() or "d").strip().lower()[:1]
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return Wish.DETACH
    return {"c": Wish.CANCEL, "d": Wish.DETACH}.get(answer, Wish.WAIT)


def _raise(number: int, _: Any) -> None:
    raise Interrupted(number)
