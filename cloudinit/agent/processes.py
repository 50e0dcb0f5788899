"""Processes of attempts: each in a session and process group of its own, in a work folder, its output in a file."""

import errno
import os
import signal
import time

TERM, KILL = signal.SIGTERM, signal.SIGKILL
SHELL = "/bin/sh"
# What Python changed for itself and no job should inherit.
DEFAULT_SIGNALS = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD]


class Running:
    """One attempt under way. Times are of the monotonic clock but `started_at`, which the master is told."""

    __slots__ = ("attempt", "deadline", "grace_s", "log", "pid", "started", "started_at", "stopping")

    def __init__(self, order, pid, log):
        # type: (dict, int, str) -> None
        self.attempt = order["attempt"]
        self.pid = pid
        self.log = log
        self.started = time.monotonic()
        self.started_at = time.time()
        self.grace_s = order["grace_s"]
        limit = order["timeout_s"]
        self.deadline = self.started + limit if limit is not None else None
        self.stopping = None  # type: str | None

    def stop(self, outcome):
        # type: (str) -> None
        """TERM to the group now, KILL after the grace; `outcome` is what it ends as."""
        if self.stopping is None:
            self.stopping = outcome
            self.deadline = time.monotonic() + self.grace_s
            kill_group(self.pid, TERM)

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
            kill_group(self.pid, KILL)


def start(order, work, log, environment):
    # type: (dict, str, str, dict) -> Running
    """Start the order's command in the folder `work`. Raises OSError or ValueError where the machine cannot."""
    os.chdir(work)  # the agent is one thread, and posix_spawn has no working folder of its own
    try:
        pid = os.posix_spawn(
            SHELL,
            [SHELL, "-c", order["run"]],
            dict(environment, **order["env"]),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=DEFAULT_SIGNALS,
        )
    finally:
        os.chdir("/")
    return Running(order, pid, log)


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


def kill_leftovers(attempt):
    # type: (int) -> int
    """End every process of this attempt that an earlier agent left, found by its environment. Returns how many."""
    marks = {b"ORCHESTRATOR_ATTEMPT_ID=%d" % attempt}
    if "ORCHESTRATOR_ROOT" in os.environ:  # a local cloud's machines share one process table
        marks.add(b"ORCHESTRATOR_ROOT=" + os.environb[b"ORCHESTRATOR_ROOT"])
    killed = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open("/proc/%s/environ" % name, "rb") as file:
                if marks.issubset(file.read().split(b"\0")):
                    os.kill(int(name), KILL)
                    killed += 1
        except OSError:
            continue
    return killed
