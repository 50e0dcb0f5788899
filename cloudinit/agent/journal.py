"""The journal: what this node holds, on disk before it counts, until the master has acknowledged it.

Lines of JSON, appended: an order accepted, an attempt about to start, ended, acknowledged. It survives the agent's death
(the file system has the line), not the machine's: the master fences a machine that it lost.
"""

import json
import os


class Journal:
    """Append-only; made anew, with what is open, when most of it is past."""

    COMPACT_AT = 1 << 20

    def __init__(self, path):
        # type: (str) -> None
        self._path = path
        self.orders, self.begun, self.ended = {}, set(), {}  # type: dict, set, dict
        self._file, self._size, self._compact_at = -1, 0, self.COMPACT_AT
        self._read()
        self._compact()  # a line that was cut short must not take the next one with it

    def accept(self, order):
        # type: (dict) -> None
        self.orders[order["attempt"]] = order
        self._write(["order", order])

    def begin(self, attempt):
        # type: (int) -> None
        """Before its process is started: after a crash nobody can tell whether it was."""
        self.begun.add(attempt)
        self._write(["begin", attempt])

    def end(self, result):
        # type: (dict) -> None
        self.ended[result["attempt"]] = result
        self._write(["end", result])

    def acknowledged(self, attempt):
        # type: (int) -> None
        self.orders.pop(attempt, None)
        self.begun.discard(attempt)
        self.ended.pop(attempt, None)
        self._write(["gone", attempt])
        if self._size > self._compact_at:
            self._compact()

    def _write(self, entry):
        # type: (list) -> None
        line = _line(entry)
        self._size += len(line)
        if os.write(self._file, line) < len(line):
            raise OSError("the disk is full: the journal cannot be written")

    def _compact(self):
        # type: () -> None
        """A new file with what is open, whole or not at all."""
        lines = [_line(["order", order]) for order in self.orders.values()]
        lines += [_line(["begin", attempt]) for attempt in self.begun]
        lines += [_line(["end", result]) for result in self.ended.values()]
        fresh = self._path + ".new"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.writelines(lines)
        os.rename(fresh, self._path)
        if self._file >= 0:
            os.close(self._file)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        self._size = sum(map(len, lines))
        self._compact_at = max(self.COMPACT_AT, 2 * self._size)

    def _read(self):
        # type: () -> None
        if not os.path.exists(self._path):
            return
        with open(self._path, "rb") as file:
            for line in file:
                try:
                    kind, value = json.loads(line)
                except ValueError:  # the last line of an agent that died while writing it
                    continue
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
