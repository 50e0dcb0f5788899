"""The tail of an attempt's output file: what of it the master has, what goes up next, and how long it may get."""

import binascii
import os

CUT = b"\n[elastic-orchestrator: the output is cut here, it is over the limit]\n"


class LogTail:
    """The file grows while its process runs; `close` fixes its size. Offsets count bytes from its beginning.

    Its process appends to it directly, past the agent. So the limit is kept by `look`: what is over it is cut off again,
    and the last bytes within say so.
    """

    CHUNK = 128 << 10
    CHUNK_TOTAL = 512 << 10  # of all attempts, in one call

    def __init__(self, path, limit):
        # type: (str, int) -> None
        self._path = path
        self._limit = limit
        self._settled = max(0, limit - len(CUT))  # up to here nothing can change any more
        self._size = None  # type: int | None
        self._acknowledged = 0
        self._sending = 0

    def look(self):
        # type: () -> int
        """Cut off what is over the limit; the file's size after it."""
        try:
            size = os.stat(self._path).st_size
            if size <= self._limit:
                return size
            file = os.open(self._path, os.O_WRONLY)
        except FileNotFoundError:
            return 0
        try:
            os.pwrite(file, CUT, self._limit - len(CUT) if self._limit > len(CUT) else 0)
            os.ftruncate(file, self._limit)
        finally:
            os.close(file)
        self._settled = self._limit
        return self._limit

    def close(self):
        # type: () -> int
        self._size = self._settled = self.look()
        return self._size

    def chunks(self, attempt, budget):
        # type: (int, list) -> list
        """The next piece as the master takes it, within the call's budget of bytes; [] where there is none."""
        self._sending = self._acknowledged
        most = min(self.CHUNK, budget[0], self._settled - self._acknowledged)
        if most <= 0:
            return []
        data = self._read(self._acknowledged, most)
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
