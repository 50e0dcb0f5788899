"""One seed: a world is built, faults strike for a while, then they stop, and everything must come right."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.model.states import JOB_OPEN
from orchestrator.simulation import database
from orchestrator.simulation.chaos import Chaos
from orchestrator.simulation.cloud import SimulatedCloud
from orchestrator.simulation.invariants import Invariants
from orchestrator.simulation.line import Network
from orchestrator.simulation.machine import Ledger, Machine
from orchestrator.simulation.master import Base, SimulatedMaster
from orchestrator.simulation.people import People
from orchestrator.simulation.plan import Faults, Plan, dice_for
from orchestrator.simulation.rows import Violation
from orchestrator.simulation.world import World
from providers.base import TAG_INSTALLATION, LaunchRequest

JOBS_END_WITHIN_S = 4 * 3600.0
FLEET_RETURNS_WITHIN_S = 2 * 3600.0
LOOK_S = 60.0


@dataclass
class Outcome:
    """What became of a seed. `broken` says in words which promise was not kept; empty: all were."""

    seed: int
    broken: str = ""
    trace: list[str] = field(default_factory=list)
    steps: int = 0
    virtual_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    machines: int = 0
    attempts: int = 0


def simulate(seed: int, *, keep: int | None = 200) -> Outcome:
    """Play this seed. `keep`: how many of the last events the trace holds, None: all."""
    return play(Plan.of(seed), Run.play, keep=keep)


def play(plan: Plan, how: Callable[[Run], None], *, keep: int | None = 200) -> Outcome:
    """Build the world of this plan and let it live as `how` says."""
    folder = Path("/dev/shm")  # noqa: S108 - memory where there is some; the names are the library's
    room = Path(tempfile.mkdtemp(prefix="eo-simulation-", dir=folder if folder.is_dir() else None))
    run = Run(plan, room, keep)
    try:
        how(run)
    except Violation as violation:
        run.world.note("invariant", f"BROKEN: {violation}")
        return run.outcome(str(violation))
    except Exception as error:  # noqa: BLE001 - a seed that cannot be played has failed
        run.world.note("simulation", f"{type(error).__name__}: {error}")
        return run.outcome(f"{type(error).__name__}: {error}")
    finally:
        run.close()
        shutil.rmtree(room, ignore_errors=True)
    return run.outcome("")


class Run:
    """The world of one seed and everything in it."""

    def __init__(self, plan: Plan, room: Path, keep: int | None) -> None:
        self.plan = plan
        self.world = World(keep)
        self.faults = Faults(plan, self.world)
        self.network = Network(self.world, self.faults)
        self.ledger = Ledger()
        self._room = room
        self._dice = dice_for(plan.seed, "run")
        names = ("east", "west")[: plan.clouds]
        self.clouds = {name: SimulatedCloud(name, self.world, self.faults, self._build(name)) for name in names}
        self._engine = database.fresh()
        self._connection = database.raw(self._engine)
        self._cursor = self._connection.cursor()
        self.base = Base(self._engine, self.world, self.faults, self.clouds, room)
        self.strangers = {
            name: [cloud.stranger(), cloud.stranger(**{TAG_INSTALLATION: "eo-another"})]
            for name, cloud in self.clouds.items()
        }
        for cloud in self.clouds.values():
            cloud.forgetful = plan.forgetful
            cloud.shows_strangers = self._dice.random() < 0.5
        self.masters_may_live = True
        self.disturbed_at = -1e9  # when a master last began, or time was not what it seemed
        self.jumped_at = -1e9
        self._offset_s = 0.0
        self.people = People(self)
        self.invariants = Invariants(self)

    def close(self) -> None:
        for master in self.network.masters:
            master.process.kill()
        for cloud in self.clouds.values():
            for machine in cloud.hosts.values():
                machine.off()

    @property
    def undisturbed_since(self) -> float:
        """Since when masters could do their work, as far as they and their database go."""
        return max(self.disturbed_at, self.base.away_until, self.base.full_until)

    def outcome(self, broken: str) -> Outcome:
        return Outcome(
            seed=self.plan.seed,
            broken=broken,
            trace=self.world.trace.lines(),
            steps=self.world.steps,
            virtual_s=self.world.now,
            faults=self.faults.struck,
            machines=sum(cloud.ever for cloud in self.clouds.values()),
            attempts=self.ledger.pids,
        )

    # what is there

    def database(self, query: str) -> list[Any]:
        """Rows as the driver gives them."""
        return self._cursor.execute(query).fetchall()  # type: ignore[no-any-return]

    def changes(self) -> tuple[int, ...]:
        """Counts of all that was changed, rows first: the same counts, the same world."""
        of_clouds = [cloud.changes + len(cloud.ended) for cloud in self.clouds.values()]
        ends = self.ledger.pids - len(self.ledger.running)
        return (self._connection.total_changes, self.base.planned, ends, *of_clouds)

    def cloud_of(self, machine: Machine) -> SimulatedCloud:
        return next(cloud for cloud in self.clouds.values() if machine.id in cloud.hosts)

    def machine(self, id_: str) -> Machine | None:
        return next((cloud.hosts[id_] for cloud in self.clouds.values() if id_ in cloud.hosts), None)

    def _build(self, cloud: str) -> Any:
        def build(id_: str, request: LaunchRequest) -> Machine:
            machine = Machine(
                id_, request.user_data, self.world, self.faults, self.network, self.ledger, self.plan.seed, self._room
            )
            machine.ended_by_itself = lambda: self.clouds[cloud].end(id_)
            return machine

        return build

    # masters

    def start_master(self, name: str) -> None:
        if not self.masters_may_live:
            return
        self.disturbed_at = self.world.now
        self.world.note(name, "starts")
        master = SimulatedMaster(name, self.base, self._offset_s)
        master.process.when_dead.append(lambda: self._master_died(name))
        self.network.masters = [other for other in self.network.masters if other.process.alive] + [master]

    def _master_died(self, name: str) -> None:
        self.disturbed_at = self.world.now
        self.world.note(name, "is dead")
        self.world.at(self._dice.choice((1.0, 10.0, 200.0)), lambda: self.start_master(name))

    def jump(self, offset_s: float) -> None:
        self.disturbed_at = self.jumped_at = self.world.now
        self._offset_s = offset_s
        for master in self.network.masters:
            master.clock_offset_s = offset_s

    # the play

    def play(self) -> None:
        self.begin()
        self.storm(self.plan)
        self.end()

    def begin(self) -> None:
        """The masters come up, and people make the pools."""
        for number in range(self.plan.masters):
            self.start_master(f"master {number + 1}")
        self.people.begin()

    def storm(self, plan: Plan) -> None:
        """The plan's wishes while its faults strike; then they stop, and the fleet comes to rest."""
        self.faults.follow(plan)
        self.people.wish_for(plan)
        chaos = Chaos(self)
        chaos.begin()
        self.spend(plan.faults_for_s)
        self._end_faults()
        chaos.stop()
        if plan.master_gone_s:
            self._without_masters(plan.master_gone_s)
        self._until(JOBS_END_WITHIN_S, self._open_jobs)
        self._until(FLEET_RETURNS_WITHIN_S, self._above_floor)
        self.invariants.at_rest()

    def end(self) -> None:
        """Nobody needs machines any more: nothing of ours is left."""
        self.people.empty()
        self._until(FLEET_RETURNS_WITHIN_S, self._left_in_clouds)
        self.invariants.at_rest()

    def spend(self, seconds: float) -> None:
        self.world.run(seconds, self.invariants.check)

    def _until(self, most_s: float, what_is_left: Any) -> None:
        end = self.world.now + most_s
        while left := what_is_left():
            if self.world.now >= end:
                raise Violation(f"{most_s / 3600:g} h after the last fault there is still left: {left}")
            self.spend(LOOK_S)

    def _end_faults(self) -> None:
        """From here on nothing fails; what is broken already stays so until somebody mends it."""
        self.world.note("chaos", "no more faults")
        self.faults.active = False
        self.network.cut_off.clear()
        self.base.away_until = min(self.base.away_until, self.world.now)
        self.base.full_until = min(self.base.full_until, self.world.now)
        if self._offset_s:
            self.jump(0.0)
        for cloud in self.clouds.values():
            cloud.away_until = -1.0
            cloud.impaired.clear()
            for machine in cloud.hosts.values():
                machine.full_until = -1.0

    def _without_masters(self, gone_s: float) -> None:
        """Law 5: with nobody to tell them, machines that came up end by themselves."""
        self.world.note("chaos", "every master is gone")
        self.masters_may_live = False
        for master in self.network.masters:
            master.process.kill()
        self.spend(gone_s)
        self.invariants.nothing_runs_alone()
        self.masters_may_live = True
        for number in range(self.plan.masters):
            self.start_master(f"master {number + 1}")

    def _open_jobs(self) -> str:
        states = ", ".join(f"'{state}'" for state in JOB_OPEN)
        rows = self.database(f"SELECT id, state FROM job WHERE state IN ({states})")  # noqa: S608
        waiting = f"{self.people.left} wish(es) of people" if self.people.left else ""
        return ", ".join([*(f"job {id_} {state}" for id_, state in rows), *([waiting] if waiting else [])])

    def _above_floor(self) -> str:
        [[floor]] = self.database("SELECT sum(min_nodes) FROM pool WHERE gone_at IS NULL")
        rows = self.database("SELECT id, state, reason FROM node WHERE state <> 'terminated'")
        ready = [row for row in rows if row[1] == "ready"]
        if len(rows) == len(ready) == floor and not self._unaccounted(ready):
            return ""
        return f"{rows} where {floor} ready node(s) are to be; {self._unaccounted(ready)}"

    def _unaccounted(self, rows: list[Any]) -> str:
        alive = sum(len(cloud.existing(database.INSTALLATION)) for cloud in self.clouds.values())
        return f"{alive} machine(s) in the clouds" if alive != len(rows) else ""

    def _left_in_clouds(self) -> str:
        alive = [instance.id for cloud in self.clouds.values() for instance in cloud.existing(database.INSTALLATION)]
        rows = self.database("SELECT id, state, reason FROM node WHERE state <> 'terminated'")
        return f"machines {alive}, nodes {rows}" if alive or rows or self.people.left else ""
