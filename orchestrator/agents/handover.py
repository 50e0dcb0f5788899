"""Handing over: a task that becomes ready while an agent waits idle is claimed for it in the same transaction.

Waking the agent's call, so that it looks for itself, costs a second transaction and three changes of thread. What is handed
over here is an ordinary exchange with the message that the waiting call brought; should the call be gone by then, its agent
gets the orders at its next one, as it does when an answer is lost.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.agents.exchange import Answer, SyncMessage, exchange
from orchestrator.agents.waiters import Waiter, Waiters
from orchestrator.store.writer import Tx

MOST = 8  # exchanges added to one transaction; who is left is woken


@dataclass(frozen=True, slots=True)
class Offer:
    """A waiting call that would take tasks, and what it said."""

    waiter: Waiter
    message: SyncMessage


class Handover:
    """Offers come and go on the event loop; `at_end` takes them on the writer's thread."""

    def __init__(self, waiters: Waiters) -> None:
        self._waiters = waiters
        self._offers: dict[str | None, dict[int, Offer]] = {}
        self._lock = threading.Lock()

    def offer(self, waiter: Waiter, message: SyncMessage) -> None:
        if waiter.wants_tasks:
            with self._lock:
                self._offers.setdefault(waiter.token, {})[waiter.node_id] = Offer(waiter, message)

    def withdraw(self, waiter: Waiter) -> None:
        with self._lock:
            same_token = self._offers.get(waiter.token, {})
            if waiter.node_id in same_token and same_token[waiter.node_id].waiter is waiter:
                del same_token[waiter.node_id]
                if not same_token:
                    del self._offers[waiter.token]

    def at_end(self, tx: Tx, loop: asyncio.AbstractEventLoop) -> Callable[[bool], None]:
        """Claim what became ready for who waits; returns what to call once the transaction has ended."""
        handed: list[tuple[Waiter, Answer | None]] = []

        def ended(committed: bool) -> None:
            for waiter, answer in handed:
                loop.call_soon_threadsafe(self._deliver, waiter, answer if committed else None)

        try:
            for (token, pool_id), count in list(tx.queued.items()):
                left = count
                while left > 0 and len(handed) < MOST and (offer := self._take(token, pool_id)) is not None:
                    handed.append((offer.waiter, None))
                    answer = exchange(tx, offer.waiter.node_id, offer.message)
                    handed[-1] = (offer.waiter, answer if answer.is_news(offer.message) else None)
                    left -= len(answer.orders) or 1  # another may have the room that this one has not
                tx.queued[token, pool_id] -= count - left
        except BaseException:
            ended(False)
            raise
        return ended

    def _take(self, token: str | None, pool_id: int | None) -> Offer | None:
        with self._lock:
            for node_id, offer in self._offers.get(token, {}).items():
                if pool_id in (None, offer.waiter.pool_id):
                    return self._offers[token].pop(node_id)
        return None

    def _deliver(self, waiter: Waiter, answer: Answer | None) -> None:
        self._waiters.leave(waiter)
        waiter.end(answer if answer is not None else True)
