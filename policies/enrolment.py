"""The policy of machines that exist already: they come by a person's command and go by one, so nothing is wished for.

What is asked of such a pool and not there is told, with the command that brings it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from policies.base import Decision, PoolView, Wait


def decide(view: PoolView) -> Decision:
    """No launch, no release; a wait for each demand that the machines there do not meet."""
    return Decision(waits=tuple(_waits(view)))


def _waits(view: PoolView) -> Iterator[Wait]:
    there = Counter(node.token for node in view.nodes if node.on_its_way)
    for demand in view.demands:
        if (missing := demand.count - there[demand.token]) > 0:
            told = f"{missing} of the {demand.count} machine(s) with token {demand.token} are not there"
            yield Wait(f"{told}; {_how(view)} --for {demand.token}`", demand.id)
    if (missing := view.min_nodes - there[None]) > 0:
        yield Wait(f"{missing} of {view.min_nodes} machine(s) without a token are not there; {_how(view)}`")


def _how(view: PoolView) -> str:
    return f"machines of pool {view.name} join by enrolment: `orchestrator node enrol {view.name}"
