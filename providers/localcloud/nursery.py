"""Where the machines live: one small process that forks an init for every machine and buries what is left of them.

Run as a script (`python -I -S nursery.py`), it keeps to the standard library and to few imports, for each machine
costs a fork of it. It speaks JSON lines: orders come on standard input, news leave on standard output.

    {"boot": id, "root": dir, "console": file, "env": {…}, "commands": [[word, …], …]}  →  {"booted": id, "pid": n}
    {"stop": id}  →  {"ended": id, "by_guest": bool}, which also comes when the guest powers off

The init is the machine's first process and a child subreaper: whatever the guest starts, daemons with a session of
their own included, stays its descendant and dies with it. Init dies when the nursery dies, the nursery ends its inits
when its standard input closes: a killed local cloud leaves nothing behind. Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import sys
import time
from typing import Any, NoReturn

CONTROL = "run/initctl"  # the machine's power button, as in the days of System V
POWERED_OFF = 0  # exit codes of an init
CUT = 1

_GRACE_S = 0.3  # between TERM and KILL
# What Python or we have set otherwise; a guest gets the defaults.
_OURS = [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ]
_WATCHED = (signal.SIGTERM, signal.SIGCHLD)  # by nursery and inits, each by a pipe of its own
_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36


def descendants(pid: int) -> list[int]:
    """All living processes below `pid`, zombies left out; empty when there is no such process."""
    children = _children_by_parent()
    found = []
    below = children.get(pid, [])
    while below:
        found += below
        below = [grandchild for child, _ in below for grandchild in children.get(child, [])]
    return [child for child, zombie in found if not zombie]


def _children_by_parent() -> dict[int, list[tuple[int, bool]]]:
    """Every process of this host below its parent, and whether it is a zombie."""
    children: dict[int, list[tuple[int, bool]]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208  (pathlib doubles the memory of a machine)
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:  # noqa: PTH123
                state, parent = stat.read().rpartition(b")")[2].split()[:2]
        except OSError:
            continue  # it ended while we looked
        children.setdefault(int(parent), []).append((int(name), state == b"Z"))
    return children


def end_descendants(grace_s: float = _GRACE_S) -> None:
    """TERM, then KILL whatever is below this process until nothing is. Only a subreaper may be sure of the end."""
    _kill_descendants(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while _has_children():
        if time.monotonic() > deadline:
            _kill_descendants(signal.SIGKILL)
        time.sleep(0.01)


def _kill_descendants(how: signal.Signals) -> None:
    for pid in descendants(os.getpid()):
        _kill(pid, how)


def _kill(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return


def _has_children() -> bool:
    """Reap what has ended; True while a child lives."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl refused")


class _Wakeup:
    """Signals as bytes on a pipe, so that one select waits for them and for everything else."""

    def __init__(self, *signals: signal.Signals) -> None:
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, lambda *_: None)

    def read(self) -> set[int]:
        try:
            return set(os.read(self.reader, 512))
        except BlockingIOError:
            return set()


class _Init:
    """The first process of one machine: starts its commands one after the other, then waits for its end."""

    def __init__(self, order: dict[str, Any], nursery: int) -> None:
        _prctl(_SET_CHILD_SUBREAPER, 1)
        self._wakeup = _Wakeup(*_WATCHED)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        _prctl(_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != nursery:
            os._exit(CUT)  # the nursery died before the kernel was told to watch it
        os.setsid()
        os.chdir(order["root"])
        os.mkfifo(CONTROL, 0o600)
        self._control = os.open(CONTROL, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._attach(order["console"])
        self._env: dict[str, str] = order["env"]
        self._commands: list[list[str]] = order["commands"]
        self._running = 0

    @staticmethod
    def _attach(console: str) -> None:
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(console, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.close(nothing)
        os.close(log)

    def run(self) -> int:
        """Live until the guest powers off or the order to stop comes; then end all that runs. Returns the exit code."""
        while True:
            self._start_next()
            ready = select.select([self._wakeup.reader, self._control], [], [])[0]
            signals = self._wakeup.read() if self._wakeup.reader in ready else set()
            self._reap()
            if self._control in ready or signal.SIGTERM in signals:
                break
        os.unlink(CONTROL)  # noqa: PTH108
        end_descendants()
        return POWERED_OFF if self._control in ready else CUT

    def _start_next(self) -> None:
        while self._commands and not self._running:
            command = self._commands.pop(0)
            try:
                self._running = os.posix_spawnp(command[0], command, self._env, setsigdef=_OURS)
            except OSError as error:
                self._say(f"cannot start {command[0]}: {error.strerror}")

    def _reap(self) -> None:
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self._running:
                    self._running = 0
                    if status:
                        self._say(f"a command ended with {os.waitstatus_to_exitcode(status)}")
        except ChildProcessError:
            return

    @staticmethod
    def _say(text: str) -> None:
        os.write(2, f"init: {text}\n".encode())


class _Nursery:
    """Forks inits, watches them, and ends them all when its own end comes."""

    def __init__(self) -> None:
        _prctl(_SET_CHILD_SUBREAPER, 1)  # the guests of an init that was killed come to us
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a Ctrl-C is for the local cloud, which then closes our input
        self._wakeup = _Wakeup(*_WATCHED)
        self._machines: dict[int, str] = {}  # by the pid of their init
        self._unread = b""

    def run(self) -> None:
        while True:
            ready = select.select([0, self._wakeup.reader], [], [])[0]
            signals = self._wakeup.read() if self._wakeup.reader in ready else set()
            if signal.SIGTERM in signals or (0 in ready and not self._take_orders()):
                break
            self._bury()
        # Inits give their guests a grace of their own; ours must be longer.
        end_descendants(grace_s=3 * _GRACE_S)

    def _take_orders(self) -> bool:
        """Do what standard input asks; False when it has closed."""
        arrived = os.read(0, 1 << 16)
        *lines, self._unread = (self._unread + arrived).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "boot" in order:
                self._boot(order)
                continue
            for pid in [pid for pid, machine in self._machines.items() if machine == order["stop"]]:
                _kill(pid, signal.SIGTERM)
        return bool(arrived)

    def _boot(self, order: dict[str, Any]) -> None:
        nursery = os.getpid()
        # Until an init has a pipe of its own, a signal to it would come out of ours: "end this one" would end them all.
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        pid = os.fork()
        if not pid:
            _become_init(order, nursery)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        self._machines[pid] = order["boot"]
        self._tell({"booted": order["boot"], "pid": pid})

    def _bury(self) -> None:
        """Reap, report the inits that ended, and kill the guests of an init that somebody killed."""
        orphans = False
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                code = os.waitstatus_to_exitcode(status)
                machine = self._machines.pop(pid, None)
                orphans |= machine is None or code < 0
                if machine is not None:
                    self._tell({"ended": machine, "by_guest": code == POWERED_OFF})
        except ChildProcessError:
            pass
        if orphans:
            for child, _ in _children_by_parent().get(os.getpid(), []):
                if child not in self._machines:
                    _kill(child, signal.SIGKILL)

    @staticmethod
    def _tell(news: dict[str, Any]) -> None:
        os.write(1, json.dumps(news).encode() + b"\n")


def _become_init(order: dict[str, Any], nursery: int) -> NoReturn:
    code = CUT
    try:
        code = _Init(order, nursery).run()
    except BaseException as error:  # noqa: BLE001  (a fork must never run on into the nursery's own loop)
        os.write(2, f"init of {order['boot']}: {error!r}\n".encode())
    os._exit(code)


if sys.platform == "linux":
    _libc = ctypes.CDLL(None, use_errno=True)

if __name__ == "__main__":
    gc.freeze()  # forked inits then share these pages for good
    gc.disable()
    _Nursery().run()
