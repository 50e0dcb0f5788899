"""The contract of a place where logs and artifacts are kept (`tests/unit/test_files.py` is its suite).

All calls are synchronous and thread-safe. What a call has returned from is kept: an agent is told so only after it.
`waits` says whether a call may wait for a network; then nobody makes it on the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Protocol

from orchestrator.store.trouble import Unavailable


class FilesUnavailable(Unavailable):
    """The store does not answer, or refuses: nothing of this was done, and the same may go well later."""


class Missing(Exception):
    """There is no such file: it never was, or it was removed when its time was over."""


class Kept(Protocol):
    """What both stores can do with all that one attempt left."""

    waits: bool

    def remove(self, attempt_id: int) -> None:
        """Forget all of this attempt. None there is success."""

    def last_written_before(self, moment: datetime) -> Iterator[int]:
        """Attempts of which something is kept, and nothing was written since."""


class LogStore(Kept, Protocol):
    """One log an attempt, from offset 0 on without gaps. `limit` is the most bytes kept of one attempt."""

    limit: int

    def append(self, attempt_id: int, offset: int, data: bytes) -> int:
        """Store what is new of this chunk and return the offset wanted next.

        A chunk beyond the end is not stored: the answer makes the agent rewind. Beyond the limit nothing is stored. A
        repeated chunk changes nothing, whichever master it comes to.
        """

    def read(self, attempt_id: int, offset: int = 0, length: int = 1 << 20) -> bytes:
        """Up to `length` bytes from `offset`; empty where there is no log (yet)."""

    def size(self, attempt_id: int) -> int: ...

    def settle(self, attempt_id: int) -> None:
        """Bring what came in pieces into few: nothing more is expected of this attempt. Only an economy."""


class FileStore(Kept, Protocol):
    """Files by attempt and relative path. A path is a name here, never a place on a disk."""

    def put(self, attempt_id: int, path: str, source: Path) -> None:
        """Keep this file, whole or not at all, in place of an older one; `source` is gone afterwards."""

    def read(self, attempt_id: int, path: str, offset: int = 0) -> Iterator[bytes]:
        """Its bytes from `offset`, in pieces. Raises Missing before the first."""
