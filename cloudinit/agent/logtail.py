"""The tail of an attempt's output file: what of it the master has, what goes up next, and how long it may get."""

import binascii
import os

CUT = b"\n[elastic-orchestrator: the output is over its limit; from here on only its end is kept]\n"
DROPPED = b"[elastic-orchestrator: %15d bytes are left out here]\n"
MARK_SIZE = len(CUT) + len(DROPPED % 0)
LARGEST_END = 4 << 20


class LogTail:
    """The file grows while its process runs; `close` fixes its size. Offsets count bytes from its beginning.

    Its process appends to it directly, past the agent. So the limit is kept by `look`, which drops from the middle: the
    beginning stays where it is and is sent as it comes, then stand two lines that say so, then the end. The file itself
    says what was dropped, so that a restarted agent goes on with it.
    """

    CHUNK = 128 << 10
    CHUNK_TOTAL = 512 << 10  # of all attempts, in one call

    def __init__(self, path, limit):
        # type: (str, int) -> None
        self._path = path
        self._limit = limit
        self._end = min(limit // 4, LARGEST_END)  # how much of the end is kept
        self._head = max(0, limit - self._end - MARK_SIZE)
        self._settled = self._head  # up to here nothing can change any more
        self._dropped = 0
        self._over = False
        self._size = None  # type: int | None
        self._acknowledged = 0
        self._sending = 0

    def look(self):
        # type: () -> int
        """Drop what is over the limit, and over the room for the next end; the file's size after it."""
        return self._keep(self._limit + self._end if self._over else self._limit)

    def close(self):
        # type: () -> int
        self._size = self._settled = self._keep(self._limit)
        return self._size

    def _keep(self, most):
        # type: (int) -> int
        try:
            size = os.stat(self._path).st_size
            if size <= self._head:
                return size
            file = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return 0
        try:
            self._over = self._over or self._was_over(file)
            if size > most:
                size = self._drop(file, size)
            if self._over:
                self._settled = min(self._head + len(CUT), self._limit)
            return size
        finally:
            os.close(file)

    def _was_over(self, file):
        # type: (int) -> bool
        """What an agent that died has dropped here."""
        mark = os.pread(file, MARK_SIZE, self._head)
        if len(mark) < MARK_SIZE or not mark.startswith(CUT):
            return False
        number = mark[len(CUT) + DROPPED.index(b"%") :][:15].strip()
        self._dropped = int(number) if number.isdigit() else 0
        return True

    def _drop(self, file, size):
        # type: (int, int) -> int
        """Move the end up to the mark, and then what its process has written meanwhile, which is little."""
        at = self._head + MARK_SIZE
        piece = max(0, self._limit - at)
        self._dropped += size - piece - (at if self._over else self._head)
        self._over = True
        for _ in range(4):
            at += os.pwrite(file, os.pread(file, piece, size - piece), at)
            piece = os.fstat(file).st_size - size
            if not 0 < piece <= LARGEST_END:
                break
            size += piece
        self._dropped += max(0, os.fstat(file).st_size - size)
        os.pwrite(file, CUT + DROPPED % self._dropped, self._head)
        size = at if self._head else self._limit
        os.ftruncate(file, size)
        return size

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
