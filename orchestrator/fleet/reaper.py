"""Reap: every terminating node's machine is asked to end, again and again, until a listing no longer shows it.

A machine that existed before its node is let go instead: the row ends at once, and its agent is told so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import select, update

from orchestrator.clouds import Clouds
from orchestrator.fleet import leaving
from orchestrator.fleet.holds import BOOT_FAILURES
from orchestrator.model.states import NodeState
from orchestrator.model.tables import Launch, Node, Pool, table
from orchestrator.store.writer import Tx, Writer
from providers.base import Provider, ProviderError

log = structlog.get_logger(__name__)
launches, nodes, pools = table(Launch), table(Node), table(Pool)

AGAIN_FIRST_S = 15.0
AGAIN_MOST_S = 300.0
CONSOLES_AT_ONCE = 4  # a cloud that is slow to show them must not hold up the ends of machines
CONSOLE_KEPT = 64 << 10


@dataclass(frozen=True, slots=True)
class Due:
    """A machine to be ended. One that did not boot has its console read first: it is often gone with the machine."""

    node_id: int
    machine: str
    keep_console: bool


class Reaper:
    """`step` asks the clouds to end what is due."""

    def __init__(self, writer: Writer, clouds: Clouds) -> None:
        self._writer = writer
        self._clouds = clouds

    def step(self) -> None:
        if joined := self._clouds.joined():
            self._writer.write(lambda tx: _let_go(tx, joined))
        for cloud, due in self._writer.write(_take_due).items():
            try:
                provider = self._clouds.get(cloud)
                self._keep_consoles(provider, [each for each in due if each.keep_console])
                provider.terminate([each.machine for each in due])
            except ProviderError as error:
                self._writer.write(lambda tx, due=due, why=str(error): _tell_failed(tx, due, why))  # type: ignore[misc]

    def _keep_consoles(self, provider: Provider, failed: Sequence[Due]) -> None:
        """What machines that did not boot said last. Best effort: a cloud that cannot tell keeps nothing waiting."""
        for each in failed[:CONSOLES_AT_ONCE]:
            try:
                said = provider.console(each.machine)[-CONSOLE_KEPT:]
            except ProviderError as error:
                log.info("the console of a machine that failed could not be read", node=each.node_id, error=str(error))
                return
            if said:
                self._writer.write(lambda tx, id_=each.node_id, said=said: _keep(tx, id_, said))  # type: ignore[misc]


def _let_go(tx: Tx, clouds: Sequence[str]) -> None:
    of_them = (launches.c.cloud.in_(clouds), nodes.c.state == NodeState.TERMINATING)
    query = select(nodes.c.id).join(launches, launches.c.id == nodes.c.launch_id).where(*of_them).order_by(nodes.c.id)
    for node_id in tx.connection.execute(query).scalars().all():
        leaving.ended(tx, node_id, "the machine stays, its agent leaves it")


def again_at(asked_at: datetime | None, tries: int) -> datetime | None:
    """When termination is asked again: 15 s after the first time, doubled each time, at most 5 minutes."""
    if asked_at is None:
        return None
    return asked_at + timedelta(seconds=min(AGAIN_FIRST_S * 2 ** min(tries - 1, 10), AGAIN_MOST_S))


def _take_due(tx: Tx) -> dict[str, list[Due]]:
    leaves = (nodes.c.state == NodeState.TERMINATING, nodes.c.instance_id.is_not(None))
    query = (
        select(nodes, launches.c.cloud, pools.c.terminate_timeout_s)
        .join(launches, launches.c.id == nodes.c.launch_id)
        .join(pools, pools.c.id == nodes.c.pool_id)
        .where(*leaves)
    )
    due: dict[str, list[Due]] = defaultdict(list)
    for node in tx.connection.execute(query).all():
        at = again_at(node.terminate_asked_at, node.terminate_tries)
        if at is not None and at > tx.now:
            continue
        failed = node.end_reason in BOOT_FAILURES and node.enrolled_at is None and node.terminate_tries == 0
        due[node.cloud].append(Due(node.id, node.instance_id, failed))
        waited_s = (tx.now - node.terminating_at).total_seconds()
        if waited_s > node.terminate_timeout_s:
            told = (
                f"ALARM: asked {node.terminate_tries} times in {waited_s:.0f} s to end its machine, and it is not seen gone"
            )
            tx.tell("node", node.id, told, node_id=node.id, pool_id=node.pool_id)
    ids = [each.node_id for machines in due.values() for each in machines]
    if ids:
        asked = {"terminate_asked_at": tx.now, "terminate_tries": nodes.c.terminate_tries + 1}
        tx.connection.execute(update(nodes).where(nodes.c.id.in_(ids)).values(asked))
        for id_ in ids:
            tx.tell("node", id_, "asking the cloud to end its machine", node_id=id_)
    return due


def _keep(tx: Tx, node_id: int, said: str) -> None:
    tx.connection.execute(update(nodes).where(nodes.c.id == node_id).values(console=said.replace("\0", "␀")))
    tx.tell("node", node_id, f"its console was kept ({len(said)} characters)", node_id=node_id)


def _tell_failed(tx: Tx, due: Sequence[Due], why: str) -> None:
    for each in due:
        told = f"the cloud did not take the request to end it; asking again: {why}"
        tx.tell("node", each.node_id, told, node_id=each.node_id)
