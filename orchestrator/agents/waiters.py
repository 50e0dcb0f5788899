"""Who waits for work: the long polls of idle agents, woken by what was committed, as many as there are tasks.

Everything here runs on the event loop's thread. One agent has one waiting call: a newer one sends the older home.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.agents.exchange import Answer
from orchestrator.store.writer import Queued


@dataclass(slots=True, eq=False)
class Waiter:
    """One waiting call. `wants_tasks` is False while all slots are taken: then only news of its own wakes it."""

    node_id: int
    token: str | None
    pool_id: int
    wants_tasks: bool
    woken: asyncio.Future[bool | Answer]

    async def wait(self, timeout_s: float) -> bool | Answer:
        """True: look again; False: a newer call has taken this one's place; or the answer, handed over.

        True also when the time is over."""
        done, _ = await asyncio.wait({self.woken}, timeout=timeout_s)
        return self.woken.result() if done else True

    def end(self, outcome: bool | Answer) -> None:
        if not self.woken.done():
            self.woken.set_result(outcome)


class Waiters:
    """All waiting calls, by node and by token."""

    def __init__(self) -> None:
        self._by_node: dict[int, Waiter] = {}
        self._by_token: dict[str | None, dict[int, Waiter]] = {}

    def enter(self, node_id: int, token: str | None, pool_id: int, *, wants_tasks: bool) -> Waiter:
        """Begin to listen, *before* looking for work: what is committed in between is not missed."""
        if (older := self._by_node.get(node_id)) is not None:
            self.leave(older)
            older.end(False)
        waiter = Waiter(node_id, token, pool_id, wants_tasks, asyncio.get_running_loop().create_future())
        self._by_node[node_id] = waiter
        if wants_tasks:
            self._by_token.setdefault(token, {})[node_id] = waiter
        return waiter

    def leave(self, waiter: Waiter) -> None:
        if self._by_node.get(waiter.node_id) is waiter:
            del self._by_node[waiter.node_id]
        same_token = self._by_token.get(waiter.token, {})
        if same_token.get(waiter.node_id) is waiter:
            del same_token[waiter.node_id]
            if not same_token:
                del self._by_token[waiter.token]

    def wake_for(self, queued: Queued) -> None:
        """Wake at most as many idle nodes as tasks became ready for them."""
        for (token, pool_id), count in queued.items():
            for waiter in list(self._by_token.get(token, {}).values()):
                if count <= 0:
                    break
                if pool_id in (None, waiter.pool_id):
                    self.leave(waiter)
                    waiter.end(True)
                    count -= 1

    def wake_nodes(self, node_ids: Collection[int] | None = None) -> None:
        """Wake these nodes (None: all) to news of their own: a drain, a cancelled job."""
        chosen = (
            list(self._by_node.values())
            if node_ids is None
            else [waiter for id_ in node_ids if (waiter := self._by_node.get(id_)) is not None]
        )
        for waiter in chosen:
            self.leave(waiter)
            waiter.end(True)
