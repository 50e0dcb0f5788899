"""Processes of attempts: each in a session and process group of its own, in a work folder, its output in a file.

A process that leaves its group for a session of its own is still known: its environment names its attempt's control file,
and with it the machine and the attempt that it is of.
"""

import errno
import os
import signal
import time

TERM, KILL = signal.SIGTERM, signal.SIGKILL
SHELL = "/bin/sh"
CONTROL = "ORCHESTRATOR_CONTROL"
CONTROL_NAME = "/.orchestrator-control"
OUTPUT = "ORCHESTRATOR_OUTPUT"
OUTPUT_NAME = "/.orchestrator-output"
# What Python changed for itself and no job should inherit.
DEFAULT_SIGNALS = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD]


class Running:
    """One attempt under way. Times are of the monotonic clock but `started_at`, which the master is told: both are of the
    moment in which the system was asked for the process."""

    __slots__ = ("attempt", "deadline", "grace_s", "pid", "slots", "started", "started_at", "stopping", "work")

    def __init__(self, order, pid, work, started, started_at):
        # type: (dict, int, str, float, float) -> None
        self.attempt = order["attempt"]
        self.pid = pid
        self.slots = order.get("slots", 1)
        self.work = work
        self.started = started
        self.started_at = started_at
        self.grace_s = order["grace_s"]
        limit = order["timeout_s"]
        self.deadline = self.started + limit if limit is not None else None
        self.stopping = None  # type: str | None

    def stop(self, outcome):
        # type: (str) -> None
        """TERM to all its processes now, KILL after the grace; `outcome` is what it ends as."""
        if self.stopping is None:
            self.stopping = outcome
            self.deadline = time.monotonic() + self.grace_s
            self._signal(TERM)

    def check_time(self, now):
        # type: (float) -> None
        if self.deadline is None or now < self.deadline:
            return
        if self.stopping is None:
            self.stop("timed_out")
        else:
            if self.stopping == "timed_out":
                self.stopping = "killed"
            self.deadline = None
            self._signal(KILL)

    def _signal(self, how):
        # type: (int) -> None
        """The group, and who left it: each once, for a second TERM means "at once" to many programs."""
        kill_group(self.pid, how)
        kill_marked(self.work, how, but_group=self.pid)


def start(order, work, log, environment):
    # type: (dict, str, str, dict) -> Running
    """Start the order's command in the folder `work`. Raises OSError or ValueError where the machine cannot."""
    environment = dict(environment)
    environment.update(order["env"])
    environment[CONTROL] = work + CONTROL_NAME
    environment[OUTPUT] = work + OUTPUT_NAME
    os.chdir(work)  # the agent is one thread, and posix_spawn has no working folder of its own
    started, started_at = time.monotonic(), time.time()
    try:
        pid = spawn(order["run"], environment, log)
    finally:
        os.chdir("/")
    return Running(order, pid, work, started, started_at)


def spawn(command, environment, output):
    # type: (str, dict, str) -> int
    """A shell with this command, its output appended to a file: its pid, which is its session's and its group's too."""
    return os.posix_spawn(
        SHELL,
        [SHELL, "-c", command],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=DEFAULT_SIGNALS,
    )


def reap():
    # type: () -> list
    """(pid, exit code) of every child that ended; a signal is a negative code. What is left of its group dies first,
    while the group's number is still surely its own."""
    ended = []
    while True:
        try:
            seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if seen is None:
                return ended
            kill_group(seen.si_pid, KILL)
            pid, status = os.waitpid(seen.si_pid, 0)
        except ChildProcessError:
            return ended
        ended.append((pid, -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)))


def kill_group(pid, how):
    # type: (int, int) -> None
    try:
        os.killpg(pid, how)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EPERM):
            raise


def kill_marked(folder, how=KILL, but_group=0, spared=()):
    # type: (str, int, int, ...) -> int
    """Signal every process whose control file lies under `folder`, an attempt's work folder or the folder of them all;
    those of the `spared` work folders and of one group left out. Returns how many. Reads the whole process table:
    for attempts that are stopped, not for each that ends."""
    mark = ("%s=%s/" % (CONTROL, folder)).encode()
    keep = tuple(("%s=%s/" % (CONTROL, work)).encode() for work in spared)
    signalled = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open("/proc/%s/environ" % name, "rb") as file:
                lines = file.read().split(b"\0")
            for line in lines:
                if line.startswith(mark) and not line.startswith(keep) and os.getpgid(int(name)) != but_group:
                    os.kill(int(name), how)
                    signalled += 1
        except OSError:
            continue
    return signalled
