"""Waiting agents, their sessions and their logs: what this master keeps outside the database."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from datetime import UTC, datetime

from orchestrator.agents.sessions import Sessions
from orchestrator.agents.waiters import Waiter, Waiters

FOLDERS = itertools.count()


def enter(waiters: Waiters, node: int, token: str | None = None, pool: int = 1, wants: bool = True) -> Waiter:
    return waiters.enter(node, token, pool, wants_tasks=wants)


def woken(*entered: Waiter) -> list[int]:
    return [waiter.node_id for waiter in entered if waiter.woken.done() and waiter.woken.result()]


async def test_as_many_are_woken_as_there_are_tasks() -> None:
    waiters = Waiters()
    entered = [enter(waiters, i) for i in range(5)]
    waiters.wake_for(Counter({(None, None): 2}))
    assert len(woken(*entered)) == 2
    waiters.wake_for(Counter({(None, None): 9}))
    assert len(woken(*entered)) == 5


async def test_only_whom_it_concerns() -> None:
    waiters = Waiters()
    plain, tokened, elsewhere, full = (
        enter(waiters, 1), enter(waiters, 2, "t"), enter(waiters, 3, None, pool=2), enter(waiters, 4, wants=False),
    )  # fmt: skip
    waiters.wake_for(Counter({("t", None): 5}))
    assert woken(plain, tokened, elsewhere, full) == [2]
    waiters.wake_for(Counter({(None, 2): 5}))
    assert woken(plain, tokened, elsewhere, full) == [2, 3]
    waiters.wake_for(Counter({("unknown", None): 5, (None, 9): 5}))
    assert woken(plain, tokened, elsewhere, full) == [2, 3]
    waiters.wake_for(Counter({(None, None): 5}))
    assert woken(plain, tokened, elsewhere, full) == [1, 2, 3]


async def test_news_wake_everybody_or_those_named() -> None:
    waiters = Waiters()
    entered = [enter(waiters, i, wants=i % 2 == 0) for i in range(4)]
    waiters.wake_nodes({1, 99})
    assert woken(*entered) == [1]
    waiters.wake_nodes()
    assert woken(*entered) == [0, 1, 2, 3]


async def test_a_newer_call_sends_the_older_home() -> None:
    waiters = Waiters()
    older = enter(waiters, 1)
    newer = enter(waiters, 1)
    assert not await older.wait(5)
    waiters.leave(older)  # its own end must not take the newer one's place away
    waiters.wake_for(Counter({(None, None): 1}))
    assert await newer.wait(5)


async def test_time_over_means_look_again() -> None:
    waiters = Waiters()
    assert await enter(waiters, 1).wait(0.001)


async def test_who_left_is_not_woken_and_leaves_nothing_behind() -> None:
    waiters = Waiters()
    gone, there = enter(waiters, 1, "t"), enter(waiters, 2, "t")
    waiters.leave(gone)
    waiters.leave(gone)
    waiters.wake_for(Counter({("t", None): 1}))
    assert woken(gone, there) == [2]
    assert waiters._by_node == {}
    assert waiters._by_token == {}


async def test_wake_before_wait_is_not_missed() -> None:
    waiters = Waiters()
    waiter = enter(waiters, 1)
    waiters.wake_for(Counter({(None, None): 1}))
    assert await asyncio.wait_for(waiter.wait(60), 1)


# ---- sessions --------------------------------------------------------------------------------------------------------


def test_no_heartbeat_is_lost_between_two_flushes() -> None:
    sessions = Sessions(engine=None)  # type: ignore[arg-type]
    now = datetime(2026, 3, 2, tzinfo=UTC)
    flushed: set[int] = set()
    ending = threading.Event()

    def flush() -> None:
        while not ending.is_set():
            flushed.update(sessions.flush())

    thread = threading.Thread(target=flush)
    thread.start()
    for node in range(5_000):
        sessions.heard(node, now)
    ending.set()
    thread.join()
    flushed.update(sessions.flush())
    assert flushed == set(range(5_000))
    assert sessions.flush() == {}
