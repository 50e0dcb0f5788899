"""Threads that repeat a step: at once when woken by an event, and at every periodic look, which only heals."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from orchestrator.faultpoints import reach
from orchestrator.store.trouble import trouble_of

log = structlog.get_logger(__name__)

Step = Callable[[], float | None]
"""One repeatable step; returns in how many seconds it wants to run again at the latest (None: at the next look)."""


class Loop:
    """A thread around one step. `pace_s` is the least time between two runs, so that a burst of events is one run."""

    def __init__(self, name: str, step: Step, *, look_s: float, pace_s: float = 0.0) -> None:
        self._name = name
        self._step = step
        self._look_s = look_s
        self._pace_s = pace_s
        self._woken = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        """False before `start`, and after a death that none of its steps can have caused."""
        return self._thread.is_alive()

    @property
    def name(self) -> str:
        return self._name

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        self._ending.set()
        self._woken.set()

    def join(self) -> None:
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._ending.is_set():
            self._woken.clear()
            try:
                reach(f"loop.{self._name}.before")
                next_s = self._step()
                reach(f"loop.{self._name}.after")
            except Exception as error:
                if (trouble := trouble_of(error)) is not None:
                    log.warning("a step could not be done; it is repeated", step=self._name, why=str(trouble))
                else:
                    log.exception("a step failed; it is repeated", step=self._name)
                next_s = None
            if self._pace_s:
                self._ending.wait(self._pace_s)
            self._woken.wait(self._look_s if next_s is None else max(0.0, min(next_s, self._look_s)))
