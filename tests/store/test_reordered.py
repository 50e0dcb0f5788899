"""Messages of agents that come twice, late, or out of their order: what they say counts once."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.agents.exchange import Answer, SyncMessage, exchange
from orchestrator.fleet.enrolment import Enrol, Enrolled, enrol
from orchestrator.fleet.secrets import enrolment_secret
from orchestrator.model.states import NodeState
from orchestrator.model.tables import Attempt, Job, Node, Task

if TYPE_CHECKING:
    from conftest import Store

KEY, INSTALLATION = b"k" * 32, "installation-1"


class Agent:
    """What an agent does with orders and answers, and a network that keeps every message it ever saw."""

    def __init__(self, store: Store, node_id: int, seed: int) -> None:
        self._store, self._node_id = store, node_id
        self._random = random.Random(seed)
        self._sent: list[SyncMessage] = []
        self._held: dict[int, bool] = {}  # attempts that the master has not acknowledged, and whether each has ended
        self.ran: Counter[int] = Counter()

    def step(self) -> None:
        """Say something new and hear the answer; or an old message comes once more, whose answer nobody hears."""
        if self._sent and self._random.random() < 0.6:
            self._deliver(self._random.choice(self._sent))
            return
        for attempt in [attempt for attempt, ended in self._held.items() if not ended]:
            if self._random.random() < 0.5:
                self._held[attempt] = True
        self._sent.append(self._message())
        answer = self._deliver(self._sent[-1])
        if self._random.random() < 0.7:  # else it is lost
            self._take(answer)

    def _message(self) -> SyncMessage:
        results: list[dict[str, Any]] = [
            {"attempt": attempt, "outcome": "exited", "exit_code": 0} for attempt, ended in self._held.items() if ended
        ]
        return SyncMessage.model_validate(
            {"free": max(0, 2 - len(self._held)), "known": list(self._held), "results": results}
        )

    def _deliver(self, message: SyncMessage) -> Answer:
        return self._store.write(lambda tx: exchange(tx, self._node_id, message))

    def _take(self, answer: Answer) -> None:
        assert not answer.stop, "what it runs is not taken from it"
        for attempt in answer.acknowledged:
            self._held.pop(attempt, None)
        for order in answer.orders:
            if order["attempt"] not in self.ran:
                self.ran[order["attempt"]] += 1
                self._held[order["attempt"]] = False


@pytest.mark.parametrize("seed", range(10))
def test_syncs(seed: int, store: Store) -> None:
    node = store.node(store.pool(), slots=2)
    job = store.job(tasks=8)
    agent = Agent(store, node, seed)
    for _ in range(2000):
        agent.step()
        if store.state(Job, job) == "succeeded":
            break
    assert store.states(Task, job_id=job) == ["succeeded"] * 8
    assert store.states(Attempt) == ["succeeded"] * 8, "one attempt of each"
    assert set(agent.ran.values()) == {1}
    store.check_counters()


def test_an_enrolment_that_comes_again_after_the_node_has_worked(store: Store) -> None:
    node = store.node(store.pool(), NodeState.BOOTING)
    row = store.one(Node, node)
    asked = Enrol(enrolment_secret(KEY, INSTALLATION, row.launch_id), row.instance_id, "c" * 64, "0.1.0")

    def knock() -> Any:
        return store.write(lambda tx: enrol(tx, asked, key=KEY, installation=INSTALLATION))

    first = knock()
    assert isinstance(first, Enrolled)
    store.job()
    store.claim(node)
    let_in = store.one(Node, node)
    assert knock() == first
    assert store.one(Node, node) == let_in, "and nothing begins anew"
    assert store.states(Attempt) == ["running"]
