"""The IaaS policy: machines come for jobs that ask for them by token, and go when the asking ends.

Each open demand wants its own count of nodes; a node serves every task with its token, and goes once the demand it came
for is closed. Beside the demands the pool keeps a floor of nodes without a token (`min_nodes`, which `pool scale` sets).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

from policies.base import Decision, Demand, Failure, LaunchWish, PoolView, ReleaseWish, Wait

BACKOFF_FIRST_S = 15.0
BACKOFF_MOST_S = 600.0


def decide(view: PoolView) -> Decision:
    """Launch demand minus all nodes on their way; release the nodes whose demand is closed, and above the floor."""
    on_their_way = Counter(node.demand_id for node in view.nodes if node.on_its_way)
    launches: list[LaunchWish] = []
    waits: list[Wait] = []
    for demand in sorted(view.demands, key=lambda demand: (demand.since, demand.id)):
        missing = demand.count - on_their_way[demand.id]
        if missing <= 0:
            continue
        until, why = not_before(view, demand.id)
        if until is not None and until > view.now:
            waits.append(Wait(why, demand.id, until))
        else:
            launches.append(_for_demand(demand, missing))
    missing = view.min_nodes - on_their_way[None]
    if missing > 0:
        until, why = not_before(view, None)
        if until is not None and until > view.now:
            waits.append(Wait(why, None, until))
        else:
            launches.append(LaunchWish(missing, f"the pool keeps {view.min_nodes} node(s) without a token"))
    return Decision(tuple(launches), tuple(_releases(view)), tuple(waits))


def not_before(view: PoolView, demand_id: int | None) -> tuple[datetime | None, str]:
    """After failures for a demand the next launch waits: 15 s, doubled by each, at most 10 minutes."""
    failures: list[Failure] = [failure for failure in view.failures if failure.demand_id == demand_id]
    if not failures:
        return None, ""
    last = max(failures, key=lambda failure: failure.at)
    delay_s = min(BACKOFF_FIRST_S * 2 ** min(len(failures) - 1, 10), BACKOFF_MOST_S)
    until = last.at + timedelta(seconds=delay_s)
    return (
        until,
        f"{len(failures)} machine(s) failed of late, the last one {last.reason}; trying again after {until:%H:%M:%S}",
    )


def _for_demand(demand: Demand, missing: int) -> LaunchWish:
    return LaunchWish(
        missing,
        f"{demand.owner} asks for {demand.count} machine(s) with token {demand.token}",
        demand_id=demand.id,
        token=demand.token,
        image=demand.image,
        instance_type=demand.instance_type,
    )


def _releases(view: PoolView) -> Iterator[ReleaseWish]:
    wanted = {demand.id for demand in view.demands}
    floor = [node for node in view.nodes if node.on_its_way and node.demand_id is None]
    for node in view.nodes:
        if node.on_its_way and node.demand_id is not None and node.demand_id not in wanted:
            yield ReleaseWish(node.id, "job_done", "nothing asks for its token any more")
    # The youngest go first: those that boot have done nothing yet.
    idle = [node for node in sorted(floor, key=lambda node: node.requested_at, reverse=True) if not node.busy]
    for node in idle[: max(0, len(floor) - view.min_nodes)]:
        yield ReleaseWish(node.id, "scaled_down", f"the pool keeps {view.min_nodes} node(s) without a token")
