"""Logs of attempts, one file each: appended by offset, so that a repeated chunk changes nothing, and bounded."""

from __future__ import annotations

import os
from pathlib import Path


class LogStore:
    """Files under one folder. `limit` is the most bytes kept of one attempt; the rest is refused."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self.limit = limit

    def append(self, attempt_id: int, offset: int, data: bytes) -> int:
        """Store what is new of this chunk and return the offset wanted next.

        A chunk beyond the end is not stored: the answer makes the agent rewind. Beyond the limit nothing is stored.
        """
        path = self._path(attempt_id)
        try:
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            size = os.fstat(file).st_size
            fresh = data[max(0, size - offset) : max(0, self.limit - offset)] if offset <= size else b""
            return size + os.write(file, fresh) if fresh else size
        finally:
            os.close(file)

    def read(self, attempt_id: int, offset: int = 0, length: int = 1 << 20) -> bytes:
        """Up to `length` bytes from `offset`; empty where there is no log (yet)."""
        try:
            with self._path(attempt_id).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError:
            return b""

    def size(self, attempt_id: int) -> int:
        try:
            return self._path(attempt_id).stat().st_size
        except FileNotFoundError:
            return 0

    def _path(self, attempt_id: int) -> Path:
        return self._folder / f"{attempt_id // 1000:06d}" / f"{attempt_id}.log"
