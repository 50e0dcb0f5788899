"""Launch: committed intents become machines, once each, however often a reply is lost or the master dies.

The intent moves to `launching` before the cloud is called. What was called before without a known outcome is looked up
first (law 2), and only then asked for again with the same idempotency token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import func, select, update

from orchestrator.clouds import Clouds
from orchestrator.fleet import leaving
from orchestrator.fleet.bootstrap import UserDataTooLarge
from orchestrator.fleet.rungs import for_provider, ladder
from orchestrator.model.states import LAUNCH_OPEN, LaunchState, NodeState
from orchestrator.model.tables import Launch, Node, Pool, table
from orchestrator.store.doors import Move, advance
from orchestrator.store.trouble import trouble_of
from orchestrator.store.writer import Tx, Writer
from providers.base import (
    TAG_INSTALLATION,
    TAG_LAUNCH,
    TAG_NODE,
    TAG_POOL,
    Instance,
    LaunchRequest,
    Misconfigured,
    NoCapacity,
    OutcomeUnknown,
    Provider,
    ProviderError,
    QuotaExceeded,
    RateLimited,
)

log = structlog.get_logger(__name__)
pools, nodes, launches = table(Pool), table(Node), table(Launch)

RETRY_FIRST_S = 2.0
RETRY_MOST_S = 60.0

UserData = Callable[[int, Mapping[str, Any], int], bytes]
"""Renders a launch's user data: (launch id, its pool's row with the template as settled, the cloud's limit in bytes)."""


@dataclass(frozen=True, slots=True)
class Order:
    """One launch ready to be carried out, as it was committed."""

    id: int
    tries: int
    count: int
    cloud: str
    image: str
    instance_type: str
    template: Mapping[str, Any]
    overdue: bool
    pool: Mapping[str, Any]
    node_ids: Sequence[int]


class Launcher:
    """`step` starts every launch that is due; each is carried out on a thread of its own, or where `executor` says."""

    def __init__(
        self,
        writer: Writer,
        clouds: Clouds,
        installation: str,
        user_data: UserData,
        visibility_s: float,
        executor: Executor | None = None,
    ) -> None:
        self._writer = writer
        self._clouds = clouds
        self._installation = installation
        self._user_data = user_data
        self._visibility_s = visibility_s
        self._threads = executor or ThreadPoolExecutor(8, thread_name_prefix="launch")
        self._under_way: set[int] = set()

    def step(self) -> float | None:
        """Begin what is due. Returns in how many seconds the next one is, None if nothing is open."""
        orders, next_s = self._writer.write(self._take)
        for order in orders:
            self._under_way.add(order.id)
            self._threads.submit(self._carry_out, order)
        return next_s

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _take(self, tx: Tx) -> tuple[list[Order], float | None]:
        query = select(launches).where(launches.c.state.in_(LAUNCH_OPEN)).order_by(launches.c.id)
        open_ones = [row for row in tx.connection.execute(query) if row.id not in self._under_way]
        due = [row for row in open_ones if row.run_after is None or row.run_after <= tx.now]
        later = [row.run_after for row in open_ones if row.run_after is not None and row.run_after > tx.now]
        orders = [order for row in due if (order := _take_one(tx, row)) is not None]
        return orders, min(((at - tx.now).total_seconds() for at in later), default=None)

    def _carry_out(self, order: Order) -> None:
        try:
            self._writer.write(self._outcome(order))
        except Exception as error:
            if (trouble := trouble_of(error)) is not None:  # nothing can be written of it now, either
                log.warning("a launch could not be written down; it is looked up", launch=order.id, why=str(trouble))
                return
            log.exception("launch step failed; it is looked up and tried again", launch=order.id)
            why = f"a defect, looking before asking again: {type(error).__name__}: {error}"
            self._writer.write(lambda tx: _again(tx, order, why, RETRY_MOST_S))
        finally:
            self._under_way.discard(order.id)

    def _outcome(self, order: Order) -> Callable[[Tx], None]:
        """Call the cloud, and say what is to be written down of it."""
        try:
            provider = self._clouds.get(order.cloud)
            found = self._look(provider, order) if order.tries > 1 else []
            if not found and order.overdue:
                return lambda tx: _failed(tx, order, "launch_failed", "no machine was seen before the launch deadline")
            if not found and not order.node_ids:
                return lambda tx: _abandoned(tx, order, self._visibility_s)
            whole = len(found) >= order.count or not order.node_ids
            machines = found if whole else provider.launch(self._request(provider, order))
            return lambda tx: record(tx, order.id, machines)
        except RateLimited as error:
            wait_s, why = error.retry_after_s, str(error)
            return lambda tx: _again(tx, order, why, wait_s)
        except QuotaExceeded as error:
            why = str(error)
            return lambda tx: _failed(tx, order, "quota", why)
        except NoCapacity as error:
            why = str(error)
            return lambda tx: _failed(tx, order, "no_capacity", why)
        except (Misconfigured, UserDataTooLarge) as error:
            why = str(error)
            return lambda tx: _misconfigured(tx, order, why)
        except OutcomeUnknown as error:
            why = f"outcome unknown, looking before asking again: {error}"
            return lambda tx: _again(tx, order, why, RETRY_FIRST_S)
        except ProviderError as error:
            why = str(error)
            wait_s = min(RETRY_FIRST_S * 2 ** min(order.tries - 1, 10), RETRY_MOST_S)
            return lambda tx: _again(tx, order, why, wait_s)

    def _look(self, provider: Provider, order: Order) -> list[Instance]:
        mine = self.token(order.id)
        return [instance for instance in provider.instances() if instance.launch_id == mine]

    def token(self, launch_id: int) -> str:
        """The launch's name in the cloud: unique among installations, and the idempotency token of its call."""
        return f"{self._installation}-{launch_id}"

    def _request(self, provider: Provider, order: Order) -> LaunchRequest:
        tags = {
            TAG_INSTALLATION: self._installation,
            TAG_POOL: str(order.pool["name"]),
            TAG_LAUNCH: self.token(order.id),
        }
        if order.count == 1:  # machines of one call share their tags; a larger launch tells its nodes by their order
            tags[TAG_NODE] = str(order.node_ids[0])
        return LaunchRequest(
            launch_id=self.token(order.id),
            count=order.count,
            image=order.image,
            instance_type=order.instance_type,
            user_data=self._user_data(order.id, {**order.pool, "launch": order.template}, provider.user_data_limit),
            tags=tags,
            template=for_provider(order.template),
        )


def _take_one(tx: Tx, launch: Any) -> Order | None:
    """Commit to this launch. The count is settled at the first try: a repeat must ask for the same."""
    pool = tx.connection.execute(select(pools).where(pools.c.id == launch.pool_id)).mappings().one()
    wanted = (NodeState.REQUESTED, NodeState.LAUNCHING)
    query = select(nodes.c.id, nodes.c.state).where(nodes.c.launch_id == launch.id, nodes.c.state.in_(wanted))
    waiting = tx.connection.execute(query.order_by(nodes.c.id).with_for_update()).all()
    count, links = launch.machines, {"pool_id": launch.pool_id}
    if launch.state == LaunchState.REQUESTED:
        if not waiting:
            reason = "not wanted any more before it began"
            advance(tx, Launch, [Move(launch.id, launch.state, LaunchState.FAILED, reason, {}, links)])
            return None
        if pool["paused_at"] is not None:
            reason = f"pool {pool['name']} was paused before it began"
            advance(tx, Launch, [Move(launch.id, launch.state, LaunchState.FAILED, reason, {}, links)])
            for node in waiting:
                leaving.at_once(tx, node.id, "paused", reason)
            return None
        count = len(waiting)
        values = {"machines": count, "tries": 1}
        reason = f"asking {launch.cloud} for {count} machine(s): {launch.label}"
        advance(tx, Launch, [Move(launch.id, launch.state, LaunchState.LAUNCHING, reason, values, links)])
        moves = [
            Move(node.id, node.state, NodeState.LAUNCHING, reason, {}, links | {"node_id": node.id}) for node in waiting
        ]
        advance(tx, Node, moves)
    else:
        tx.connection.execute(update(launches).where(launches.c.id == launch.id).values(tries=launches.c.tries + 1))
    return Order(
        id=launch.id,
        tries=launch.tries + 1,
        count=count,
        cloud=launch.cloud,
        image=launch.image,
        instance_type=launch.instance_type,
        template=launch.template,
        overdue=tx.now > launch.requested_at + timedelta(seconds=pool["launch_timeout_s"]),
        pool=dict(pool),
        node_ids=[node.id for node in waiting],
    )


def record(tx: Tx, launch_id: int, machines: Sequence[Instance]) -> None:
    """The cloud's answer: each machine becomes its node's. Nodes it gave nothing for leave; a node that is leaving
    already takes its machine along, so that it is ended with it."""
    launch = tx.connection.execute(select(launches).where(launches.c.id == launch_id).with_for_update()).one()
    if launch.state != LaunchState.LAUNCHING:
        return
    of_launch = select(nodes).where(nodes.c.launch_id == launch_id).order_by(nodes.c.id).with_for_update()
    rows = tx.connection.execute(of_launch).all()
    taken = {row.instance_id for row in rows}
    free = [m for m in sorted(machines, key=lambda m: (m.launch_index, m.id)) if m.id not in taken]
    # Wanted nodes first: what the cloud held back is missing to those that leave anyway.
    bare = sorted(
        (row for row in rows if row.instance_id is None), key=lambda row: (row.state != NodeState.LAUNCHING, row.id)
    )
    reason = f"the cloud gave {len(machines)} of {launch.machines} machine(s)"
    links = {"pool_id": launch.pool_id}
    advance(tx, Launch, [Move(launch_id, launch.state, LaunchState.LAUNCHED, reason, {"launched_at": tx.now}, links)])
    for node, machine in zip(bare, free, strict=False):
        values = {"instance_id": machine.id, "launched_at": tx.now, "address": machine.address}
        if node.state == NodeState.LAUNCHING:
            begun = Move(
                node.id,
                node.state,
                NodeState.BOOTING,
                f"machine {machine.id} starts",
                values,
                links | {"node_id": node.id},
            )
            advance(tx, Node, [begun])
        else:
            tx.connection.execute(update(nodes).where(nodes.c.id == node.id).values(values))
            tx.tell("node", node.id, f"machine {machine.id} came while the node was leaving", node_id=node.id, **links)
    for node in bare[len(free) :]:
        leaving.at_once(tx, node.id, "no_capacity", reason)


def _again(tx: Tx, order: Order, why: str, wait_s: float) -> None:
    """Nothing is settled: say why, and come back."""
    at = tx.now + timedelta(seconds=wait_s)
    open_still = (
        launches.c.id == order.id,
        launches.c.state == LaunchState.LAUNCHING,
    )  # another master may have settled it
    if not tx.connection.execute(update(launches).where(*open_still).values(run_after=at, reason=why)).rowcount:
        return
    tx.tell("launch", order.id, why, detail=f"try {order.tries}; again in {wait_s:g} s", pool_id=order.pool["id"])


def _failed(tx: Tx, order: Order, end_reason: str, why: str) -> None:
    links = {"pool_id": order.pool["id"]}
    advance(tx, Launch, [Move(order.id, LaunchState.LAUNCHING, LaunchState.FAILED, f"{end_reason}: {why}", {}, links)])
    of_launch = select(nodes.c.id).where(nodes.c.launch_id == order.id, nodes.c.instance_id.is_(None))
    for node_id in tx.connection.execute(of_launch).scalars().all():
        leaving.at_once(tx, node_id, end_reason, why)


def _misconfigured(tx: Tx, order: Order, why: str) -> None:
    """An operator must act. A pool with other rungs goes on with those; else it launches nothing more until it is
    resumed, and says why."""
    if len(ladder(order.pool)) > 1:
        _failed(tx, order, "misconfigured", why)
        return
    _failed(tx, order, "launch_failed", why)
    unpaused = (pools.c.id == order.pool["id"], pools.c.paused_at.is_(None))
    tx.connection.execute(update(pools).where(*unpaused).values(paused_at=tx.now, paused_reason=why))
    tx.tell("pool", order.pool["id"], f"paused: {why}", pool_id=order.pool["id"])


def _abandoned(tx: Tx, order: Order, visibility_s: float) -> None:
    """All its nodes are leaving and no machine of it is to be seen: wait until one would be, then close the launch."""
    since = tx.connection.execute(select(func.max(nodes.c.terminating_at)).where(nodes.c.launch_id == order.id)).scalar()
    if since is not None and tx.now < since + timedelta(seconds=visibility_s):
        _again(tx, order, "not wanted any more; watching whether a machine of it appears", RETRY_FIRST_S)
    else:
        _failed(tx, order, "launch_failed", "not wanted any more, and no machine of it appeared")
