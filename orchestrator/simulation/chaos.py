"""Chaos: the faults that strike in their own time, at whoever is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.simulation.machine import Machine
from orchestrator.simulation.plan import PER_HOUR
from orchestrator.simulation.world import Process
from providers.base import Cause

if TYPE_CHECKING:
    from orchestrator.simulation.run import Run


class Chaos:
    """One actor for each kind of fault that the plan has."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._dice = run.faults.dice
        self._process = Process(run.world, "chaos")

    def begin(self) -> None:
        for kind in PER_HOUR:
            self._process.spawn(partial(self._strike, kind))

    def _strike(self, kind: str) -> None:
        while (next_s := self._run.faults.next_s(kind)) is not None:
            self._run.world.sleep(next_s)
            if self._run.faults.active:
                self._deed(kind)

    def _deed(self, kind: str) -> None:
        now, between = self._run.world.now, self._dice.uniform
        base = self._run.base
        of_machines: dict[str, Callable[[Machine], object]] = {
            "machine vanishes": lambda m: self._run.cloud_of(m).vanish(m.id),
            "machine is reclaimed": self._reclaim,
            "machine loses its disk": Machine.lose_disk,
            "machine boots again": Machine.reboot,
            "agent dies": lambda m: m.kill_agent(again_s=between(1, 30)),
            "agent hangs": lambda m: setattr(m, "hangs_until", now + between(30, 400)),
            "agent is cut off": lambda m: self._run.network.cut_off.update({m.id: now + between(20, 900)}),
            "machine fails its cloud's checks": self._impair,
            "disk of a machine is full": lambda m: setattr(m, "full_until", now + between(60, 900)),
            "wall clock of a machine jumps": lambda m: setattr(m, "clock_offset_s", self._dice.choice((-3600.0, 3600.0))),
        }
        if kind in of_machines:
            there = [machine for cloud in self._run.clouds.values() for machine in cloud.hosts.values() if machine.on]
            if there:
                machine = self._dice.choice(there)
                self._run.faults.count(kind, machine.id)
                of_machines[kind](machine)
            return
        self._run.faults.count(kind, "")
        if kind == "master dies":
            alive = [master for master in self._run.network.masters if master.process.alive]
            if alive:
                self._dice.choice(alive).process.kill()
        elif kind == "clock of a master jumps":
            self._run.jump(self._dice.choice((-3600.0, -120.0, 120.0, 3600.0)))
        elif kind == "database is away":
            base.away_until = now + between(5, 90)
        elif kind == "disk of the masters is full":
            base.full_until = now + between(30, 300)
        elif kind == "cloud is away":
            self._dice.choice(list(self._run.clouds.values())).away_until = now + between(30, 300)

    def stop(self) -> None:
        self._process.kill()

    def _impair(self, machine: Machine) -> None:
        """It fails its cloud's own status checks for a while, whatever it does."""
        impaired = self._run.cloud_of(machine).impaired
        impaired[machine.id] = "instance status check failed"
        self._run.world.at(self._dice.uniform(30, 600), lambda: impaired.pop(machine.id, None))

    def _reclaim(self, machine: Machine) -> None:
        """The cloud says that it takes the machine back, and does; sometimes at once."""
        notice_s = self._dice.choice((0.0, 30.0, 120.0))
        cloud = self._run.cloud_of(machine)
        machine.reclaim_at = machine.time() + notice_s
        machine.wake.set()
        self._run.world.at(notice_s, lambda: cloud.end(machine.id, cause=Cause.RECLAIMED, fault="reclaimed"))
