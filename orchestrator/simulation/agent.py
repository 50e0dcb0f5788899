"""The real agent, unchanged, on a simulated machine.

Its files are loaded anew into a world of their own: their time, chance, processes, select and calls are the machine's, and
where they would wait the turn passes on. Their disk is a real folder, so that journal, identity and logs are what they are.
"""

from __future__ import annotations

import importlib
import os
import sys
from errno import ENOSPC
from functools import cache
from pathlib import Path
from signal import SIGKILL
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from orchestrator.fleet.bootstrap import cloudinit_dir

if TYPE_CHECKING:
    from orchestrator.simulation.machine import Machine


def host() -> Machine:
    """The machine whose agent's turn it is."""
    return getcurrent().process.host  # type: ignore[no-any-return]


def live(machine: Machine) -> None:
    """What the agent's `main` does, from enrolment to power-off."""
    code = loaded()
    line = machine.network.line(machine)
    place = code["machine"].Machine(str(machine.disk))
    try:
        identity = code["enrolment"].enrol(line, place, machine.config)
    except code["enrolment"].Refused as refusal:
        machine.power_off(f"enrolment refused: {refusal}")
        return
    machine.node_id = identity["node_id"]
    machine.journal = code["journal"].Journal(place.path("journal"))
    worker = code["worker"].Worker(line, place, machine.journal, identity, Notice(machine))
    machine.power_off(worker.run())


def close(journal: Any) -> None:
    """What the end of a process does for its open file."""
    os.close(journal._file)


@cache
def loaded() -> dict[str, ModuleType]:
    """The agent's modules by name, with a world of their own; no other import ever finds these."""
    folder = str(cloudinit_dir() / "agent")
    before = _of_folder(folder)
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, folder)
    try:
        for file in sorted(Path(folder).glob("[!_]*.py")):
            importlib.import_module(file.stem)
        code = _of_folder(folder)
    finally:
        sys.path.remove(folder)
        for name in _of_folder(folder):
            del sys.modules[name]
        sys.modules.update(before)
    for module in code.values():
        _place(module)
    return code


def _of_folder(folder: str) -> dict[str, ModuleType]:
    return {
        name: module
        for name, module in list(sys.modules.items())
        if (getattr(module, "__file__", None) or "").startswith(folder)
    }


def _place(module: ModuleType) -> None:
    """Put the machine in the place of what the module uses of the real one."""
    from orchestrator.simulation.line import Call

    places: dict[str, Any] = {
        "time": _Time,
        "random": SimpleNamespace(uniform=lambda low, high: host().faults.dice.uniform(low, high)),
        "select": SimpleNamespace(select=lambda *_: ([], [], [])),
        "selectors": SimpleNamespace(DefaultSelector=_Selector, EVENT_READ=1, EVENT_WRITE=2),
        "signal": SimpleNamespace(
            **{name: getattr(module.signal, name) for name in ("SIGCHLD", "SIGTERM", "SIGKILL")},
            set_wakeup_fd=lambda *_, **__: None,
            signal=lambda *_: None,
        )
        if hasattr(module, "signal")
        else None,
        "say": lambda text: host().world.note(f"agent {host().id}", text),
        "Call": Call,
        "start": _start,
        "reap": lambda: host().reap(),
        "kill_group": lambda pid, how: host().signal(pid, how),
        "kill_marked": lambda folder, how=SIGKILL, but_group=0, spared=(): host().kill_marked(
            folder, how, but_group, tuple(spared)
        ),
        "CHECK_S": 300.0,
        "LOG_LOOK_S": 30.0,  # a process that ends wakes its agent; nobody reads along here
    }
    for name, value in places.items():
        if hasattr(module, name):
            setattr(module, name, value)
    if module.__name__ in ("worker", "journal", "engine", "workfolders"):
        module.os = _Os()  # type: ignore[attr-defined]
    if module.__name__ == "engine":
        module.spawn = lambda *_: host().probe()  # type: ignore[attr-defined]


def _start(order: dict[str, Any], work: str, log: str, _environment: dict[str, str]) -> Any:
    """A process of the simulation, in the agent's own words."""
    processes = loaded()["processes"]
    began = processes.time.monotonic(), processes.time.time()
    return processes.Running(order, host().start(order, work, log), work, *began)


class Notice:
    """In the place of the agent's `interruption.Interruption`: the cloud says when it takes the machine back."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._told: float | None = None

    @property
    def news(self) -> float | None:
        at = self._machine.reclaim_at
        return at if at != self._told else None

    def told(self, at: float | None) -> None:
        self._told = at if at is not None else self._told

    def step(self, _selector: object) -> None:
        return

    def pause_s(self) -> float:
        return 60.0


class _Time:
    @staticmethod
    def monotonic() -> float:
        return host().world.now

    @staticmethod
    def time() -> float:
        return host().time()

    @staticmethod
    def sleep(seconds: float) -> None:
        host().sleep(seconds)


class _Selector:
    """Nothing to register with: all that happens on a machine wakes its one waiter."""

    def register(self, *_: object) -> None:
        return

    unregister = modify = register

    def select(self, seconds: float) -> list[Any]:
        host().wait(seconds)
        return []


class _Os:
    """The real one, but for the pipe that signals would write to, and for a disk that may be full."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def pipe(self) -> tuple[int, int]:
        return -1, -1

    def set_blocking(self, *_: object) -> None:
        return

    def posix_fallocate(self, file: int, offset: int, size: int) -> None:
        _needs_room()
        os.posix_fallocate(file, offset, size)

    def mkdir(self, path: str, mode: int) -> None:
        _needs_room()
        os.mkdir(path, mode)  # noqa: PTH102 - the agent's own call

    def statvfs(self, path: str) -> Any:
        return SimpleNamespace(f_bavail=0, f_frsize=4096) if host().disk_is_full else os.statvfs(path)


def _needs_room() -> None:
    if host().disk_is_full:
        raise OSError(ENOSPC, os.strerror(ENOSPC))
