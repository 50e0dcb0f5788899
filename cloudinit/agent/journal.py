"""The journal: what this node holds, on disk before it counts, until the master has acknowledged it.

Lines of JSON, appended: an order accepted, an attempt about to start, ended, acknowledged. It survives the agent's death
(the file system has the line), not the machine's: the master fences a machine that it lost.
"""

import json
import os


class Journal:
    """Append-only, made anew when nothing in it is open any more."""

    COMPACT_AT = 1 << 20

    def __init__(self, path):
        # type: (str) -> None
        self._path = path
        self.orders, self.begun, self.ended = {}, set(), {}  # type: dict, set, dict
        self._read()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size

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
        if self._size > self.COMPACT_AT and not self.orders:
            os.ftruncate(self._file, 0)
            self._size = 0

    def _write(self, entry):
        # type: (list) -> None
        self._size += os.write(self._file, json.dumps(entry, separators=(",", ":")).encode() + b"\n")

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
