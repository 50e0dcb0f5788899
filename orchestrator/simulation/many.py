"""Thousands of seeds over all cores, and one line that shows that it was not vacuous."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import structlog

from orchestrator.simulation.run import Outcome, simulate

CHUNK = 20  # seeds given to a process at once


@dataclass
class Total:
    """What all seeds together were."""

    seeds: int = 0
    seconds: float = 0.0
    steps: int = 0
    virtual_s: float = 0.0
    machines: int = 0
    attempts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    failed: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.steps += outcome.steps
        self.virtual_s += outcome.virtual_s
        self.machines += outcome.machines
        self.attempts += outcome.attempts
        self.faults += outcome.faults
        if outcome.broken:
            self.failed.append(outcome)

    def line(self) -> str:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        pace = f" in {self.seconds:.1f} s ({self.seeds / self.seconds:.1f}/s)" if self.seconds else ""
        return (
            f"{self.seeds} seeds{pace}: {len(self.failed)} failed; "
            f"{self.steps} steps over {self.virtual_s / 86400:.1f} virtual days, "
            f"{self.machines} machines, {self.attempts} attempts, {self.faults.total()} faults: {kinds}"
        )


def play(seeds: range, tell: Callable[[Outcome], None], *, processes: int | None = None) -> Total:
    """Play these seeds; `tell` hears of each that failed as soon as it did."""
    total = Total()
    began = time.monotonic()
    for outcome in _outcomes(seeds, processes or os.cpu_count() or 1):
        total.add(outcome)
        if outcome.broken:
            tell(outcome)
    total.seconds = time.monotonic() - began
    return total


def _outcomes(seeds: range, processes: int) -> Iterator[Outcome]:
    chunks = [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]
    if processes == 1:
        for chunk in chunks:
            yield from _play_chunk(chunk)
        return
    with ProcessPoolExecutor(processes) as pool:
        for outcomes in pool.map(partial(_play_chunk), chunks):
            yield from outcomes


def _play_chunk(seeds: range) -> list[Outcome]:
    quiet()
    outcomes = [simulate(seed) for seed in seeds]
    for outcome in outcomes:
        if not outcome.broken:
            outcome.trace.clear()
    return outcomes


def quiet() -> None:
    """The code under test logs what it survives; the trace has it all."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
