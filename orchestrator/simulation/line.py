"""The line between agents and masters: messages are lost, doubled and delayed, and answers too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator.simulation import agent
from orchestrator.simulation.plan import Faults
from orchestrator.simulation.world import World

if TYPE_CHECKING:
    from orchestrator.fleet.signals import Booting
    from orchestrator.simulation.machine import Machine
    from orchestrator.simulation.master import SimulatedMaster


class Network:
    """Who reaches whom. An agent calls any master that is up, as through one address."""

    def __init__(self, world: World, faults: Faults) -> None:
        self.world = world
        self.faults = faults
        self.masters: list[SimulatedMaster] = []
        self.cut_off: dict[str, float] = {}  # machine → until when

    def line(self, machine: Machine) -> Line:
        return Line(self, machine)

    def reachable(self, machine: Machine) -> list[SimulatedMaster]:
        if self.cut_off.get(machine.id, -1.0) > self.world.now:
            return []
        return [master for master in self.masters if master.process.alive]

    def send(self, call: Call) -> None:
        """The message goes its way; the call hears of its answer, of its failure, or nothing until its time is over."""
        delay_s = 0.02
        if self.faults.strikes("message delayed", call.told):
            delay_s = self.faults.dice.uniform(1, 60)
        if self.faults.strikes("message lost", call.told):
            self.world.at(self.faults.dice.uniform(0.1, 5), lambda: call.fail("the connection broke"))
            return
        self.world.at(delay_s, lambda: self._deliver(call))
        if self.faults.strikes("message doubled", call.told):
            self.world.at(delay_s + self.faults.dice.uniform(0, 30), lambda: self._deliver(call))

    def tell_boot(self, told: Booting, machine: Machine) -> None:
        """What a machine without an agent says, once: nobody repeats it."""
        up = self.reachable(machine)
        if up and not self.faults.strikes("message lost", f"boot of {machine.id}"):
            self.faults.dice.choice(up).told_of_boot(told)

    def _deliver(self, call: Call) -> None:
        up = self.reachable(call.machine)
        if not up:
            call.fail("no master is there")
            return
        self.faults.dice.choice(up).receive(call)

    def answer(self, call: Call, status: int, body: dict[str, Any]) -> None:
        lost = call.machine.id in self.cut_off and not self.reachable(call.machine)
        if lost or self.faults.strikes("answer lost", call.told):
            self.world.at(0.02, lambda: call.fail("the connection broke"))
            return
        content = json.dumps(body)
        self.world.at(0.02, lambda: call.arrive(status, content))


class Line:
    """What the agent has for its master (`calls.Master`)."""

    def __init__(self, network: Network, machine: Machine) -> None:
        self._network = network
        self._machine = machine
        self.credential = ""

    def connect(self) -> Connection:
        if not self._network.reachable(self._machine):
            raise agent.loaded()["calls"].Failed("cannot reach the master")
        return Connection(self._network, self._machine)

    def request(self, path: str, body: object) -> tuple[str, str, str]:
        return path, self.credential, json.dumps(body)

    def ask(self, path: str, body: object, timeout_s: float = 30.0) -> tuple[int, dict[str, Any]]:
        call = Call(self.connect(), self.request(path, body), timeout_s)
        while not call.step():
            self._machine.wait(1.0)
            call.check_time()
        return call.status, call.answer()


class Connection:
    def __init__(self, network: Network, machine: Machine) -> None:
        self.network = network
        self.machine = machine

    def close(self) -> None:
        return


class Call:
    """In the place of the agent's `calls.Call`: a request on its way, and its answer when it is there."""

    def __init__(self, connection: Connection, request: tuple[str, str, str], timeout_s: float) -> None:
        self.socket = connection
        self.machine = connection.machine
        self.path, self.credential, self.content = request
        self.status = 0
        self.keep = True
        self.wants_to_write = False
        self.told = f"{self.path.rpartition('/')[2]} of {self.machine.id}"
        self._agent = self.machine.agent
        self._failure: str | None = None
        self._body = ""
        self._deadline = self.machine.world.now + timeout_s
        connection.network.send(self)

    def step(self) -> bool:
        if self._failure is not None:
            raise agent.loaded()["calls"].Failed(self._failure)
        return self.status > 0

    def check_time(self) -> None:
        if self.machine.world.now > self._deadline:
            raise agent.loaded()["calls"].Failed("the master did not answer in time")

    def answer(self) -> dict[str, Any]:
        return json.loads(self._body)  # type: ignore[no-any-return]

    def fail(self, why: str) -> None:
        if not self.status and self._failure is None:
            self._failure = why
            self._machine_hears()

    def arrive(self, status: int, content: str) -> None:
        if self.status or self._failure is not None or self._agent is None or not self._agent.alive:
            return
        self.status, self._body = status, content
        self.machine.heard(self.path, status)
        self._machine_hears()

    def _machine_hears(self) -> None:
        if self._agent is self.machine.agent:
            self.machine.wake.set()
