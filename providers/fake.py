"""A cloud in memory that keeps the provider's contract and does, on request, all that clouds do to one."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import count

from providers.base import (
    TAG_INSTALLATION,
    CatalogueItem,
    Finding,
    Instance,
    InstanceState,
    LaunchRequest,
    Misconfigured,
    OutcomeUnknown,
)

S = InstanceState


@dataclass
class Machine:
    shown: Instance
    visible_at: datetime


class FakeCloud:
    """What happens next is scripted: `next_call["launch"]` holds what the next calls raise, before or after the deed."""

    def __init__(self, clock: Callable[[], datetime], prefix: str = "i-") -> None:
        self._clock = clock
        self._prefix = prefix
        self._ids = count()
        self.machines: dict[str, Machine] = {}
        self.requests: dict[str, LaunchRequest] = {}
        self.calls: Counter[str] = Counter()
        self.ended: list[str] = []
        self.before: dict[str, deque[BaseException]] = defaultdict(deque)
        self.after: dict[str, deque[BaseException]] = defaultdict(deque)
        self.capacity = 1000
        self.lag_s = 0.0
        self.slow_to_end = False
        self.shows_strangers = False
        self.impaired: dict[str, str] = {}
        self.consoles: dict[str, str] = {}

    def fails(self, verb: str, *errors: BaseException) -> None:
        """The next calls of this verb do nothing and raise."""
        self.before[verb].extend(errors)

    def loses_reply(self, verb: str = "launch", error: BaseException | None = None) -> None:
        """The next call of this verb does its deed; the caller hears only this."""
        self.after[verb].append(error or OutcomeUnknown("the reply was lost"))

    def provider(self, installation: str) -> FakeProvider:
        return FakeProvider(self, installation)

    def stranger(self, **tags: str) -> str:
        """A machine that nobody here launched."""
        id_ = f"{self._prefix}stranger-{next(self._ids)}"
        self.machines[id_] = Machine(Instance(id_, S.RUNNING, tags, launched_at=self._clock()), self._clock())
        return id_

    def set_state(self, id_: str, state: InstanceState, fault: str | None = None) -> None:
        self.machines[id_].shown = replace(self.machines[id_].shown, state=state, fault=fault)

    def forget(self, id_: str) -> None:
        """The cloud no longer shows it at all."""
        del self.machines[id_]

    def alive(self) -> list[str]:
        return [id_ for id_, machine in self.machines.items() if machine.shown.state in (S.PENDING, S.RUNNING)]

    def made(self) -> int:
        """Machines started and not forgotten (strangers apart)."""
        return sum(not id_.startswith(f"{self._prefix}stranger") for id_ in self.machines)

    # the deeds

    def launch(self, request: LaunchRequest) -> list[Instance]:
        self._begin("launch")
        earlier = self.requests.get(request.launch_id)
        if earlier is not None and earlier != request:
            raise Misconfigured(f"{request.launch_id} was asked for before, but differently")
        if earlier is None:
            self.requests[request.launch_id] = request
            for index in range(min(request.count, self.capacity)):
                self._make(request, index)
        self._end("launch")
        return self._of(request.launch_id)

    def _make(self, request: LaunchRequest, index: int) -> None:
        now = self._clock()
        id_ = f"{self._prefix}{next(self._ids):04}"
        self.machines[id_] = Machine(
            Instance(id_, S.PENDING, dict(request.tags), None, now, launch_index=index), now + timedelta(seconds=self.lag_s)
        )

    def _of(self, launch_id: str) -> list[Instance]:
        return [machine.shown for machine in self.machines.values() if machine.shown.launch_id == launch_id]

    def instances(self, installation: str) -> list[Instance]:
        self._begin("instances")
        now = self._clock()
        seen = [machine.shown for machine in self.machines.values() if machine.visible_at <= now]
        self._end("instances")
        return [i for i in seen if self.shows_strangers or i.tags.get(TAG_INSTALLATION) == installation]

    def terminate(self, ids: Iterable[str]) -> None:
        ids = list(ids)
        self._begin("terminate")
        self.ended += ids
        for id_ in ids:
            if id_ in self.machines and not self.slow_to_end:
                self.set_state(id_, S.ENDED)
        self._end("terminate")

    def _begin(self, verb: str) -> None:
        self.calls[verb] += 1
        if self.before[verb]:
            raise self.before[verb].popleft()

    def _end(self, verb: str) -> None:
        if self.after[verb]:
            raise self.after[verb].popleft()


class FakeProvider:
    """The six verbs, for one installation."""

    user_data_limit = 16_384
    rents = True
    endpoint = ""

    def __init__(self, cloud: FakeCloud, installation: str) -> None:
        self._cloud = cloud
        self._installation = installation

    def validate(self, template: Mapping[str, object]) -> None:
        for key in template:
            raise Misconfigured(f"launch.{key} is unknown")

    def check(self) -> None:
        return

    def inspect(self, image: str, instance_type: str, template: Mapping[str, object]) -> list[Finding]:
        return []

    def impaired(self) -> Mapping[str, str]:
        self._cloud.calls["impaired"] += 1
        return dict(self._cloud.impaired)

    def launch(self, request: LaunchRequest) -> list[Instance]:
        return self._cloud.launch(request)

    def instances(self) -> list[Instance]:
        return self._cloud.instances(self._installation)

    def terminate(self, ids: Iterable[str]) -> None:
        self._cloud.terminate(ids)

    def console(self, instance_id: str) -> str:
        return self._cloud.consoles.get(instance_id, "")

    def catalogue(self, kind: str) -> list[CatalogueItem]:
        return []
