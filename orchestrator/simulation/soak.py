"""A soak: one installation that lives for simulated days or months, on the classes that play single seeds.

Each watch of six hours has a plan of its own, with other faults and other jobs. They strike for a while, then all must come
to rest, and for what is left of the watch little happens. At each rest is measured what must not grow with time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.simulation.plan import Plan
from orchestrator.simulation.rows import Violation
from orchestrator.simulation.run import Outcome, Run, play
from orchestrator.simulation.world import MOST_STEPS

WATCH_S = 6 * 3600.0
WATCHES_A_DAY = 4
MORE_JOBS = 3  # a watch is longer than a seed's storm
SETTLED = 8  # watches until all that is made once has been made
GROWTH_MB = 64.0
TABLES = ("event", "job", "task", "attempt", "deployment", "launch", "node", "hold")


@dataclass(frozen=True, slots=True)
class Rest:
    """What is there at the end of a watch. `cpu_s` is what the watch cost, `memory_mb` of the process without the
    database, which the simulation keeps in memory and the product on a disk."""

    watch: int
    rows: dict[str, int]
    database_mb: float
    memory_mb: float
    cpu_s: float

    def line(self) -> str:
        rows = ", ".join(f"{count} {table}s" for table, count in self.rows.items())
        return (
            f"day {self.watch / WATCHES_A_DAY:5.2f}: memory {self.memory_mb:.0f} MB, database {self.database_mb:.1f} MB, "
            f"{self.cpu_s:.1f} s of CPU; {rows}"
        )


def soak(days: float, seed: int, tell: Callable[[Rest], None]) -> Outcome:
    """Live so many days. The outcome says what was broken first, as a seed's does."""
    return play(Plan.of(seed), lambda run: _live(run, round(days * WATCHES_A_DAY), tell))


def _live(run: Run, watches: int, tell: Callable[[Rest], None]) -> None:
    rests: list[Rest] = []
    run.begin()
    for watch in range(1, watches + 1):
        began_s = time.process_time()
        run.world.most_steps = run.world.steps + MOST_STEPS
        run.people.settle()
        run.storm(_plan(run.plan, watch))
        run.invariants.let_go()
        run.spend(max(0.0, watch * WATCH_S - run.world.now))
        rests.append(_measured(run, watch, time.process_time() - began_s))
        tell(rests[-1])
        _grows_not(rests)
    run.end()


def _plan(first: Plan, watch: int) -> Plan:
    """The watch's own faults and jobs, on the installation as it was set up."""
    fresh = Plan.of(first.seed * 100_000 + watch)
    gone_s = first.pool["lease_s"] + 900.0 if fresh.master_gone_s else 0.0
    return replace(
        first,
        seed=fresh.seed,
        rates=fresh.rates,
        jobs=fresh.jobs * MORE_JOBS,
        faults_for_s=fresh.faults_for_s * 2,
        master_gone_s=gone_s,
        drains=fresh.drains,
    )


def _measured(run: Run, watch: int, cpu_s: float) -> Rest:
    rows = {name: run.database(f"SELECT count(*) FROM {name}")[0][0] for name in TABLES}  # noqa: S608
    [[pages]], [[page]] = run.database("PRAGMA page_count"), run.database("PRAGMA page_size")
    database_mb = pages * page / 1e6
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return Rest(watch, rows, database_mb, resident - database_mb, cpu_s)


def _grows_not(rests: list[Rest]) -> None:
    """Rows are kept for the history; what the master holds in memory is not."""
    if len(rests) > SETTLED and rests[-1].memory_mb > rests[SETTLED - 1].memory_mb + GROWTH_MB:
        raise Violation(
            f"memory does not grow with time: {rests[SETTLED - 1].memory_mb:.0f} MB at first, {rests[-1].memory_mb:.0f} now"
        )
