"""Audit: every machine in the clouds against every row, as both are at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Engine, select

from orchestrator.clouds import Clouds
from orchestrator.model.states import LAUNCH_OPEN, NODE_LIVE, NodeState
from orchestrator.model.tables import Launch, Node, table
from providers.base import Instance, InstanceState, ProviderError

nodes, launches = table(Node), table(Launch)


@dataclass(frozen=True, slots=True)
class Finding:
    """One machine, or one row, and how the two sides fit. `trouble` is empty where they do."""

    cloud: str
    machine: str | None
    cloud_says: str
    node: int | None
    we_say: str
    trouble: str = ""


@dataclass(slots=True)
class Audit:
    """`alive`: machines of ours that exist in the clouds; `accounted`: those that a row or a launch answers for."""

    findings: list[Finding] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        return not self.unreachable and not any(finding.trouble for finding in self.findings)

    def document(self) -> dict[str, Any]:
        machines = [finding for finding in self.findings if finding.machine is not None]
        return {
            "agrees": self.agrees,
            "alive": len(machines),
            "accounted": sum(not finding.trouble for finding in machines),
            "unreachable": self.unreachable,
            "findings": [asdict(finding) for finding in self.findings],
        }


def audit(engine: Engine, clouds: Clouds, installation: str) -> Audit:
    """Ask every cloud, then read the rows: a row that came in between is known, a machine is never younger than it."""
    result = Audit()
    for cloud in clouds.names():
        before = _live_machines(engine, cloud)
        try:
            shown = {instance.id: instance for instance in clouds.get(cloud).instances() if instance.state.exists}
        except ProviderError as error:
            result.unreachable[cloud] = str(error)
            continue
        result.findings += _machines(engine, cloud, installation, list(shown.values()))
        result.findings += _missing(engine, cloud, set(shown), before)
    return result


def _machines(engine: Engine, cloud: str, installation: str, shown: Sequence[Instance]) -> list[Finding]:
    with engine.connect() as connection:
        rows = connection.execute(select(nodes.c.id, nodes.c.instance_id, nodes.c.state)).all()
        in_flight = set(connection.execute(select(launches.c.id).where(launches.c.state.in_(LAUNCH_OPEN))).scalars())
    by_machine = {row.instance_id: row for row in rows if row.instance_id}
    findings = []
    for machine in sorted(shown, key=lambda machine: machine.id):
        row = by_machine.get(machine.id)
        if row is not None:
            over = row.state == NodeState.TERMINATED and machine.state != InstanceState.ENDING
            trouble = "the row says terminated, the cloud shows it alive" if over else ""
            findings.append(Finding(cloud, machine.id, machine.state, row.id, row.state, trouble))
        elif machine.launch_id in {f"{installation}-{id_}" for id_ in in_flight}:
            findings.append(Finding(cloud, machine.id, machine.state, None, "its launch is under way"))
        else:
            findings.append(Finding(cloud, machine.id, machine.state, None, "unknown", "orphan: ours, but no node's"))
    return findings


def _live_machines(engine: Engine, cloud: str) -> dict[str, tuple[int, str]]:
    """Machines that live rows had already seen in the cloud before it was asked."""
    query = (
        select(nodes.c.id, nodes.c.instance_id, nodes.c.state)
        .join(launches, launches.c.id == nodes.c.launch_id)
        .where(launches.c.cloud == cloud, nodes.c.state.in_(NODE_LIVE), nodes.c.seen_at.is_not(None))
    )
    with engine.connect() as connection:
        return {row.instance_id: (row.id, row.state) for row in connection.execute(query)}


def _missing(engine: Engine, cloud: str, shown: set[str], before: dict[str, tuple[int, str]]) -> list[Finding]:
    """Live rows whose machine the cloud does not show. One that is terminating is only waiting for the next look."""
    after = _live_machines(engine, cloud)
    return [
        Finding(cloud, None, "not shown", node_id, state, "" if leaving else "the row is live, the machine is gone")
        for machine, (node_id, state) in sorted(before.items())
        if machine not in shown and machine in after
        for leaving in [after[machine][1] == NodeState.TERMINATING]
    ]
