"""The control file: what a running job reports of its progress, and what it asks for the time after this attempt.

JSON objects, one alone or one a line: `{"retry": "now" | "15m" | "never", "params": {"NAME": "value"}}`, either key alone
too, and `{"progress": 0.4, "note": "halfway"}`. Of equal keys the last counts. What it means for the task is the master's
to judge; here it is only seen to that it is what it claims to be.
"""

import json
import os
import re

import notes

LIMIT = 4096  # bytes, the last ones: the journal has kept room for them since the order was accepted
REPORT_S = 1.0  # a job is asked for its progress no more often
LONGEST_NOTE = 200

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def read(path):
    # type: (str) -> dict | None
    """What goes up with the result: `never`, `retry_after_s`, `params`, `progress`, `note`, or `trouble` for a file that is
    none of these.

    None where the job wrote no such file."""
    try:
        content = notes.read(path, LIMIT, tail=True)
        return None if content is None else _understood(content)
    except (ValueError, RecursionError) as error:
        return {"trouble": str(error)[:200]}


class Watch:
    """The progress that a running job reports. `news` is what the master has not heard of it."""

    def __init__(self, path):
        # type: (str) -> None
        self.news = None  # type: dict | None
        self._path = path
        self._next = 0.0
        self._seen = None  # type: tuple | None
        self._told = {}  # type: dict

    def look(self, now):
        # type: (float) -> None
        """Read the file if it has changed. What it says wrongly, or not whole yet, is passed over until the end."""
        if now < self._next:
            return
        self._next = now + REPORT_S
        try:
            status = os.lstat(self._path)
        except OSError:  # so for nearly every job
            return
        seen = (status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return
        self._seen = seen
        asked = read(self._path) or {}
        report = {key: asked[key] for key in ("progress", "note") if key in asked}
        if report and report != self._told:
            self.news = report

    def told(self, report):
        # type: (dict) -> None
        """The master has heard this."""
        self._told = report
        if report == self.news:
            self.news = None


def _understood(content):
    # type: (bytes) -> dict
    told = {}  # type: dict
    for asked in _objects(content):
        if not isinstance(asked, dict) or not asked or set(asked) - {"retry", "params", "progress", "note"}:
            raise ValueError('must be an object with the keys "retry", "params", "progress" and "note", or some of them')
        if "retry" in asked:
            for key in ("never", "retry_after_s"):
                told.pop(key, None)
            told.update(_retry(asked["retry"]))
        if "params" in asked:
            told["params"] = _params(asked["params"])
        if "progress" in asked:
            told["progress"] = _progress(asked["progress"])
        if "note" in asked:
            told["note"] = _note(asked["note"])
    return told


def _objects(content):
    # type: (bytes) -> list
    try:
        text = content.decode()
        try:
            return [json.loads(text)]
        except ValueError:
            lines = [line for line in text.splitlines() if line.strip()]
            if len(lines) < 2:
                raise
            return [json.loads(line) for line in lines]
    except ValueError:
        raise ValueError('is not JSON; write {"retry": "15m"} or {"progress": 0.4}') from None


def _progress(value):
    # type: (object) -> float
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError("progress must be a number from 0 to 1")
    return float(value)


def _note(value):
    # type: (object) -> str
    if not isinstance(value, str):
        raise ValueError("note must be a text")
    return value[:LONGEST_NOTE].encode(errors="replace").decode()


def _retry(value):
    # type: (object) -> dict
    if value == "never":
        return {"never": True}
    match = _DURATION.fullmatch("0" if value == "now" else str(value))
    if match is None or isinstance(value, bool):
        raise ValueError('retry must be "now", "never" or a duration such as "15m"')
    return {"retry_after_s": min(float(match.group(1)) * _UNITS[match.group(2)], 1e9)}


def _params(value):
    # type: (object) -> dict
    """No process could be started with other names or values, and that would look like the machine's fault."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("params must be an object of names and texts")
    for name, text in value.items():
        if not _NAME.fullmatch(name):
            raise ValueError("params has a name that no environment variable can have: %.40r" % name)
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError("params.%s has a NUL byte or half a surrogate pair" % name)
    return value
