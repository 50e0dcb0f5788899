"""What goes wrong on purpose. A rule names what to break, tests add them over HTTP and every rule may run out."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType


@dataclass(slots=True)
class Rule:
    """One fault. It strikes calls of `action` ("" for every one) that are about what `where` says (nothing for all),
    `times` times or until it is deleted, after `skip` calls that it lets pass.

    error, status   the call is refused with this code before anything is done
    retry_after_s   with an error: what the reply names as the wait
    drop            "request": nothing is done, "reply": the work is done; either way the connection just closes
    delay_s         the call waits before anything is done
    hide_new_s      listings do not show machines younger than this
    page_size       listings give pages no longer than this
    max_given       a launch gives no more machines than this
    shortage        a launch finds no room and says so by this code; CreateFleet goes on to its next type or place
    no_boot         a machine that comes up never runs its user data
    stillborn       a machine ends instead of coming up, with this code as its StateReason
    reclaim_s       a machine that came up is told that it is taken back, and is, after so many seconds
    impaired        a running machine fails its status checks

    Faults of calls know the call's own parameters (`{"InstanceType": "t3.micro"}`), those of launches and machines
    `InstanceType`, `SubnetId`, `AvailabilityZone`, `ImageId`, `Market` ("spot" or "on-demand"), and machines `InstanceId`.
    What strikes machines is counted by machine.
    """

    action: str = ""
    where: Mapping[str, str] = field(default_factory=dict)
    times: int | None = None
    skip: int = 0
    error: str | None = None
    status: int = 400
    retry_after_s: int | None = None
    drop: str | None = None
    delay_s: float | None = None
    hide_new_s: float | None = None
    page_size: int | None = None
    max_given: int | None = None
    shortage: str | None = None
    no_boot: bool | None = None
    stillborn: str | None = None
    reclaim_s: float | None = None
    impaired: bool | None = None


_KINDS = {
    "error",
    "drop",
    "delay_s",
    "hide_new_s",
    "page_size",
    "max_given",
    "shortage",
    "no_boot",
    "stillborn",
    "reclaim_s",
    "impaired",
}


def parse(raw: Mapping[str, object]) -> Rule:
    """A rule from JSON. Raises ValueError naming what is not understood."""
    known = {each.name for each in fields(Rule)}
    if unknown := set(raw) - known:
        raise ValueError(f"unknown in a fault: {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}")
    if not set(raw) & _KINDS:
        raise ValueError(f"a fault needs one of {', '.join(sorted(_KINDS))}")
    if raw.get("drop", "reply") not in ("request", "reply"):
        raise ValueError('drop is "request" or "reply"')
    where = raw.get("where", {})
    if not isinstance(where, Mapping) or not all(isinstance(word, str) for pair in where.items() for word in pair):
        raise ValueError('where is an object of texts, such as {"InstanceType": "t3.micro"}')
    return Rule(**raw)  # type: ignore[arg-type]


class Faults:
    """The rules in force, and how often each action was called. Thread-safe."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, rule: Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def count(self, action: str) -> None:
        with self._lock:
            self._calls[action] += 1

    def calls(self) -> dict[str, int]:
        with self._lock:
            return dict(self._calls)

    def take(self, kind: str, action: str, about: Mapping[str, str] = MappingProxyType({})) -> Rule | None:
        """The first rule of this kind that strikes this action on this object, used up by one; None when all is well."""
        with self._lock:
            for rule in self._rules:
                if getattr(rule, kind) is None or rule.action not in ("", action) or rule.times == 0:
                    continue
                if any(about.get(key) != value for key, value in rule.where.items()):
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                if rule.times is not None:
                    rule.times -= 1
                return rule
        return None
