"""The health of the shell engine: can this machine start a process, and has its state folder room and takes writes?"""

import errno
import os
import time

from machine import say
from processes import KILL, kill_group, spawn

CHECK_S = 30.0
PROBE_S = 10.0  # a shell that has nothing to do takes longer only where no job would get on either
ROOM = 32 << 20


class Engine:
    """`trouble` says why no task should be started here, "" while all is well; `news` is what the master has not heard.

    Each check that ends badly is news, for the master counts them; one that ends well only after a bad one, or the first.
    """

    def __init__(self, state, environment):
        # type: (str, dict) -> None
        self.trouble = ""
        self.news = None  # type: dict | None
        self._state = state
        self._environment = environment
        self._probe = None  # type: int | None
        self._begun = 0.0
        self._next = 0.0
        self._checks = 0

    @property
    def probing(self):
        # type: () -> bool
        return self._probe is not None

    def keep_time(self, now):
        # type: (float) -> None
        if self._probe is not None and self._begun and now - self._begun > PROBE_S:
            self._begun = 0.0
            kill_group(self._probe, KILL)
            self._found("a shell that does nothing did not end within %d s" % PROBE_S)
        if now >= self._next:
            self.check()

    def ready(self):
        # type: () -> bool
        """Whether a task may be started now. Asked before each, so only the disk's room is looked at."""
        if not self.trouble and not self._has_room():
            self.check()
        return not self.trouble

    def check(self):
        # type: () -> None
        """Begin to find out; what takes no process is found at once."""
        now = time.monotonic()
        self._next = now + CHECK_S
        if self._probe is not None:
            if not self._begun:
                self._found("a shell that does nothing cannot even be killed")
            return
        trouble = self._disk_trouble()
        if not trouble:
            try:
                self._probe, self._begun = spawn(":", self._environment, os.devnull), now
            except OSError as error:
                trouble = "cannot start a process: %s" % error
        if trouble:
            self._found(trouble)

    def ended(self, pid, code):
        # type: (int, int) -> bool
        """Whether this was the check's process; what it says about the engine is noted."""
        if pid != self._probe:
            return False
        self._probe = None
        if self._begun:
            self._found("" if code == 0 else "a shell that does nothing ended with %d" % code)
        return True

    def told(self, news):
        # type: (dict | None) -> None
        """The master has heard this."""
        if news is self.news:
            self.news = None

    def _found(self, trouble):
        # type: (str) -> None
        self._checks += 1
        if trouble != self.trouble:
            say("the engine is in trouble: %s" % trouble if trouble else "the engine is well again")
        if trouble or self.trouble or self._checks == 1:
            self.news = {"ok": not trouble, "trouble": trouble, "check": self._checks}
        self.trouble = trouble

    def _disk_trouble(self):
        # type: () -> str
        path = os.path.join(self._state, "probe")
        if not self._has_room():
            return "less than %d MB are free in %s" % (ROOM >> 20, self._state)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(file, b"x" * 4096)
            finally:
                os.close(file)
                os.unlink(path)
        except OSError as error:
            return "cannot write in %s: %s" % (self._state, os.strerror(error.errno or errno.EIO))
        return ""

    def _has_room(self):
        # type: () -> bool
        try:
            disk = os.statvfs(self._state)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize >= ROOM
