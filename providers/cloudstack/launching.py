"""Making machines, once each. CloudStack has no idempotency token, so a machine's name stands for it.

The cloud refuses a name that is taken in its network; but four calls sent together with one name have made four machines,
so here the launches of one id take turns. Whose a taken name is, and what else there is of a launch, the list tells.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..base import (
    TAG_INSTALLATION,
    TAG_LAUNCH,
    TAG_POOL,
    Instance,
    InstanceState,
    LaunchRequest,
    NoCapacity,
    OutcomeUnknown,
    ProviderError,
)
from .errors import PARAMETER, Refusal, translated
from .jobs import Jobs, Recent
from .names import AFFINITY_GROUP, NETWORK, OFFERING, SECURITY_GROUP, TEMPLATE, Names
from .patience import patiently
from .template import DETAIL_REQUEST, details, digest, machine_name, prefix_of_launch

if TYPE_CHECKING:
    from .connection import Calls

AT_ONCE = 8  # calls of a launch, or of an end: each machine is one call

Seen = tuple[Mapping[str, Any], Instance]
"""A machine of ours: its row, and what it means."""


class _Taken(OutcomeUnknown):
    """The cloud says that a machine has this name."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What this process made under a name."""

    instance: Instance
    digest: str


class Launching:
    """The launches of one installation in one account. `look` lists the machines of ours whose names begin so."""

    def __init__(
        self,
        installation: str,
        call: Calls,
        names: Names,
        jobs: Jobs,
        look: Callable[[str], list[Seen]],
        timeout_s: float,
    ) -> None:
        self._installation, self._timeout_s = installation, timeout_s
        self._call, self._names, self._jobs, self._look = call, names, jobs, look
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="cloudstack-launch")
        self._made: Recent[str, _Made] = Recent()
        self._turns = _Turns()

    def launch(self, request: LaunchRequest) -> list[Instance]:
        """The machines there are of this launch, once those that were missing have been asked for."""
        with self._turns.of(request.launch_id):
            there = self._remembered(request)
            missing = [index for index in range(request.count) if index not in there]
            if missing:
                there |= self._deploy(request, missing, there)
            return [there[index] for index in sorted(there)]

    # -- asking --

    def _deploy(self, request: LaunchRequest, missing: list[int], there: Mapping[int, Instance]) -> dict[int, Instance]:
        """One alone, then the others together: what is refused to the first would be refused to each. Raises what it was
        refused for where there is nothing of the launch at all."""
        with translated(f"look up what a {request.instance_type} needs"):
            wanted = self._parameters(request)
        made: dict[int, Instance] = {}
        problems: dict[int, ProviderError] = {}
        for batch, patience_s in ((missing[:1], 0.0), (missing[1:], self._timeout_s)):
            asked = [index for index in batch if index not in made]
            for index, outcome in zip(asked, self._ask(request, wanted, asked, patience_s), strict=True):
                if isinstance(outcome, Instance):
                    made[index] = outcome
                else:
                    problems[index] = outcome
            _raise_if_lost(problems)
            if any(isinstance(problem, _Taken | NoCapacity) for problem in problems.values()):  # limits come before names
                made |= self._found(request)
                problems = {index: problem for index, problem in problems.items() if index not in made}
            if problems:
                break
        if problems and not made and not there:
            raise next(iter(problems.values()))
        return made

    def _ask(
        self, request: LaunchRequest, wanted: Mapping[str, str], indexes: list[int], patience_s: float
    ) -> list[Instance | ProviderError]:
        """What came of each. After a refusal the calls that have not begun are left out."""
        refused: list[ProviderError] = []

        def ask(index: int) -> Instance | ProviderError:
            if refused:
                return refused[0]
            try:
                return patiently(lambda: self._deploy_one(request, wanted, index), patience_s)
            except _Taken as taken:
                return taken
            except ProviderError as error:
                refused.append(error)
                return error

        return list(self._threads.map(ask, indexes))

    def _deploy_one(self, request: LaunchRequest, wanted: Mapping[str, str], index: int) -> Instance:
        """One deployVirtualMachine. It answers with ids before anything runs; whether it starts is told by its job."""
        name = machine_name(self._installation, request.launch_id, index)
        params = {**wanted, **details(request, self._installation, index), "name": name}
        with translated(f"launch a {request.instance_type}", launching=True):
            try:
                reply, now = self._call.timed("deployVirtualMachine", params, self._timeout_s)
            except Refusal as refusal:
                if refusal.code != PARAMETER:
                    raise
                if name in refusal.text:  # our own name, whatever the words around it
                    raise _Taken(
                        f"CloudStack says that the name {name} is taken, by a machine that it does not show as one of this "
                        "launch: it has ended, or is not shown yet. Look later, or launch under another id."
                    ) from refusal
                self._names.forget()
                raise
        tags = {**request.tags, TAG_INSTALLATION: self._installation, TAG_LAUNCH: request.launch_id}
        made = Instance(str(reply["id"]), InstanceState.PENDING, tags, launched_at=now, launch_index=index)
        self._jobs.starts(made.id, str(reply["jobid"]))
        self._made.put(name, _Made(made, digest(request)))
        return made

    def _parameters(self, request: LaunchRequest) -> dict[str, str]:
        """What all machines of a launch have in common. May look names up."""
        template: Mapping[str, Any] = request.template
        zone = self._names.zone(template.get("zone"))
        params = {
            **self._names.scope(),
            "zoneid": zone,
            "serviceofferingid": self._names.id(OFFERING, request.instance_type),
            "templateid": self._names.id(TEMPLATE, request.image, zone),
            "displayname": f"elastic-orchestrator {request.tags.get(TAG_POOL, '')}".strip(),
        }
        lists = (
            ("networks", "networkids", NETWORK),
            ("security_groups", "securitygroupids", SECURITY_GROUP),
            ("affinity_groups", "affinitygroupids", AFFINITY_GROUP),
        )
        for key, parameter, kind in lists:
            if key in template:
                params[parameter] = ",".join(self._names.id(kind, value, zone) for value in template[key])
        if "key_name" in template:
            params["keypair"] = template["key_name"]
        if "root_disk_gb" in template:
            params["rootdisksize"] = str(template["root_disk_gb"])
        if "lease_days" in template:
            params |= {"leaseduration": str(template["lease_days"]), "leaseexpiryaction": "DESTROY"}
        if request.user_data:
            params["userdata"] = base64.b64encode(request.user_data).decode()
        return params

    # -- looking --

    def _found(self, request: LaunchRequest) -> dict[int, Instance]:
        """The machines of the launch as the cloud lists them. Of two with one name the older counts; the other has no node
        and is ended as an orphan."""
        wanted = digest(request)
        found: dict[int, Instance] = {}
        for row, seen in self._look(prefix_of_launch(self._installation, request.launch_id)):
            if seen.launch_id == request.launch_id:
                _refuse_other(str(row["details"].get(DETAIL_REQUEST)), wanted, request.launch_id)
                found.setdefault(seen.launch_index, seen)
        return found

    def _remembered(self, request: LaunchRequest) -> dict[int, Instance]:
        """What this process made of it before. The list shows a user no machine that has ended, and may not show a new one
        yet; and a name is free again once its machine is expunged."""
        names = {i: machine_name(self._installation, request.launch_id, i) for i in range(request.count)}
        made = {index: known for index, name in names.items() if (known := self._made.get(name))}
        for known in made.values():
            _refuse_other(known.digest, digest(request), request.launch_id)
        return {index: self._as_remembered(known) for index, known in made.items()} | (self._found(request) if made else {})

    def _as_remembered(self, known: _Made) -> Instance:
        ended = self._jobs.end_was_asked(known.instance.id)
        return replace(known.instance, state=InstanceState.ENDED) if ended else known.instance


def _refuse_other(had: str, wants: str, launch_id: str) -> None:
    if had != wants:
        raise OutcomeUnknown(
            f"the launch {launch_id} was asked for before with other settings; see what there is of it, and launch under "
            "another id"
        )


def _raise_if_lost(problems: Mapping[int, ProviderError]) -> None:
    for problem in problems.values():
        if isinstance(problem, OutcomeUnknown) and not isinstance(problem, _Taken):
            raise problem


class _Turns:
    """One at a time for each key; a key that nobody waits for is forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def of(self, key: str) -> Iterator[None]:
        with self._lock:
            turn, waiting = self._waiting.get(key, (threading.Lock(), 0))
            self._waiting[key] = (turn, waiting + 1)
        try:
            with turn:
                yield
        finally:
            with self._lock:
                turn, waiting = self._waiting.pop(key)
                if waiting > 1:
                    self._waiting[key] = (turn, waiting - 1)
