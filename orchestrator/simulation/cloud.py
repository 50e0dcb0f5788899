"""A cloud whose machines live: they boot, run an agent, end and fail by the plan; its calls fail by the plan too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta

from greenlet import getcurrent

from orchestrator.simulation.machine import Machine
from orchestrator.simulation.plan import Faults
from orchestrator.simulation.world import Died, World
from providers.base import (
    TAG_INSTALLATION,
    TAG_POOL,
    Cause,
    Instance,
    InstanceState,
    LaunchRequest,
    Misconfigured,
    NoCapacity,
    OutcomeUnknown,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    Unavailable,
)
from providers.fake import FakeCloud

S = InstanceState
VISIBILITY_S = 60.0
EXISTS = (S.PENDING, S.RUNNING, S.STOPPED, S.ERROR)  # what costs money; one that is ending has been dealt with

Build = Callable[[str, LaunchRequest], Machine]

REFUSALS: dict[str, list[tuple[str, Callable[[], ProviderError]]]] = {
    "launch": [
        ("launch: unavailable", lambda: Unavailable("the cloud is not available")),
        ("launch: throttled", lambda: RateLimited("too many calls", retry_after_s=20.0)),
        ("launch: no capacity", lambda: NoCapacity("no such machine to be had now")),
        ("launch: quota", lambda: QuotaExceeded("the account's quota is reached")),
        ("launch: misconfigured", lambda: Misconfigured("the image is unknown; choose another")),
        ("launch: request lost", lambda: OutcomeUnknown("the connection broke")),
    ],
    "instances": [
        ("listing fails", lambda: Unavailable("the listing failed")),
        ("listing throttled", lambda: RateLimited("too many calls", retry_after_s=10.0)),
    ],
    "terminate": [("terminate: request lost", lambda: OutcomeUnknown("the connection broke"))],
}
LOST = {"launch": "launch: reply lost", "terminate": "terminate: reply lost"}


class SimulatedCloud(FakeCloud):
    """`build` makes the machine behind an instance. `disturbed_at`: when a call of ours last failed here."""

    def __init__(self, name: str, world: World, faults: Faults, build: Build) -> None:
        super().__init__(world.moment, prefix=f"i-{name}-")
        self.name = name
        self.hosts: dict[str, Machine] = {}
        self.extra: set[str] = set()  # made beyond what was asked: the cloud's own mistake
        self.disturbed_at = -1e9
        self.away_until = -1.0
        self.changes = 0
        self.forgetful = False
        self.ever = 0  # machines made for us
        self._past: dict[str, list[tuple[float, Instance | None]]] = {}  # how each was shown from when on
        self._endless_until: dict[str, float] = {}
        self._world = world
        self._faults = faults
        self._build = build

    def existing(self, installation: str) -> list[Instance]:
        """The truth: machines of this installation that cost money."""
        return [
            machine.shown
            for machine in self.machines.values()
            if machine.shown.state in EXISTS and machine.shown.tags.get(TAG_INSTALLATION) == installation
        ]

    def end(self, id_: str, *, cause: Cause | None = None, fault: str | None = None) -> None:
        """The machine stops running at once; the cloud shows it on its way out, then ended, then no more."""
        machine = self.machines.get(id_)
        if machine is None or machine.shown.state in (S.ENDING, S.ENDED):
            return
        if (host := self.hosts.get(id_)) is not None:
            host.off()
        slow_s = self._faults.dice.uniform(60, 240) if self._faults.strikes("slow to end", id_) else 3.0
        self._show(id_, S.ENDING, fault, cause)
        self._world.at(slow_s, lambda: self._show(id_, S.ENDED, fault, cause))
        self._world.at(slow_s + 900, lambda: self._forget(id_))

    def ends_not_before(self, id_: str) -> float:
        """Until when the cloud takes requests to end it and does nothing."""
        return self._endless_until.get(id_, -1.0)

    def fail(self, id_: str) -> None:
        """The cloud shows it in error; it runs nothing and costs money until it is ended."""
        self.hosts[id_].off()
        cause = self._faults.dice.choice((None, None, Cause.NO_CAPACITY, Cause.QUOTA))
        self._show(id_, S.ERROR, "no valid host was found", cause)

    def vanish(self, id_: str) -> None:
        """Gone without a trace."""
        self.hosts[id_].off()
        self._forget(id_)
        self.changes += 1

    def _forget(self, id_: str) -> None:
        if self.machines.pop(id_, None) is not None:
            self._remember(id_)
            self._world.at(2 * VISIBILITY_S, lambda: self._past.pop(id_, None))
            self.impaired.pop(id_, None)
            self.hosts.pop(id_).scrap()

    def _remember(self, id_: str) -> None:
        machine = self.machines.get(id_)
        self._past.setdefault(id_, []).append((self._world.now, machine.shown if machine is not None else None))

    def _show(self, id_: str, state: InstanceState, fault: str | None = None, cause: Cause | None = None) -> None:
        if (machine := self.machines.get(id_)) is not None:
            self._world.note(f"cloud {self.name}", f"{id_} is {state}")
            machine.shown = replace(machine.shown, state=state, fault=fault, cause=cause)
            self._remember(id_)
            self.changes += 1

    # deeds

    def _make(self, request: LaunchRequest, index: int) -> None:
        before = set(self.machines)
        super()._make(request, index)
        [id_] = set(self.machines) - before
        self.changes += 1
        self.ever += 1
        self._remember(id_)
        if self._faults.strikes("shown late", id_):
            late_s = self._faults.dice.uniform(1, VISIBILITY_S - 5)
            self.machines[id_].visible_at = self._clock() + timedelta(seconds=late_s)
        if self._faults.strikes("cannot be ended for long", id_):
            self._endless_until[id_] = self._world.now + self._faults.dice.uniform(300, 1500)
        self.hosts[id_] = self._build(id_, request)
        self._world.at(2.0, lambda: self._begins(id_))
        self._world.note(f"cloud {self.name}", f"{id_} made for {request.launch_id}")

    def _begins(self, id_: str) -> None:
        machine = self.machines.get(id_)
        if machine is None or machine.shown.state != S.PENDING:
            return
        if self._faults.strikes("goes to error", id_):
            self.fail(id_)
            return
        self._show(id_, S.RUNNING)
        self.hosts[id_].boot()

    def launch(self, request: LaunchRequest) -> list[Instance]:
        if self.forgetful:
            self.requests.pop(request.launch_id, None)
        fresh = request.launch_id not in self.requests
        whole = self.capacity
        if fresh and request.count > 1 and self._faults.strikes("launch: fewer machines", request.launch_id):
            self.capacity = self._faults.dice.randint(1, request.count - 1)
        try:
            return super().launch(request)
        finally:
            self.capacity = whole
            if fresh and request.launch_id in self.requests and self._faults.strikes("made twice", request.launch_id):
                before = set(self.machines)
                self._make(request, request.count)
                self.extra |= set(self.machines) - before

    def instances(self, installation: str) -> list[Instance]:
        """A cloud that lags answers from a copy of itself: it shows less than it did before, or what is gone."""
        began, moment = self._world.now, self._clock()
        seen = super().instances(installation)
        if not self._faults.strikes("listing lags", self.name):
            return seen
        then = began - self._faults.dice.uniform(1, VISIBILITY_S - 5)
        late = {id_ for id_, machine in self.machines.items() if machine.visible_at > moment}
        ours = [i for id_ in self._past if id_ not in late and (i := self._shown_at(id_, then)) is not None]
        return ours + [i for i in seen if i.id not in self._past]

    def _shown_at(self, id_: str, then: float) -> Instance | None:
        return next((shown for at, shown in reversed(self._past[id_]) if at <= then), None)

    def terminate(self, ids: Iterable[str]) -> None:
        ids = list(ids)
        self._begin("terminate")
        self.ended += ids
        for id_ in ids:
            if self.ends_not_before(id_) < self._world.now and not self._faults.strikes("terminate: without effect", id_):
                self.end(id_)
        self._end("terminate")

    def _begin(self, verb: str) -> None:
        self._passes(verb, "before")
        if self._world.now < self.away_until:
            self._fails(Unavailable("the cloud cannot be reached"), verb)
        for kind, error in REFUSALS[verb]:
            if self._faults.strikes(kind, self.name):
                self._fails(error(), verb)
        super()._begin(verb)

    def _end(self, verb: str) -> None:
        self._passes(verb, "after")
        super()._end(verb)
        if (kind := LOST.get(verb)) and self._faults.strikes(kind, self.name):
            self._fails(OutcomeUnknown("the reply was lost"), verb)
        self._world.note(f"cloud {self.name}", f"answers {verb} to {getcurrent().process.name}")

    def _fails(self, error: ProviderError, verb: str) -> None:
        self.disturbed_at = self._world.now
        self._world.note(f"cloud {self.name}", f"refuses {verb}: {type(error).__name__}")
        raise error

    def _passes(self, verb: str, when: str) -> None:
        """A call takes time, in which everybody else goes on, and in which its caller may die."""
        process = getcurrent().process
        slow = self._faults.strikes("slow cloud", f"{verb} of {process.name}")
        self._world.sleep(self._faults.dice.uniform(5, 60) if slow else 0.05)
        if self._faults.strikes(f"master dies {when} a cloud call", f"{process.name}, {verb}"):
            raise Died


def user_data(secret: str, lease_s: int) -> bytes:
    """What the simulated machines need of the real document."""
    return json.dumps({"enrolment_secret": secret, "lease_s": lease_s}).encode()


def pool_of(instance: Instance) -> str | None:
    return instance.tags.get(TAG_POOL)
