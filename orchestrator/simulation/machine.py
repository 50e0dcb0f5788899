"""A machine: a disk that outlives its agent, the agent's process, and the processes of attempts, whose ends are noted."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING, Any

from orchestrator.fleet import signals
from orchestrator.simulation import agent
from orchestrator.simulation.plan import Faults, dice_for
from orchestrator.simulation.world import START, Process, Signal, World

if TYPE_CHECKING:
    from orchestrator.simulation.line import Network

TURN_S = 0.001  # what the loop of an agent takes at least: without it no time would pass in a wait too short to count


@dataclass(slots=True)
class Execution:
    """One process of an attempt: the truth of what ran where, from when to when, and how it ended."""

    attempt: int
    task: str
    machine: str
    pid: int
    began: float
    token: str
    work: str
    log: str
    stubborn: bool
    parent: Process
    limit_s: float | None  # its time limit with the grace, after which nothing of it may run
    control: str = ""  # what it writes into its control file
    ended: float | None = None
    code: int | None = None

    @property
    def runs(self) -> bool:
        return self.ended is None


class Ledger:
    """Every execution there ever was, by attempt."""

    def __init__(self) -> None:
        self.by_attempt: dict[int, list[Execution]] = defaultdict(list)
        self.running: dict[int, Execution] = {}  # by pid
        self.pids = 0
        self.probes = 0  # counted downwards: checks of an engine are no attempts


class Machine:
    """`boot` turns it on, `off` ends it for good; in between its agent lives and dies."""

    def __init__(
        self,
        id_: str,
        user_data: bytes,
        world: World,
        faults: Faults,
        network: Network,
        ledger: Ledger,
        seed: int,
        room: Path,
    ) -> None:
        self.id = id_
        self.world = world
        self.faults = faults
        self.network = network
        self.config: dict[str, Any] = json.loads(user_data)
        self.disk = room / id_
        self.wake = Signal(world)
        self.agent: Process | None = None
        self.on = True
        self.up_at: float | None = None
        self.heard_at = 0.0  # when a master last answered it
        self.busy_at = 0.0  # when a process of it last ended
        self.answered: deque[float] = deque(maxlen=1000)
        self.node_id: int | None = None
        self.hangs_until = -1.0
        self.full_until = -1.0  # its disk
        self.clock_offset_s = 0.0
        self.reclaim_at: float | None = None  # when its cloud takes it back, as it says
        self.journal: Any = None
        self.power_off_asked: str | None = None
        self.ended_by_itself = lambda: None
        self._ledger = ledger
        self._seed = seed
        self._boots = 0
        self._ended: list[tuple[int, int]] = []

    # its life

    def boot(self) -> None:
        """Power comes; the agent starts a while later, if ever."""
        if self.faults.strikes("never boots", self.id):
            return
        late = self.faults.strikes("boots late", self.id)
        delay_s = self.faults.dice.uniform(200, 900) if late else self.faults.dice.uniform(20, 60)
        self._boots += 1
        boots = self._boots
        self.world.at(delay_s / 2, lambda: self._tell(signals.BEGAN) if boots == self._boots else None)
        self.world.at(delay_s, lambda: self._up() if boots == self._boots else None)

    def _tell(self, phase: str) -> None:
        self.network.tell_boot(signals.Booting(self.config["enrolment_secret"], self.id, phase), self)

    def _up(self) -> None:
        if not self.on:
            return
        self._tell(signals.FETCHED)
        if self.faults.strikes("fetches its agent and does not enrol", self.id):
            return
        data = self.disk / "var/lib/cloud/data"
        data.mkdir(parents=True, exist_ok=True)
        (data / "instance-id").write_text(self.id)
        self.start_agent()

    def start_agent(self) -> None:
        if not self.on or self.agent is not None:
            return
        self.up_at = self.heard_at = self.world.now
        self.agent = Process(self.world, f"agent {self.id}", host=self)
        self.agent.when_dead.append(self._agent_gone)
        self.agent.spawn(lambda: agent.live(self))

    def kill_agent(self, *, again_s: float) -> None:
        """The agent's process ends and its supervisor starts it again; what it had started goes on without it."""
        if self.agent is not None:
            boots = self._boots
            self.agent.kill()
            self.world.at(again_s, lambda: self.start_agent() if boots == self._boots else None)

    def _agent_gone(self) -> None:
        self.agent = None
        self.up_at = None
        self._ended.clear()
        if self.journal is not None:
            agent.close(self.journal)
            self.journal = None

    def reboot(self) -> None:
        """All processes end; the disk stays."""
        if self.on:
            self._halt()
            self.boot()

    def lose_disk(self) -> None:
        """All processes end and the disk is empty: the machine comes up as if it were new."""
        if self.on:
            self._halt()
            shutil.rmtree(self.disk, ignore_errors=True)
            self.boot()

    def off(self) -> None:
        """For good."""
        self._boots += 1
        self.on = False
        self._halt()

    def scrap(self) -> None:
        """Nobody sees it any more."""
        self.off()
        shutil.rmtree(self.disk, ignore_errors=True)

    @property
    def disk_is_full(self) -> bool:
        return self.full_until > self.world.now

    def _halt(self) -> None:
        if self.agent is not None:
            self.agent.kill()
        for execution in self.executions():
            self._end(execution, -SIGKILL)

    def power_off(self, reason: str) -> None:
        """The agent's own wish: clouds end what powers off."""
        self.world.note(f"agent {self.id}", f"powers off: {reason}")
        self.world.at(1.0, self.ended_by_itself)

    def heard(self, path: str, status: int) -> None:
        """A master answered it."""
        if path.endswith("sync") and status in (200, 410):
            self.heard_at = self.world.now
            self.answered.append(self.world.now)

    # its clock

    def time(self) -> float:
        return START.timestamp() + self.world.now + self.clock_offset_s

    def sleep(self, seconds: float) -> None:
        self.world.sleep(seconds)
        self._hang()

    def wait(self, seconds: float) -> None:
        """What a select does: until something happens here, or the time is over."""
        self.wake.wait(max(seconds, TURN_S))
        self._hang()

    def _hang(self) -> None:
        if self.hangs_until > self.world.now:
            self.world.sleep(self.hangs_until - self.world.now)

    # its processes

    def executions(self) -> list[Execution]:
        return [execution for execution in self._ledger.running.values() if execution.machine == self.id]

    def start(self, order: dict[str, Any], work: str, log: str) -> int:
        """Begin the attempt's process; what it does is settled by the seed, the task and the try."""
        env = order["env"]
        task, number = env["SIMULATED_TASK"], env["ORCHESTRATOR_ATTEMPT"]
        if self.faults.strikes("process does not start", f"attempt {order['attempt']} on {self.id}"):
            raise OSError("no process to be had")
        dice = dice_for(self._seed, f"{task}/{number}")
        self._ledger.pids += 1
        pid = self._ledger.pids
        assert self.agent is not None
        execution = Execution(
            attempt=order["attempt"],
            task=task,
            machine=self.id,
            pid=pid,
            began=self.world.now,
            token=env["ORCHESTRATOR_TOKEN"],
            work=work,
            log=log,
            stubborn=dice.random() < 0.1,
            parent=self.agent,
            limit_s=order["timeout_s"] + order["grace_s"] if order["timeout_s"] else None,
            control=env.get("SIMULATED_CONTROL", ""),
        )
        self._ledger.by_attempt[order["attempt"]].append(execution)
        self._ledger.running[pid] = execution
        self.world.note(f"agent {self.id}", f"attempt {order['attempt']} ({task}) runs")
        code = dice.choice((1, 2, 75, 78)) if dice.random() < float(env["SIMULATED_FAILURES"]) else 0
        seconds = float(env["SIMULATED_SECONDS"]) * dice.choice((0.1, 1, 1, 3))
        size = dice.choice((0, 10, 1000))
        self.world.at(seconds, lambda: self._finish(execution, code, size))
        return pid

    def _finish(self, execution: Execution, code: int, size: int) -> None:
        if execution.runs and not self.disk_is_full:
            if size:
                with open(execution.log, "ab") as file:  # noqa: PTH123 - the agent's own path, a string
                    file.write(b"x" * size)
            if execution.control and Path(execution.work).is_dir():
                Path(execution.work + agent.loaded()["processes"].CONTROL_NAME).write_text(execution.control)
        self._end(execution, code)

    def _end(self, execution: Execution, code: int) -> None:
        if execution.runs:
            execution.ended, execution.code = self.world.now, code
            self.busy_at = self.world.now
            del self._ledger.running[execution.pid]
            self.world.note(f"agent {self.id}", f"attempt {execution.attempt} ended: {code}")
            if execution.parent is self.agent:  # another agent's child is nobody's: only `kill_leftovers` finds it
                self._reapable(execution.pid, code)

    def signal(self, pid: int, how: int) -> None:
        """TERM ends what is not stubborn; KILL ends all."""
        execution = self._ledger.running.get(pid)
        if execution is not None and (how == SIGKILL or not execution.stubborn):
            self.world.at(0.5, lambda: self._end(execution, -how))

    def reap(self) -> list[tuple[int, int]]:
        """Processes that ended since it was asked last, as the agent that started them hears of it."""
        ended, self._ended = self._ended, []
        return ended

    def kill_marked(self, folder: str, how: int, but_group: int, spared: tuple[str, ...]) -> int:
        """Signal every process whose work folder is this one or lies in it."""
        found = [
            execution
            for execution in self.executions()
            if f"{execution.work}/".startswith(f"{folder}/") and execution.work not in spared and execution.pid != but_group
        ]
        for execution in found:
            self.signal(execution.pid, how)
        return len(found)

    def probe(self) -> int:
        """The shell that does nothing, by which the agent checks its engine."""
        if self.faults.strikes("engine is sick", self.id):
            raise OSError("no process to be had")
        self._ledger.probes -= 1
        pid = self._ledger.probes
        self.world.at(0.05, lambda: self._reapable(pid, 0))
        return pid

    def _reapable(self, pid: int, code: int) -> None:
        self._ended.append((pid, code))
        self.wake.set()
