"""What there is in the cloud, and what becomes of it as its clock goes on."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

CLOUDSTACK_USER = "org.apache.cloudstack.api.command.user"
CLOUDSTACK_ADMIN = "org.apache.cloudstack.api.command.admin"

FREED = "Message.ReservedCapacityFreed.Flag"  # a detail that users do not see

Step = tuple[float, Callable[[], None]]
"""What happens next to a machine, so many seconds after what came before."""


@dataclass(frozen=True)
class Account:
    name: str
    id: str
    user_id: str
    api_key: str
    secret_key: str
    admin: bool = False


USER = Account(
    "alice",
    "ecc5eba4-f54e-4ae7-9ce3-88ccb0fc8259",
    "9ea2d0e2-133c-4052-8dd1-12d4a7eff1de",
    "user-key".ljust(86, "-"),
    "user-secret",
)
ADMIN = Account(
    "admin",
    "04328c34-e4f7-11f1-9bab-02fc00000001",
    "04329b85-e4f7-11f1-9bab-02fc00000001",
    "admin-key".ljust(86, "-"),
    "admin-secret",
    True,
)


@dataclass
class Settings:
    """The server's global settings that matter here, with its defaults."""

    user_may_expunge: bool = False  # allow.user.expunge.recover.vm
    enforce_post: bool = False  # enforce.post.requests.and.timestamps
    throttle: int | None = None  # api.throttling.max within api.throttling.interval
    throttle_interval_s: float = 1
    largest_page: int = 500  # default.page.size
    expunge_delay_s: float = 86400
    user_data_limit: int = 32768  # vm.userdata.max.length


@dataclass
class Times:
    """How long things take, in seconds."""

    plan: float = 2  # Stopped → Starting
    start: float = 2  # Starting → Running
    stop: float = 1
    destroy: float = 1
    expunge: float = 2


@dataclass(eq=False)
class Machine:
    id: str
    name: str
    displayname: str
    owner: Account
    offering: dict[str, Any]
    created: datetime
    number: int
    address: str
    details: dict[str, str] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)  # its details at first, for those who look from behind
    group: str | None = None
    group_id: str | None = None
    keypair: str | None = None
    user_data: str | None = None
    state: str = "Stopped"
    updated: datetime | None = None
    placed: bool = False  # it has been given a host and a pool
    tags: dict[str, str] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    networks: tuple[str, ...] = ()
    protected: bool = False  # its deletion is refused (not seen on the real one)

    @property
    def exists(self) -> bool:
        return self.state != "Gone"

    @property
    def counts(self) -> bool:
        """Whether it counts against the account's limits."""
        return self.state not in ("Destroyed", "Expunging", "Gone")


@dataclass(eq=False)
class Job:
    id: str
    cmd: str
    account: Account
    created: datetime
    number: int
    machine: Machine | None
    status: int = 0
    code: int = 0
    result: dict[str, Any] | None = None
    completed: datetime | None = None
    waiting: Iterator[Step] | None = None  # its work, while another job of the machine is not done


class Cloud:
    """One zone. Every change is made under `lock`; `catch_up` lets happen what is due."""

    def __init__(self, clock: Callable[[], datetime], times: Times | None = None, settings: Settings | None = None) -> None:
        self.clock = clock
        self.times = times or Times()
        self.settings = settings or Settings()
        self.lock = threading.RLock()
        self.accounts = [USER, ADMIN]
        self.machines: dict[str, Machine] = {}
        self.jobs: dict[str, Job] = {}
        self.keypairs: dict[str, dict[str, str]] = {}
        self.limits: dict[str, int] = {}  # "user_vm", "cpu": the most an account may have
        self.networks: dict[str, Account] = {}  # more networks than the catalogue's, and whose they are
        self.room: int | None = None  # how many machines more the hosts have room for; None: as many as one likes
        self.broken_hypervisor = False  # it refuses to start anything
        self.issued: dict[str, tuple[datetime, int]] = {}  # account → begin of its interval, calls in it
        self._random = random.Random(421)
        self._numbers = itertools.count(160)
        self._due: list[tuple[datetime, int, Callable[[], None]]] = []
        self._at: datetime | None = None  # the time of what happens now, while the cloud catches up

    def new_id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def new_number(self) -> int:
        return next(self._numbers)

    # -- time --

    def catch_up(self) -> None:
        """Let everything happen that is due by now."""
        with self.lock:
            while self._due and self._due[0][0] <= self.clock():
                self._at, _, act = heapq.heappop(self._due)
                act()
            self._at = None

    def now(self) -> datetime:
        return self._at or self.clock()

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now() + timedelta(seconds=seconds), next(self._numbers), act))

    def _run(self, steps: Iterator[Step]) -> None:
        """One step after the other, each in its time; what a step does may decide what comes next."""
        upcoming = next(steps, None)
        if upcoming is not None:
            delay, act = upcoming

            def step() -> None:
                act()
                self._run(steps)

            self._after(delay, step)

    # -- jobs --

    def submit(self, cmd: str, account: Account, machine: Machine | None, work: Callable[[Job], Iterator[Step]]) -> Job:
        """A job. The jobs of one machine wait for each other."""
        job = Job(self.new_id(), cmd, account, self.now(), self.new_number() + 900, machine)
        self.jobs[job.id] = job
        steps = self._in_turn(job, work)
        if machine is None:
            self._run(steps)
        else:
            machine.jobs.append(job)
            if len(machine.jobs) == 1:
                self._run(steps)
            else:
                job.waiting = steps
        return job

    def _in_turn(self, job: Job, work: Callable[[Job], Iterator[Step]]) -> Iterator[Step]:
        yield from work(job)
        machine = job.machine
        if machine is not None:
            machine.jobs.remove(job)
            if machine.jobs:
                self._run(machine.jobs[0].waiting)

    def finish(self, job: Job, result: dict[str, Any]) -> None:
        job.status, job.result, job.completed = 1, result, self.now()

    def fail(self, job: Job, code: int, text: str) -> None:
        job.status, job.code, job.completed = 2, code, self.now()
        job.result = {"errorcode": code, "errortext": text}

    # -- machines --

    def move(self, machine: Machine, state: str) -> None:
        machine.state, machine.updated = state, self.now()
        if state == "Running":
            machine.details.pop("deployvm", None)
        if state in ("Starting", "Running"):
            machine.placed = True
        if state == "Stopped":
            machine.details[FREED] = "false"
        if state == "Gone":
            machine.details.clear()

    def take_room(self, machine: Machine) -> bool:
        """Whether a host has room for it, which is then taken."""
        if machine.offering["name"] == "Huge" or self.room == 0:
            return False
        if self.room is not None:
            self.room -= 1
        return True

    def deploying(
        self, machine: Machine, row: Callable[[Machine], dict[str, Any]], start: bool
    ) -> Callable[[Job], Iterator[Step]]:
        def work(job: Job) -> Iterator[Step]:
            if not start:
                yield 0, lambda: self.finish(job, {"virtualmachine": row(machine)})
                return
            yield self.times.plan, lambda: self.move(machine, "Starting" if self.take_room(machine) else "Error")
            shown = f'{{"id":{machine.number},"instanceName":"i-3-{machine.number}-VM","state":"%s","type":"User","uuid":"{machine.id}"}}'
            if machine.state == "Error":
                text = f"No destination found for a deployment for VM instance {shown % 'Stopped'}"
                yield 0, lambda: self.fail(job, 533, text)
                return
            yield self.times.start, lambda: self.move(machine, "Error" if self.broken_hypervisor else "Running")
            if machine.state == "Error":
                text = (
                    f"Unable to start a VM [{machine.id}] due to [Unable to create a deployment for VM instance "
                    f"{shown % 'Starting'}]."
                )
                yield 0, lambda: self.fail(job, 530, text)
                return
            yield 0, lambda: self.finish(job, {"virtualmachine": row(machine)})

        return work

    def destroying(
        self, machine: Machine, row: Callable[[Machine], dict[str, Any]], expunge: bool
    ) -> Callable[[Job], Iterator[Step]]:
        def work(job: Job) -> Iterator[Step]:
            if expunge and not (job.account.admin or self.settings.user_may_expunge):
                yield 0, lambda: self.fail(job, 530, "Account does not have permission for expunging.")
                return
            if machine.state == "Running":
                yield self.times.stop, lambda: self.move(machine, "Stopping")
                yield self.times.stop, lambda: self.move(machine, "Stopped")
            if machine.state == "Error":
                yield 0, lambda: self.move(machine, "Expunging")
                self._after(self.settings.expunge_delay_s, lambda: self.move(machine, "Gone"))
            elif machine.state == "Stopped":
                yield self.times.destroy, lambda: self.move(machine, "Destroyed")
                self._after(self.settings.expunge_delay_s, lambda: self._expunge_later(machine))
            if expunge:
                yield 0, lambda: self.move(machine, "Expunging")
                yield self.times.expunge, lambda: self.move(machine, "Gone")
                nothing = {"securitygroup": [], "nic": [], "affinitygroup": [], "deleteprotection": False, "tags": []}
                yield 0, lambda: self.finish(job, {"virtualmachine": nothing})
                return
            yield 0, lambda: self.finish(job, {"virtualmachine": row(machine)})

        return work

    def _expunge_later(self, machine: Machine) -> None:
        if machine.state == "Destroyed":
            self.move(machine, "Gone")
