"""Watch: what the clouds show is compared with what is written, cloud by cloud, and the difference acted on.

One paged listing a cloud and look. Only a successful listing ends a node's row, and "not visible yet" is not "gone".
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Row, func, select, update

from orchestrator.clock import Clock
from orchestrator.clouds import Clouds
from orchestrator.fleet import health, leaving
from orchestrator.model.states import LAUNCH_OPEN, NODE_LIVE, NodeState
from orchestrator.model.tables import Launch, Node, Pool, table
from orchestrator.store.writer import Tx, Writer
from providers.base import TAG_INSTALLATION, TAG_POOL, Instance, InstanceState, ProviderError

log = structlog.get_logger(__name__)
pools, nodes, launches = table(Pool), table(Node), table(Launch)

GONE = (InstanceState.ENDED, InstanceState.ENDING, InstanceState.STOPPED, InstanceState.STOPPING, InstanceState.ERROR)
"""States in which a machine will do no more work for us (an agent's power-off shows as one of these)."""

EVER = datetime.min.replace(tzinfo=UTC)
CHECKS_EVERY = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Look:
    """One successful listing of one cloud, and when it began: rows written later than that are not judged by it."""

    cloud: str
    began_at: datetime
    instances: Sequence[Instance]


class Watcher:
    """`step` looks at every cloud that may hold machines of ours. Orphans are remembered between looks."""

    def __init__(
        self,
        writer: Writer,
        clouds: Clouds,
        clock: Clock,
        *,
        installation: str,
        visibility_s: float,
        orphan_grace_s: float,
    ) -> None:
        self._writer = writer
        self._clouds = clouds
        self._clock = clock
        self._since = clock()
        self._installation = installation
        self._visibility = timedelta(seconds=visibility_s)
        self._grace = timedelta(seconds=orphan_grace_s)
        self._orphans: dict[str, datetime] = {}
        self._unreachable: dict[str, str] = {}
        self._shown: dict[str, Counter[str | None]] = {}
        self._checked: dict[str, datetime] = {}
        self._looking = threading.Lock()

    def step(self) -> None:
        """Look at every cloud once."""
        with self._looking:
            self._look_everywhere(self._grace)

    def fix(self) -> None:
        """The same look by hand: an operator who asks for it need not wait for the grace of orphans."""
        with self._looking:
            self._look_everywhere(timedelta())

    def _look_everywhere(self, grace: timedelta) -> None:
        for cloud in self._clouds.renting():
            try:
                began_at = self._clock()
                # Checked here as well: a filter that a cloud ignores must not cost a stranger's machine (law 4).
                ours = [
                    i for i in self._clouds.get(cloud).instances() if i.tags.get(TAG_INSTALLATION) == self._installation
                ]
                look = Look(cloud, began_at, ours)
            except ProviderError as error:
                self._note(cloud, str(error))
                continue
            self._note(cloud, None)
            impaired = self._impaired(cloud)
            orphans = self._writer.write(lambda tx, look=look, bad=impaired: self._compare(tx, look, bad, grace))  # type: ignore[misc]
            self._end_orphans(cloud, orphans)

    def _note(self, cloud: str, trouble: str | None) -> None:
        """Say once when a cloud cannot be listed, and once when it can again."""
        if self._unreachable.get(cloud) == trouble:
            return
        if trouble is None:
            self._unreachable.pop(cloud, None)
            reason = f"cloud {cloud} can be listed again"
        else:
            self._unreachable[cloud] = trouble
            reason = f"cloud {cloud} cannot be listed; nodes are not judged until it can: {trouble}"
        self._writer.write(lambda tx: tx.tell("cloud", 0, reason))

    def _impaired(self, cloud: str) -> Mapping[str, str] | None:
        """The machines that fail the cloud's own checks; None where it is not time to ask, or the cloud cannot say."""
        now = self._clock()
        if now < self._checked.get(cloud, EVER) + CHECKS_EVERY:
            return None
        try:
            found = self._clouds.get(cloud).impaired()
        except ProviderError as error:
            log.info("the cloud's status checks could not be read", cloud=cloud, error=str(error))
            return None
        self._checked[cloud] = now
        return found

    def _compare(self, tx: Tx, look: Look, impaired: Mapping[str, str] | None, grace: timedelta) -> list[Instance]:
        by_id = {instance.id: instance for instance in look.instances}
        rows = live_nodes(tx, look.cloud)
        for node in rows:
            if node.instance_id is None:
                _end_without_machine(tx, node)
            elif (node.launched_at is None or node.launched_at < look.began_at) and not _seen_since(node, look):
                self._judge(tx, node, by_id.get(node.instance_id), look.began_at)
        seen = [node.id for node in rows if (machine := by_id.get(node.instance_id)) and machine.state.exists]
        if seen:
            tx.connection.execute(update(nodes).where(nodes.c.id.in_(seen)).values(seen_at=tx.now))
        health.note_cloud(tx, rows, by_id, impaired)
        self._shown[look.cloud] = Counter(
            i.tags.get(TAG_POOL) for i in look.instances if i.state.exists and i.state != InstanceState.ENDING
        )
        _freeze_overshoot(tx, sum(self._shown.values(), Counter()))
        return self._due_orphans(tx, look, {node.instance_id for node in rows}, grace)

    def _judge(self, tx: Tx, node: Row[Any], machine: Instance | None, began_at: datetime) -> None:
        """One node whose machine is visible, or should be by now. A cloud that answers from copies of itself may show a
        machine and then not for a while, so having been seen proves nothing; and an answer is as old as its question."""
        if machine is None and began_at < self._known_since(node) + self._visibility:
            return
        if node.state == NodeState.TERMINATING:
            if machine is None or not machine.state.exists:
                leaving.ended(tx, node.id, f"machine {node.instance_id} has ended")
        elif machine is None:
            leaving.at_once(tx, node.id, "vanished", f"the cloud shows no machine {node.instance_id} any more")
        elif machine.state in GONE:
            told = f"the cloud says {machine.state} of {machine.id}" + (f": {machine.fault}" if machine.fault else "")
            leaving.at_once(tx, node.id, machine.cause or "vanished", told)

    def _known_since(self, node: Row[Any]) -> datetime:
        """How long the cloud has surely had time to show it. The host's clock may have been put on while no master ran, so
        of a machine that nobody has seen yet only this master's own time counts."""
        launched_at: datetime = node.launched_at
        return launched_at if node.seen_at is not None else max(launched_at, self._since)

    def _due_orphans(self, tx: Tx, look: Look, known: set[str], grace: timedelta) -> list[Instance]:
        """Machines of ours without a live row, seen again after the grace period (law 4)."""
        in_flight = {f"{self._installation}-{id_}" for id_ in open_launches(tx)}
        orphans = [
            instance
            for instance in look.instances
            if instance.state.exists
            and instance.state != InstanceState.ENDING
            and instance.id not in known
            and instance.launch_id not in in_flight
            and not _row_came_meanwhile(tx, instance)
        ]
        marked = {orphan.id for orphan in orphans}
        mine = {id_ for id_ in self._orphans if id_.startswith(f"{look.cloud}/")}
        for id_ in mine - {f"{look.cloud}/{id_}" for id_ in marked}:
            del self._orphans[id_]
        due = []
        for orphan in orphans:
            first = self._orphans.setdefault(f"{look.cloud}/{orphan.id}", tx.now)
            if first == tx.now:
                tx.tell("cloud", 0, f"machine {orphan.id} in {look.cloud} is ours but has no live node: orphan, watched")
            if tx.now - first >= grace:
                tx.tell(
                    "cloud",
                    0,
                    f"orphan {orphan.id} in {look.cloud} is ended, {grace.total_seconds():.0f} s of grace are over",
                )
                due.append(orphan)
        return due

    def _end_orphans(self, cloud: str, orphans: Sequence[Instance]) -> None:
        if not orphans:
            return
        try:
            self._clouds.get(cloud).terminate([orphan.id for orphan in orphans])
        except ProviderError as error:
            log.warning("orphans not ended, trying again at the next look", cloud=cloud, error=str(error))


def _seen_since(node: Row[Any], look: Look) -> bool:
    """Another master's look, begun later and answered sooner, has seen its machine: this one is too old to judge it."""
    return node.seen_at is not None and bool(node.seen_at > look.began_at)


def live_nodes(tx: Tx, cloud: str) -> Sequence[Row[Any]]:
    """The nodes with machines in this cloud that are not terminated."""
    query = (
        select(nodes)
        .join(launches, launches.c.id == nodes.c.launch_id)
        .where(launches.c.cloud == cloud, nodes.c.state.in_(NODE_LIVE))
        .order_by(nodes.c.id)
    )
    return tx.connection.execute(query).all()


def open_launches(tx: Tx) -> Sequence[int]:
    return tx.connection.execute(select(launches.c.id).where(launches.c.state.in_(LAUNCH_OPEN))).scalars().all()


def _row_came_meanwhile(tx: Tx, instance: Instance) -> bool:
    """A node that took this machine and is live: written after the listing began."""
    live = select(nodes.c.id).where(nodes.c.instance_id == instance.id, nodes.c.state.in_(NODE_LIVE))
    return tx.connection.execute(live).first() is not None


def _end_without_machine(tx: Tx, node: Row[Any]) -> None:
    if node.state != NodeState.TERMINATING:
        return
    state = tx.connection.execute(select(launches.c.state).where(launches.c.id == node.launch_id)).scalar_one()
    if state not in LAUNCH_OPEN:
        leaving.ended(tx, node.id, "it never had a machine")


def _freeze_overshoot(tx: Tx, shown: Mapping[str | None, int]) -> None:
    """More machines of a pool than its cap and its launches in flight: launch nothing until that is understood.

    `shown`: machines by the pool their tag names, over all clouds as each was last seen.
    """
    for pool in tx.connection.execute(select(pools).where(pools.c.gone_at.is_(None))):
        in_flight = tx.connection.execute(
            select(func.coalesce(func.sum(launches.c.machines), 0)).where(
                launches.c.pool_id == pool.id, launches.c.state.in_(LAUNCH_OPEN)
            )
        ).scalar_one()
        most = max(pool.max_nodes, _rows_counted(tx, pool.id)) + in_flight
        count = shown.get(pool.name, 0)
        frozen = f"{count} machines are shown where at most {most} may be" if count > most else None
        if (frozen is None) != (pool.frozen_reason is None):
            tx.connection.execute(update(pools).where(pools.c.id == pool.id).values(frozen_reason=frozen))
            told = (
                f"frozen, nothing is launched: {frozen}"
                if frozen
                else "machines are within the cap again: not frozen any more"
            )
            tx.tell("pool", pool.id, told, pool_id=pool.id)


def _rows_counted(tx: Tx, pool_id: int) -> int:
    """Nodes that an operator's lower cap has not made fewer yet are no overshoot."""
    live = select(func.count()).where(nodes.c.pool_id == pool_id, nodes.c.state.in_(NODE_LIVE))
    return int(tx.connection.execute(live).scalar_one())
