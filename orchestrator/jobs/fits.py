"""Fits: what a task needs of its node, against what the node's machine has. Pure.

A task that needs nothing particular is **plain**: one slot, any memory, any machine. Nodes hold plain tasks ahead of need;
any other is given only to a node that has room for it at that moment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

EVERYBODY = 1000
"""Nodes woken for a task that is not plain: who has room for it is found only by looking."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one task takes of its node while it runs, and what the node's pool must have."""

    slots: int = 1
    memory_mb: int | None = None
    labels: Collection[str] = ()

    @classmethod
    def of(cls, task: Any) -> Needs:
        """Of a task's row."""
        return cls(task.slots, task.memory_mb, task.labels or ())

    def __str__(self) -> str:
        told = [f"{self.slots} slots"] if self.slots > 1 else []
        told += [f"{self.memory_mb} MB of memory"] if self.memory_mb else []
        told += [f"the label(s) {', '.join(sorted(self.labels))}"] if self.labels else []
        return " and ".join(told) or "one slot"


@dataclass(frozen=True, slots=True)
class Has:
    """What a machine offers when nothing runs on it. `memory_mb` is None until its agent has said it."""

    slots: int
    memory_mb: int | None
    labels: Collection[str] = ()


PLAIN = Needs()


def plain(slots: int, memory_mb: int | None) -> bool:
    """Whether a task takes no more than any other of its node."""
    return slots == 1 and memory_mb is None


def wakes(needs: Needs) -> int:
    """How many waiting nodes are to look when a task becomes ready."""
    return 1 if plain(needs.slots, needs.memory_mb) and not needs.labels else EVERYBODY


def lacks(needs: Needs, has: Has) -> str | None:
    """What the machine lacks for this task even when nothing else runs on it, as a sentence's end; None where it fits."""
    if missing := sorted(set(needs.labels) - set(has.labels)):
        return f"no label {', '.join(missing)}"
    if needs.slots > has.slots:
        return f"only {has.slots} slot(s)"
    if needs.memory_mb is not None and has.memory_mb is None:
        return "not said how much memory it has (its agent is of an older version)"
    if needs.memory_mb is not None and has.memory_mb is not None and needs.memory_mb > has.memory_mb:
        return f"only {has.memory_mb} MB of memory"
    return None


def never_in(needs: Needs, pool: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why no machine of this pool can ever run the task: the field, and what is wrong with the fix. How much memory a
    machine has is known only once one is there."""
    name = pool["name"]
    if missing := sorted(set(needs.labels) - set(pool["labels"] or ())):
        fix = f"`orchestrator pool change {name} --label …` gives it one, or name another pool"
        return "labels", f"pool {name!r} has no label {', '.join(missing)}; {fix}"
    if needs.slots > pool["slots"]:
        fix = f"`orchestrator pool change {name} --slots {needs.slots}` gives those to come more, or ask for fewer"
        return "slots", f"{needs.slots} slots are asked for and a node of pool {name!r} has {pool['slots']}; {fix}"
    return None


@dataclass(slots=True)
class Room:
    """What is free on a node at this moment. `slots` may be negative: plain tasks are held ahead of need; `orders` is how
    many more of those the node takes."""

    orders: int
    slots: int
    memory_mb: int

    def take(self, slots: int, memory_mb: int | None) -> bool:
        """Whether a task of this size fits, which it then has taken. With one that is not plain nothing is held ahead."""
        if plain(slots, memory_mb):
            if self.orders < 1:
                return False
        elif slots > min(self.slots, self.orders) or (memory_mb or 0) > self.memory_mb:
            return False
        else:
            self.orders = min(self.orders, self.slots)
        self.orders -= slots
        self.slots -= slots
        self.memory_mb -= memory_mb or 0
        return True
