"""The journal: what this node holds, on disk before it counts, until the master has acknowledged it.

Lines of JSON: an order accepted, an attempt about to start, ended, acknowledged. It survives the agent's death (the file
system has the line), not the machine's: the master fences a machine that it lost.

A full disk must not make it lie. So an order is accepted only once the file has the room for everything that will ever be
written of it; what is held can then be brought to its end whatever the jobs do with the rest of the disk.
"""

import json
import os

from faultpoints import reach


class Journal:
    """Written from front to back, zeros after that; made anew, with what is open, when most of it is past."""

    COMPACT_AT = 1 << 20
    ROOM = 96 << 10  # more than all the lines of one attempt after its order: its control and output files are bounded
    AHEAD = 256 << 10  # room is asked for in such pieces

    def __init__(self, path):
        # type: (str) -> None
        self._path = path
        self.orders, self.begun, self.ended = {}, set(), {}  # type: dict, set, dict
        self._file, self._size, self._room, self._compact_at = -1, 0, 0, self.COMPACT_AT
        self._read()
        if not self._compact():  # a line that was cut short must not take the next one with it
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            self._put("blank", b"\n")

    def accept(self, order):
        # type: (dict) -> None
        """Raises OSError where the disk has no room for it; then it is not held."""
        line = _line(["order", order])
        self._reserve(len(line) + self.ROOM * (len(self.orders) + 1))
        self._put("order", line)
        self.orders[order["attempt"]] = order

    def begin(self, attempt):
        # type: (int) -> None
        """Before its process is started: after a crash nobody can tell whether it was."""
        self._put("begin", _line(["begin", attempt]))
        self.begun.add(attempt)

    def end(self, result):
        # type: (dict) -> None
        """Goes up even where it cannot be written down any more: after a crash the attempt would be lost at worst."""
        try:
            self._put("end", _line(["end", result]))
        except OSError:
            if result["attempt"] not in self.begun:  # after a crash it would be run
                raise
        self.ended[result["attempt"]] = result

    def refuse(self, result):
        # type: (dict) -> None
        """The result of an order that was not accepted. It need not outlive the agent: the order would come again."""
        self.ended[result["attempt"]] = result

    def acknowledged(self, attempt):
        # type: (int) -> None
        if attempt in self.orders:
            try:
                self._put("gone", _line(["gone", attempt]))
            except OSError:  # after a crash its end would go up once more, and be passed over
                pass
        self.orders.pop(attempt, None)
        self.begun.discard(attempt)
        self.ended.pop(attempt, None)
        if self._size > self._compact_at:
            self._compact()

    def _put(self, kind, line):
        # type: (str, bytes) -> None
        reach("agent.journal.%s.before" % kind)
        if os.pwrite(self._file, line, self._size) < len(line):
            raise OSError("the disk is full: the journal cannot be written")
        self._size += len(line)
        reach("agent.journal.%s.after" % kind)

    def _reserve(self, more):
        # type: (int) -> None
        if self._size + more > self._room:
            os.posix_fallocate(self._file, 0, self._size + more + self.AHEAD)
            self._room = self._size + more + self.AHEAD

    def _compact(self):
        # type: () -> bool
        """A new file with what is open, whole or not at all. False on a full disk: the old one still has its room."""
        lines = [_line(["order", order]) for order in self.orders.values()]
        lines += [_line(["begin", attempt]) for attempt in self.begun]
        lines += [_line(["end", result]) for result in self.ended.values() if result["attempt"] in self.orders]
        size = sum(map(len, lines))
        room = size + self.ROOM * len(self.orders) + self.AHEAD
        fresh = self._path + ".new"
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                os.posix_fallocate(file.fileno(), 0, room)
                file.writelines(lines)
        except OSError:
            if os.path.exists(fresh):
                os.unlink(fresh)
            self._compact_at = self._size + self.COMPACT_AT
            return False
        reach("agent.compact.before")
        os.rename(fresh, self._path)
        reach("agent.compact.after")
        if self._file >= 0:
            os.close(self._file)
        self._file = os.open(self._path, os.O_WRONLY)
        self._size, self._room = size, room
        self._compact_at = max(self.COMPACT_AT, 2 * size)
        return True

    def _read(self):
        # type: () -> None
        if not os.path.exists(self._path):
            return
        at = 0
        with open(self._path, "rb") as file:
            for line in file:
                written = line.rstrip(b"\0")
                if written:
                    self._size = at + len(written)
                    self._read_line(written.lstrip(b"\0"))
                at += len(line)

    def _read_line(self, line):
        # type: (bytes) -> None
        try:
            kind, value = json.loads(line)
        except ValueError:  # the last line of an agent that died while writing it
            return
        if kind == "order":
            self.orders[value["attempt"]] = value
        elif kind == "begin":
            self.begun.add(value)
        elif kind == "end":
            self.ended[value["attempt"]] = value
        elif kind == "gone":
            self.orders.pop(value, None)
            self.begun.discard(value)
            self.ended.pop(value, None)


def _line(entry):
    # type: (list) -> bytes
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
