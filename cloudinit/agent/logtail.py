"""The tail of an attempt's output file: what of it the master has, and what goes up next."""

import binascii
import os


class LogTail:
    """The file grows while its process runs; `close` fixes its size. Offsets count bytes from its beginning."""

    CHUNK = 128 << 10
    CHUNK_TOTAL = 512 << 10  # of all attempts, in one call

    def __init__(self, path):
        # type: (str) -> None
        self._path = path
        self._size = None  # type: int | None
        self._acknowledged = 0
        self._sending = 0

    def close(self):
        # type: () -> int
        try:
            self._size = os.stat(self._path).st_size
        except FileNotFoundError:
            self._size = 0
        return self._size

    def chunks(self, attempt, budget):
        # type: (int, list) -> list
        """The next piece as the master takes it, within the call's budget of bytes; [] where there is none."""
        self._sending = self._acknowledged
        if (self._size is not None and self._acknowledged >= self._size) or budget[0] <= 0:
            return []
        data = self._read(self._acknowledged, min(self.CHUNK, budget[0]))
        if not data:
            return []
        budget[0] -= len(data)
        self._sending = self._acknowledged + len(data)
        text = binascii.b2a_base64(data, newline=False).decode()
        return [{"attempt": attempt, "offset": self._acknowledged, "data": text}]

    def all_sent(self):
        # type: () -> bool
        """Whether the master has the whole file with the call that is being written."""
        return self._size is not None and max(self._sending, self._acknowledged) >= self._size

    def all_acknowledged(self):
        # type: () -> bool
        return self._size is not None and self._acknowledged >= self._size

    def acknowledge(self, offset):
        # type: (int) -> None
        """Go on from here: also backwards, when the master has less than was sent."""
        self._acknowledged = offset

    def remove(self):
        # type: () -> None
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    def _read(self, offset, most):
        # type: (int, int) -> bytes
        try:
            file = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(file, most, offset)
        finally:
            os.close(file)
