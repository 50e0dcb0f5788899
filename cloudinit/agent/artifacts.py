"""Artifacts: the files that a task declared, sent up when its command has ended and before its result counts.

A process of its own does it (`agent.pyz … --upload`), so that the loop which watches the jobs never waits for a large file,
and a transfer that hangs can be killed. The work folder is the job's, who may have put anything there: links, devices,
names of every kind. What is sent is opened without following links out of it, and checked once it is open.
"""

import json
import os
import select
import stat
import sys
import time

from calls import Call, Failed
from processes import CONTROL, CONTROL_NAME, Running, spawn

UPLOAD_S = 900.0  # all of one attempt's; the node may be draining meanwhile
CHUNK = 1 << 20
MOST_FILES = 1000
MOST_LOOKED_AT = 100000
LONGEST_PATH = 500
PROGRAM = os.path.abspath(sys.argv[0])  # before anybody changes the folder
REPORT = "upload-"  # then the attempt's number: what an upload says while it works, and at its end
OURS = ".orchestrator-"  # what lies in the work folder for the agent's sake


def forget_reports(state):
    # type: (str) -> None
    """Of uploads that an agent before this one had begun: their attempts are lost."""
    for name in os.listdir(state):
        if name.startswith(REPORT):
            os.unlink(os.path.join(state, name))


class Upload(Running):
    """An attempt whose command has ended, and whose artifacts are on their way. It keeps its slot."""

    __slots__ = ("_report", "ended_as", "more")

    def __init__(self, running, outcome, more, wanted, report, environment):
        # type: (Running, str, dict, dict, str, dict) -> None
        """Raises OSError where its process cannot be started."""
        asked = json.dumps({"attempt": running.attempt, "work": running.work, "patterns": wanted["patterns"]})
        command = [sys.executable, "-E", "-s", PROGRAM, *sys.argv[1:], "--upload", asked]
        marked = dict(environment)
        marked[CONTROL] = running.work + CONTROL_NAME  # found by it, as the job's own processes are
        if os.path.exists(report):
            os.unlink(report)
        began = time.monotonic(), time.time()
        pid = spawn("exec " + " ".join(map(_quoted, command)), marked, report)
        order = {"attempt": running.attempt, "timeout_s": UPLOAD_S, "grace_s": 2.0}
        Running.__init__(self, order, pid, running.work, *began)
        self.ended_as, self.more, self._report = outcome, more, report

    def result(self, code):
        # type: (int) -> tuple
        """The attempt's outcome, and what else is told of it."""
        if self.stopping == "cancelled":
            return "cancelled", self.more
        told = {"whole": False, "told": "the upload of its artifacts ended with status %d" % code}
        if self.stopping is not None:
            told["told"] = "its artifacts were not up within %d s" % UPLOAD_S
        try:
            with open(self._report, encoding="utf-8") as file:
                lines = file.read(65536).splitlines()
            os.unlink(self._report)
            if code == 0 and self.stopping is None:
                told = json.loads(lines[-1])
            elif lines:
                told["told"] += ": " + lines[-1][:200]
        except (OSError, ValueError, IndexError):
            pass
        return self.ended_as, dict(self.more, artifacts=told)


def wanted_of(order, outcome, code):
    # type: (dict, str, int) -> dict | None
    """What the order says of artifacts, where it is to be done after this end."""
    wanted = order.get("artifacts")
    if not wanted or outcome == "cancelled":
        return None
    succeeded = outcome == "exited" and code == 0
    return wanted if wanted.get("on") in ("always", "success" if succeeded else "failure") else None


def main(master, asked):
    # type: (..., str) -> int
    """The process that uploads: its last line on standard output is what it has to tell."""
    wanted = json.loads(asked)
    found, troubles = collect(wanted["work"], wanted["patterns"])
    line = _Line(master)
    for path in found:
        trouble = line.send(wanted["attempt"], wanted["work"], path)
        if trouble:
            troubles.append(trouble)
    told = "%d artifact(s)" % len(found) if found else "no file matches its artifacts"
    print(json.dumps({"whole": not troubles, "told": "; ".join(troubles)[:1000] if troubles else told}))
    return 0


def collect(work, patterns):
    # type: (str, list) -> tuple
    """Paths of plain files below `work` that match, and what is wrong with others that match."""
    found, troubles, looked_at = [], [], 0
    split = [pattern.split("/") for pattern in patterns]
    for folder, folders, names in os.walk(work):  # which goes through no link
        folders.sort()
        for name in sorted(names) + [each for each in folders if os.path.islink(os.path.join(folder, each))]:
            looked_at += 1
            path = os.path.relpath(os.path.join(folder, name), work)
            if path.startswith(OURS) or not any(matches(path.split("/"), pattern) for pattern in split):
                continue
            trouble = _unfit(work, path)
            if trouble is None:
                found.append(path)
            elif trouble:
                troubles.append("artifact %s %s" % (ascii(path[:100]), trouble))
        if looked_at > MOST_LOOKED_AT:
            troubles.append("its work folder has more than %d files" % MOST_LOOKED_AT)
            break
    if len(found) > MOST_FILES:
        troubles.append("more than %d files match its artifacts" % MOST_FILES)
    return found[:MOST_FILES], troubles


def matches(parts, pattern):
    # type: (list, list) -> bool
    """Whether a path, by its parts, is one of this pattern: `*`, `?` and `[…]` within a part, `**` any number of parts."""
    from fnmatch import fnmatchcase

    at = _past_stars({0}, pattern)
    for part in parts:
        ahead = {i + 1 for i in at if i < len(pattern) and pattern[i] != "**" and fnmatchcase(part, pattern[i])}
        at = _past_stars(ahead | {i for i in at if i < len(pattern) and pattern[i] == "**"}, pattern)
    return len(pattern) in at


def _past_stars(at, pattern):
    # type: (set, list) -> set
    """`**` may also stand for no part at all."""
    for i, part in enumerate(pattern):
        if part == "**" and i in at:
            at = at | {i + 1}
    return at


def _unfit(work, path):
    # type: (str, str) -> str | None
    """Why this file cannot be an artifact; "" for what only looks like one, such as a link to a folder within."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    if len(path) > LONGEST_PATH or any(letter < " " or letter == "\x7f" for letter in path):
        return "has a name that is too long, or with control characters"
    try:
        os.close(open_within(work, path))
    except IsADirectoryError:
        return ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return None


def open_within(work, path):
    # type: (str, str) -> int
    """The file, open to be read. Raises ValueError for what is not a plain file below `work`: asked of the open file, so
    that nothing can be put in its place in between."""
    file = os.open(os.path.join(work, path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(file).st_mode
        inside = os.path.realpath("/proc/self/fd/%d" % file).startswith(os.path.realpath(work) + "/")
        if not inside:
            raise ValueError("is a link that leads out of the work folder")
        if stat.S_ISDIR(mode):
            raise IsADirectoryError("is a folder")
        if not stat.S_ISREG(mode):
            raise ValueError("is not a plain file")
    except (OSError, ValueError):
        os.close(file)
        raise
    return file


class _Line:
    """One connection to the master, waited on: it is all this process does. The agent ends it when it takes too long."""

    def __init__(self, master):
        # type: (...) -> None
        self._master = master
        self._connection = None  # type: ...

    def send(self, attempt, work, path):
        # type: (int, str, str) -> str
        """Repeats what was lost on the way, and a file that was changed meanwhile once. Returns what is wrong, or ""."""
        trouble = ""
        for _ in range(2):
            try:
                file = open_within(work, path)
            except (OSError, ValueError) as error:
                return "artifact %s %s" % (path, error)
            try:
                status, trouble = self._send(attempt, path, file)
            finally:
                os.close(file)
            if status != 409:
                break
        return "artifact %s %s" % (path, trouble) if trouble else ""

    def _send(self, attempt, path, file):
        # type: (int, str, int) -> tuple
        size, digest = _measured(file)
        offset = 0
        while True:
            place = "attempt=%d&path=%s&size=%d&sha256=%s&offset=%d" % (attempt, _percent(path), size, digest, offset)
            data = os.pread(file, min(CHUNK, size - offset), offset)
            if len(data) < min(CHUNK, size - offset):
                return 409, "became shorter while it was sent"
            status, answer = self._ask("/agent/v1/artifact?" + place, data)
            if status != 200:
                return status, "was refused: %s" % answer.get("error", status)
            if answer.get("stored"):
                return 200, ""
            offset = max(0, min(int(answer.get("offset", 0)), size))

    def _ask(self, target, data):
        # type: (str, bytes) -> tuple
        """Again and again while the master is away or in trouble."""
        pause_s = 0.2
        while True:
            try:
                status, answer = self._once(target, data)
                if status < 500 and status != 425:
                    return status, answer
                why = "the master answered %d: %s" % (status, answer.get("error", ""))
            except Failed as error:
                why = str(error)
            print(why, flush=True)
            time.sleep(pause_s)
            pause_s = min(5.0, pause_s * 2)

    def _once(self, target, data):
        # type: (str, bytes) -> tuple
        if self._connection is None:
            self._connection = self._master.connect()
        call = Call(self._connection, self._master.post(target, data, "application/octet-stream"), 60.0)
        try:
            while not call.step():
                reading, writing = ([], [call.socket]) if call.wants_to_write else ([call.socket], [])
                select.select(reading, writing, [], 1.0)
                call.check_time()
        except Failed:
            self._hang_up()
            raise
        if not call.keep:
            self._hang_up()
        return call.status, call.answer()

    def _hang_up(self):
        # type: () -> None
        self._connection.close()
        self._connection = None


def _measured(file):
    # type: (int) -> tuple
    import hashlib

    digest, size = hashlib.sha256(), 0
    while True:
        data = os.pread(file, CHUNK, size)
        if not data:
            return size, digest.hexdigest()
        digest.update(data)
        size += len(data)


def _quoted(text):
    # type: (str) -> str
    return "'" + text.replace("'", "'\"'\"'") + "'"


def _percent(text):
    # type: (str) -> str
    return "".join("%%%02X" % byte for byte in text.encode())
