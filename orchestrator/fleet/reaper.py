"""Reap: every terminating node's machine is asked to end, again and again, until a listing no longer shows it."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

from sqlalchemy import select, update

from orchestrator.clouds import Clouds
from orchestrator.model.states import NodeState
from orchestrator.model.tables import Launch, Node, table
from orchestrator.store.writer import Tx, Writer
from providers.base import ProviderError

launches, nodes = table(Launch), table(Node)

AGAIN_FIRST_S = 15.0
AGAIN_MOST_S = 300.0
ALARM_AFTER = 5


class Reaper:
    """`step` asks the clouds to end what is due."""

    def __init__(self, writer: Writer, clouds: Clouds) -> None:
        self._writer = writer
        self._clouds = clouds

    def step(self) -> None:
        for cloud, machines in self._writer.write(_take_due).items():
            try:
                self._clouds.get(cloud).terminate(machines.values())
            except ProviderError as error:
                self._writer.write(lambda tx, ids=list(machines), why=str(error): _tell_failed(tx, ids, why))  # type: ignore[misc]


def again_at(asked_at: datetime | None, tries: int) -> datetime | None:
    """When termination is asked again: 15 s after the first time, doubled each time, at most 5 minutes."""
    if asked_at is None:
        return None
    return asked_at + timedelta(seconds=min(AGAIN_FIRST_S * 2 ** min(tries - 1, 10), AGAIN_MOST_S))


def _take_due(tx: Tx) -> dict[str, dict[int, str]]:
    columns = (nodes.c.id, nodes.c.instance_id, nodes.c.terminate_asked_at, nodes.c.terminate_tries, launches.c.cloud)
    leaving = (nodes.c.state == NodeState.TERMINATING, nodes.c.instance_id.is_not(None))
    rows = tx.connection.execute(select(*columns).join(launches, launches.c.id == nodes.c.launch_id).where(*leaving)).all()
    due: dict[str, dict[int, str]] = defaultdict(dict)
    for node in rows:
        at = again_at(node.terminate_asked_at, node.terminate_tries)
        if at is None or at <= tx.now:
            due[node.cloud][node.id] = node.instance_id
            if node.terminate_tries >= ALARM_AFTER:
                told = f"ALARM: asked to end {node.terminate_tries} times and still not seen gone"
                tx.tell("node", node.id, told, node_id=node.id)
    ids = [id_ for machines in due.values() for id_ in machines]
    if ids:
        asked = {"terminate_asked_at": tx.now, "terminate_tries": nodes.c.terminate_tries + 1}
        tx.connection.execute(update(nodes).where(nodes.c.id.in_(ids)).values(asked))
        for id_ in ids:
            tx.tell("node", id_, "asking the cloud to end its machine", node_id=id_)
    return due


def _tell_failed(tx: Tx, ids: list[int], why: str) -> None:
    for id_ in ids:
        tx.tell("node", id_, f"the cloud did not take the request to end it; asking again: {why}", node_id=id_)
