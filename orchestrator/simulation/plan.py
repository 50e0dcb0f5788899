"""The plan of a seed: how large the world is, which faults it knows, and how often each strikes.

Each seed knows only some of the kinds, each at a rate of its own ("swarm testing"): where everything fails at once little
is ever reached, and where all faults are rare they never meet.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

from orchestrator.simulation.world import World

PER_CALL: dict[str, float] = {
    # calls to a cloud
    "launch: request lost": 0.15,
    "launch: reply lost": 0.2,
    "launch: unavailable": 0.2,
    "launch: throttled": 0.2,
    "launch: no capacity": 0.2,
    "launch: quota": 0.1,
    "launch: fewer machines": 0.2,
    "launch: misconfigured": 0.03,
    "listing fails": 0.2,
    "listing throttled": 0.1,
    "listing lags": 0.3,
    "terminate: request lost": 0.25,
    "terminate: reply lost": 0.25,
    "terminate: without effect": 0.25,
    "slow cloud": 0.2,
    # machines, when they are made
    "shown late": 0.4,
    "never boots": 0.15,
    "boots late": 0.15,
    "fetches its agent and does not enrol": 0.1,
    "goes to error": 0.15,
    "made twice": 0.05,
    "slow to end": 0.3,
    "cannot be ended for long": 0.15,
    # the line between agents and masters
    "message lost": 0.05,
    "answer lost": 0.05,
    "message doubled": 0.05,
    "message delayed": 0.05,
    # the masters' own process, at named points
    "master dies before a commit": 0.01,
    "master dies after a commit": 0.01,
    "master dies before a cloud call": 0.04,
    "master dies after a cloud call": 0.04,
    "commit fails": 0.02,
    "answer to a commit lost": 0.02,
    # agents
    "process does not start": 0.1,
    "engine is sick": 0.2,
}
"""Faults that strike at an opportunity, and the most likely they ever are."""

PER_HOUR: dict[str, float] = {
    "machine vanishes": 6,
    "machine is reclaimed": 8,
    "machine loses its disk": 4,
    "machine boots again": 8,
    "machine fails its cloud's checks": 4,
    "disk of a machine is full": 6,
    "agent dies": 12,
    "agent hangs": 8,
    "agent is cut off": 12,
    "wall clock of a machine jumps": 6,
    "master dies": 6,
    "clock of a master jumps": 2,
    "database is away": 4,
    "disk of the masters is full": 2,
    "cloud is away": 4,
}
"""Faults that strike in their own time, and the most often they ever do."""

NEEDS_TOKENS = frozenset({"shown late", "listing lags", "launch: fewer machines", "made twice"})
"""Faults that only the cloud's idempotency token is a remedy for."""


@dataclass(frozen=True)
class Plan:
    """Everything a run depends on, drawn from the seed alone.

    `rungs`: how many kinds of machines the pool's ladder has; of two clouds, the second has a pool of its own as well.
    `forgetful`: the clouds keep no idempotency tokens, as if they had expired; one look must do, so machines show at once.
    """

    seed: int
    rates: dict[str, float]
    masters: int
    clouds: int
    faults_for_s: float
    jobs: int
    pool: dict[str, Any]
    rungs: int
    floor: int
    master_gone_s: float
    drains: bool
    forgetful: bool

    @classmethod
    def of(cls, seed: int) -> Plan:
        dice = Random(f"{seed}/plan")  # noqa: S311 - a seed that repeats is the point
        calm = dice.random() < 0.05
        share = 0.0 if calm else dice.choice((0.15, 0.3, 0.5, 0.8))
        rates = {
            kind: most * dice.choice((0.2, 0.5, 1.0))
            for kind, most in (PER_CALL | PER_HOUR).items()
            if dice.random() < share
        }
        slots = dice.choice((1, 1, 2, 4))
        pool = {
            "max_nodes": dice.choice((2, 4, 6)),
            "slots": slots,
            "boot_timeout_s": dice.choice((240, 600)),
            "heartbeat_timeout_s": dice.choice((90, 180)),
            "drain_timeout_s": dice.choice((120, 300)),
            "lease_s": dice.choice((300, 900)),
            "breaker_failures": dice.choice((1, 3)),
            "relaunch_limit": dice.choice((3, 20)),
        }
        masters = dice.choice((1, 1, 1, 2))
        return cls(
            seed=seed,
            rates=rates,
            masters=masters,
            clouds=dice.choice((1, 1, 2)),
            faults_for_s=dice.choice((300.0, 600.0, 1500.0)),
            jobs=dice.randint(1, 5),
            pool=pool,
            rungs=dice.choice((1, 1, 2, 3)),
            floor=dice.choice((0, 0, 1)),
            master_gone_s=dice.choice((0.0,) * 5 + (pool["lease_s"] + 900.0,)),
            drains=dice.random() < 0.4,
            forgetful=masters == 1 and dice.random() < 0.15,
        )


def dice_for(seed: int, what: str) -> Random:
    """Chance of its own for each thing, so that one more throw here moves nothing there."""
    return Random(f"{seed}/{what}")  # noqa: S311 - a seed that repeats is the point


class Faults:
    """The plan at work: throws the dice, counts what struck, and stops when told."""

    def __init__(self, plan: Plan, world: World) -> None:
        self._world = world
        self.dice = dice_for(plan.seed, "faults")
        self.struck: Counter[str] = Counter()
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """From here on strike by this plan."""
        self._plan = plan
        self.active = True

    def strikes(self, kind: str, whom: str) -> bool:
        """Whether this fault strikes at this opportunity."""
        rate = self._plan.rates.get(kind)
        if self._plan.forgetful and kind in NEEDS_TOKENS:
            return False
        if not self.active or rate is None or self.dice.random() >= rate:
            return False
        self.count(kind, whom)
        return True

    def count(self, kind: str, whom: str) -> None:
        self.struck[kind] += 1
        self._world.note("fault", f"{kind}: {whom}")

    def next_s(self, kind: str) -> float | None:
        """Seconds until this fault strikes next by itself; None: never."""
        rate = self._plan.rates.get(kind)
        return self.dice.expovariate(rate / 3600) if rate and self.active else None
