"""The local folder: a log is a file that is appended to, an artifact a file that is moved into its place."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from orchestrator.files.base import Missing

PIECE = 1 << 20


class LocalLogs:
    """Files under one folder, one an attempt."""

    waits = False

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self.limit = limit

    def append(self, attempt_id: int, offset: int, data: bytes) -> int:
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

    def settle(self, attempt_id: int) -> None:
        """A file is as settled as it can be."""

    def remove(self, attempt_id: int) -> None:
        self._path(attempt_id).unlink(missing_ok=True)

    def last_written_before(self, moment: datetime) -> Iterator[int]:
        for entry in _entries(self._folder):
            number, dot, end = entry.name.partition(".")
            if dot and end == "log" and number.isdigit() and entry.stat().st_mtime < moment.timestamp():
                yield int(number)

    def _path(self, attempt_id: int) -> Path:
        return self._folder / f"{attempt_id // 1000:06d}" / f"{attempt_id}.log"


class LocalFiles:
    """One folder an attempt. What a file is called on the disk follows from its path, and cannot lead out of there."""

    waits = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, attempt_id: int, path: str, source: Path) -> None:
        place = self._place(attempt_id, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as file:
            os.fsync(file.fileno())
        source.replace(place)

    def read(self, attempt_id: int, path: str, offset: int = 0) -> Iterator[bytes]:
        try:
            file = self._place(attempt_id, path).open("rb")
        except FileNotFoundError:
            raise Missing(path) from None
        return _pieces(file, offset)

    def remove(self, attempt_id: int) -> None:
        shutil.rmtree(self._of(attempt_id), ignore_errors=True)

    def last_written_before(self, moment: datetime) -> Iterator[int]:
        for entry in _entries(self._folder):
            if entry.name.isdigit() and entry.stat().st_mtime < moment.timestamp():
                yield int(entry.name)

    def _of(self, attempt_id: int) -> Path:
        return self._folder / f"{attempt_id // 1000:06d}" / str(attempt_id)

    def _place(self, attempt_id: int, path: str) -> Path:
        return self._of(attempt_id) / name_of(path)


def name_of(path: str) -> str:
    """What an artifact is called in a store: no path of a job's choosing ever becomes one of ours."""
    return hashlib.sha256(path.encode()).hexdigest()


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in the folders of this one. What goes meanwhile is passed over."""
    with suppress(FileNotFoundError), os.scandir(folder) as thousands:
        for thousand in thousands:
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(thousand.path) as entries:
                yield from entries


def _pieces(file: BinaryIO, offset: int) -> Iterator[bytes]:
    with file:
        file.seek(offset)
        while piece := file.read(PIECE):
            yield piece
