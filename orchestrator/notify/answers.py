"""What becomes of a try to deliver, named by what the sender does next.

Undelivered
├ TryLater   the same may go well later: no answer, a busy receiver, a mail server that is away
└ GiveUp     it will not: refused by the receiver, or by our own rules
"""

from __future__ import annotations


class Undelivered(Exception):
    """The text is the reason, for whoever looks at the notification."""


class TryLater(Undelivered):
    """`after_s`: the receiver said when; None: it is ours to choose."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class GiveUp(Undelivered):
    pass
