"""Placement: labels, slots and memory are respected by every way a task can reach a node, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.agents.exchange import SyncMessage, exchange
from orchestrator.fleet import pools
from orchestrator.fleet.explain import explain_job
from orchestrator.jobs.spec import SpecError
from orchestrator.model.tables import Attempt, Task

if TYPE_CHECKING:
    from conftest import Store


class Agent:
    """A node's agent at its calls: it says what it holds and how many slots it has free, and beyond them."""

    def __init__(self, store: Store, pool: int, slots: int = 4, ahead: int = 0, **node: Any) -> None:
        self.store, self.slots, self.ahead = store, slots, ahead
        self.node = store.node(pool, slots=slots, **node)
        self.held: dict[int, int] = {}

    def call(self) -> list[str]:
        """The names of the tasks it is given."""
        free = max(0, self.slots + self.ahead - sum(self.held.values()))
        message = SyncMessage(free=free, known=list(self.held))
        answer = self.store.write(lambda tx: exchange(tx, self.node, message))
        self.held |= {order["attempt"]: order.get("slots", 1) for order in answer.orders}
        return [order["env"]["ORCHESTRATOR_TASK"] for order in answer.orders]

    def end(self, *names: str) -> None:
        tasks = {row.id: row.name for row in self.store.rows(Task)}
        for row in self.store.rows(Attempt, state="running", node_id=self.node):
            if tasks[row.task_id] in names:
                self.store.report(self.node, row.id)
                del self.held[row.id]


def queue(store: Store, *names: str, **task: Any) -> int:
    return store.submit({"name": "j", "client": "acme", "tasks": [{"name": n, "run": "true", **task} for n in names]})


def explained(store: Store, job: int) -> str:
    with store.engine.connect() as connection:
        return " ".join(explain_job(connection, job, store.clock()).sentences)


def test_only_a_pool_with_all_labels(store: Store) -> None:
    plain, some = Agent(store, store.pool("plain")), Agent(store, store.pool("some", labels=["gpu"]))
    all_ = Agent(store, store.pool("all", labels=["ssd", "gpu", "x'\"y"]))
    queue(store, "needs-both", labels=["gpu", "ssd"])
    queue(store, "needs-one", labels=["gpu"])
    queue(store, "needs-none")
    assert plain.call() == ["needs-none"]
    assert some.call() == ["needs-one"]
    assert all_.call() == ["needs-both"]


def test_tasks_take_slots_until_there_are_none(store: Store) -> None:
    agent = Agent(store, store.pool())
    queue(store, "three", slots=3)
    queue(store, "two", slots=2)
    queue(store, "one", "more")
    assert agent.call() == ["three", "one"]  # the one that does not fit is passed, for a while
    agent.end("three")
    assert agent.call() == ["two", "more"]


def test_memory_adds_up(store: Store) -> None:
    agent = Agent(store, store.pool(), memory_mb=4000)
    queue(store, "a", "b", "c", memory=1900)
    assert agent.call() == ["a", "b"]
    agent.end("a")
    assert agent.call() == ["c"]


def test_a_machine_that_does_not_say_its_memory_gets_no_task_that_asks_for_some(store: Store) -> None:
    old = Agent(store, store.pool())
    job = queue(store, "big", memory=100)
    assert old.call() == []
    assert "older version" in explained(store, job)


def test_beside_a_sized_task_nothing_is_held_ahead(store: Store) -> None:
    agent = Agent(store, store.pool(), slots=2, ahead=8)
    queue(store, "two", slots=2)
    queue(store, *(f"small-{i}" for i in range(6)))
    assert agent.call() == ["two"]
    assert agent.call() == []
    agent.end("two")
    assert len(agent.call()) == 6


def test_an_agent_that_counts_attempts_and_not_slots_is_not_given_too_much(store: Store) -> None:
    agent = Agent(store, store.pool(), slots=2)
    queue(store, "two", slots=2)
    queue(store, "small")
    agent.call()
    agent.held = dict.fromkeys(agent.held, 1)  # as those of before
    assert agent.call() == []


def test_nothing_passes_a_big_task_for_ever(store: Store) -> None:
    """Small tasks pass it while it is young; then the node gets free for it, whatever comes."""
    agent = Agent(store, store.pool(), slots=2)
    queue(store, "s0", "s1")
    assert agent.call() == ["s0", "s1"]
    job = queue(store, "big", slots=2)
    queue(store, "s2", "s3", "s4")
    agent.end("s0")
    assert agent.call() == ["s2"]
    assert "smaller tasks may pass it until" in explained(store, job)
    store.clock.move(61)
    agent.end("s1")
    assert agent.call() == []
    assert "take nothing else" in explained(store, job)
    agent.end("s2")
    assert agent.call() == ["big"]


def test_nodes_kept_free_for_a_task_are_told_when_another_has_taken_it(store: Store) -> None:
    pool = store.pool()
    first, second = Agent(store, pool, slots=2), Agent(store, pool, slots=2)
    queue(store, "s0", "s1", "s2", "s3")
    first.call(), second.call()
    queue(store, "big", slots=2)
    queue(store, "s4")
    store.clock.move(61)
    second.end("s2")
    assert second.call() == []
    woken: list[int] = []
    store.writer.listen(lambda _, queued: woken.append(queued[None, None]))
    first.end("s0", "s1")
    assert first.call() == ["big"]
    assert max(woken) > 1
    assert second.call() == ["s4"]


def test_a_task_that_nobody_can_take_says_why(store: Store) -> None:
    agent = Agent(store, store.pool(), slots=2, memory_mb=2000)
    for task, told in (
        ({"slots": 3}, "has only 2 slot(s)"),
        ({"memory": "4G"}, "has only 2000 MB of memory"),
        ({"labels": ["gpu"]}, "has no label gpu"),
    ):
        job = queue(store, "t", **task)
        assert agent.call() == []
        assert told in explained(store, job)
        store.cancel(job)


def test_labels_that_no_pool_has_are_told(store: Store) -> None:
    assert "no pool has the label(s) gpu" in explained(store, queue(store, "t", labels=["gpu"]))


@pytest.mark.parametrize(
    ("task", "path", "fix"),
    [
        ({"labels": ["gpu"]}, "tasks[0].labels", "pool change main --label"),
        ({"slots": 2}, "tasks[0].slots", "pool change main --slots 2"),
    ],
)
def test_what_a_named_pool_can_never_run_is_refused(store: Store, task: dict[str, Any], path: str, fix: str) -> None:
    store.pool()
    tasks = [{"name": f"t{i}", "run": "true", **task} for i in range(3)]
    with pytest.raises(SpecError) as refused:
        store.submit({"name": "j", "client": "acme", "infrastructure": {"pool": "main"}, "tasks": tasks})
    [(where, message)] = refused.value.problems
    assert where == path
    assert fix in message


def test_a_pool_for_some_clients_refuses_the_others(store: Store) -> None:
    store.pool(clients=["acme", "globex"])
    job = {"name": "j", "run": "true", "infrastructure": {"pool": "main"}}
    store.submit({**job, "client": "globex"})
    with pytest.raises(SpecError, match=r"infrastructure\.pool: .*is for acme, globex and not for 'other'.*--client other"):
        store.submit({**job, "client": "other"})


def test_nodes_of_a_pool_for_some_clients_take_nobody_elses_tasks(store: Store) -> None:
    pool = store.pool(clients=["acme"])
    agent = Agent(store, pool)
    stranger = store.submit({"name": "j", "client": "other", "run": "true"})
    queue(store, "mine")
    assert agent.call() == ["mine"]
    assert "start one with" in explained(store, stranger)
    store.write(lambda tx: pools.change(tx, pool, {"clients": []}, actor="tester"))
    assert agent.call() == ["j"]


def test_a_label_that_a_pool_gets_wakes_its_nodes(store: Store) -> None:
    pool = store.pool()
    agent = Agent(store, pool)
    queue(store, "t", labels=["gpu"])
    woken: list[int] = []
    store.writer.listen(lambda _, queued: woken.append(queued[None, pool]))
    store.write(lambda tx: pools.change(tx, pool, {"labels": ["gpu"]}, actor="tester"))
    assert max(woken) > 0
    assert agent.call() == ["t"]
