"""The world: virtual time, and actors that take turns on one thread.

An actor is a greenlet. It runs real, blocking code and hands its turn back where that code would wait: in a call to a
cloud, in a select, in a sleep. So every interleaving of waits can happen, and the same seed makes the same one again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import Any

from greenlet import getcurrent, greenlet

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
MOST_STEPS = 200_000  # a run has some thousands


class Died(BaseException):
    """The process of this actor has ended: nothing after this point is done."""


class Trace:
    """What happened, in order: (virtual time, actor, what). Keeps the last `keep` entries, None: all."""

    def __init__(self, keep: int | None) -> None:
        self.entries: deque[tuple[float, str, str]] = deque(maxlen=keep)

    def lines(self) -> list[str]:
        return [f"{at:10.3f}  {actor:<16} {what}" for at, actor, what in self.entries]


class Actor(greenlet):  # type: ignore[misc]
    """One line of work of one process. `turn` tells a wake-up that is meant from one that came too late."""

    def __init__(self, process: Process, work: Callable[[], object]) -> None:
        super().__init__(self._run, process.world.hub)
        self.process = process
        self.turn = 0
        self._work = work

    def _run(self) -> None:
        try:
            self._work()
        except Died:
            self.process.kill()
        finally:
            self.process.actors.pop(self, None)


class Process:
    """Actors that die together: a master, an agent."""

    def __init__(self, world: World, name: str, host: Any = None) -> None:
        self.world = world
        self.name = name
        self.host = host
        self.alive = True
        self.actors: dict[Actor, None] = {}  # in the order they began, for they also end in it
        self.when_dead: list[Callable[[], None]] = []

    def spawn(self, work: Callable[[], object], delay_s: float = 0.0) -> None:
        actor = Actor(self, work)
        self.actors[actor] = None
        self.world.at(delay_s, lambda: actor.switch() if self.alive else None)

    def kill(self) -> None:
        """End it here: every actor falls out of what it does, the one that calls this as soon as it raises `Died`."""
        if not self.alive:
            return
        self.alive = False
        me = getcurrent()
        for actor in list(self.actors):
            if actor is not me and actor:  # one that has not begun never will
                actor.parent = me
                actor.throw(Died)
        for deed in self.when_dead:
            deed()


class World:
    """Time and the agenda. `run` goes from event to event; nothing passes between them but time."""

    def __init__(self, keep: int | None = 200) -> None:
        self.hub = getcurrent()
        self.now = 0.0
        self.steps = 0
        self.most_steps = MOST_STEPS
        self.trace = Trace(keep)
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()

    def moment(self, offset_s: float = 0.0) -> datetime:
        return START + timedelta(seconds=self.now + offset_s)

    def note(self, actor: str, what: str) -> None:
        self.trace.entries.append((self.now, actor, what))

    def at(self, delay_s: float, deed: Callable[[], object]) -> None:
        """Do this after so many seconds, on the hub: it must not wait."""
        heappush(self._agenda, (self.now + max(0.0, delay_s), next(self._order), deed))

    def run(self, seconds: float, after_step: Callable[[], None]) -> None:
        """Let so much time pass. `after_step` is called after every event."""
        until = self.now + seconds
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, deed = heappop(self._agenda)
            self.steps += 1
            if self.steps > self.most_steps:
                raise RuntimeError(f"{MOST_STEPS} steps: something turns in circles")
            deed()
            after_step()
        self.now = until

    def sleep(self, seconds: float) -> None:
        """The calling actor's turn is over for so long."""
        self._park(seconds)
        self.hub.switch()

    def _park(self, seconds: float) -> None:
        me = getcurrent()
        turn = me.turn
        self.at(seconds, lambda: me.switch() if me.turn == turn and not me.dead and me.process.alive else None)

    def resume(self, actor: Actor) -> None:
        """Its wait is over before its time."""
        actor.turn += 1
        turn = actor.turn
        self.at(0.0, lambda: actor.switch() if actor.turn == turn and not actor.dead and actor.process.alive else None)


class Signal:
    """Wakes the actor that waits for it. Set while nobody waits, it is found by the next wait."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_set = False
        self._waiting: Actor | None = None

    def set(self) -> None:
        self._is_set = True
        if self._waiting is not None:
            actor, self._waiting = self._waiting, None
            self._world.resume(actor)

    def wait(self, seconds: float) -> bool:
        """True if it was set, False when the time is over."""
        if not self._is_set:
            me = getcurrent()
            me.turn += 1
            self._waiting = me
            self._world.sleep(seconds)
            if self._waiting is me:
                self._waiting = None
        was_set, self._is_set = self._is_set, False
        return was_set
