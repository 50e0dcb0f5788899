"""Claims: each queued task goes to one node, by the token rule, in the order of the queue."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from orchestrator.agents.claims import claim, holder
from orchestrator.fleet import leaving
from orchestrator.model.states import NodeState, TaskState
from orchestrator.model.tables import Attempt, Event, Job, Node, Task
from orchestrator.store.writer import Tx

if TYPE_CHECKING:
    from conftest import Store

LIVE_BUT_NOT_READY = [state for state in NodeState if state != NodeState.READY]


def claim_all(nodes: list[tuple[Store, int]], total: int) -> list[list[int]]:
    """Every node claims on a thread of its own until the queue is empty."""
    got: list[list[int]] = [[] for _ in nodes]
    failures: list[BaseException] = []
    together = threading.Barrier(len(nodes))

    def work(place: int, store: Store, node: int) -> None:
        try:
            together.wait(10)
            while attempts := store.claim(node, 3):
                got[place] += attempts
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i, store, node)) for i, (store, node) in enumerate(nodes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert sum(map(len, got)) == total
    return got


def each_once(store: Store, total: int) -> None:
    attempts = store.rows(Attempt)
    assert len(attempts) == total
    assert set(Counter(row.task_id for row in attempts).values()) == {1}
    assert {row.number for row in attempts} == {1}
    assert set(store.states(Task)) == {TaskState.RUNNING}
    assert {row.attempts for row in store.rows(Task)} == {1}
    assert len(store.rows(Event, subject="task", to_state="running")) == total


def test_eight_threads_claim_each_task_once(store: Store) -> None:
    pool = store.pool()
    nodes = [(store, store.node(pool)) for _ in range(8)]
    for _ in range(4):
        store.job(100)
    claim_all(nodes, 400)
    each_once(store, 400)
    assert set(store.states(Job)) == {"running"}


def test_several_masters_claim_each_task_once(masters: list[Store]) -> None:
    """No master's claim fails because another one was faster with the same job."""
    first = masters[0]
    pool = first.pool()
    nodes = [(masters[i % 3], first.node(pool)) for i in range(6)]
    for _ in range(30):
        first.job(4)
    claim_all(nodes, 120)
    each_once(first, 120)
    assert len(first.rows(Event, subject="job", to_state="running")) == 30


TOKENS = {"none": None, "a": "acme/a", "b": "acme/b", "a of another client": "other/a"}


def test_token_rule(store: Store) -> None:
    """Equal or no match, both ways; the client is part of the token. No pair shares anything with another."""
    pool = store.pool()
    for task, node in itertools.product(TOKENS, TOKENS):
        node_id = store.node(pool, token=TOKENS[node])
        client, _, token = (TOKENS[task] or "acme/").partition("/")
        job = store.submit({"name": "j", "client": client, "run": "true"} | ({"token": token} if token else {}))
        assert [row.token for row in store.rows(Task, job_id=job)] == [TOKENS[task]]
        assert bool(store.claim(node_id)) == (task == node), f"task with {task}, node with {node}"
        store.cancel(job)


def test_the_pool_of_a_task(store: Store) -> None:
    here, there = store.pool("here"), store.pool("there")
    store.submit({"name": "placed", "client": "acme", "run": "true", "infrastructure": {"pool": "here"}})
    assert store.claim(store.node(there)) == []
    assert len(store.claim(store.node(here))) == 1
    store.job()
    assert len(store.claim(store.node(there))) == 1  # without a pool: anywhere


def test_priority_then_age(store: Store) -> None:
    node = store.node(store.pool())
    for name, priority in (("low", -5), ("first", 0), ("high", 7), ("second", 0), ("highest", 9)):
        store.submit({"name": name, "client": "acme", "run": "true", "priority": priority})
    names = {row.id: row.name for row in store.rows(Job)}
    tasks = {row.id: names[row.job_id] for row in store.rows(Task)}
    taken = [store.claim(node)[0] for _ in range(5)]
    order = {row.id: tasks[row.task_id] for row in store.rows(Attempt)}
    assert [order[attempt] for attempt in taken] == ["highest", "high", "first", "second", "low"]


def test_one_call_gives_the_queue_in_order(store: Store) -> None:
    node = store.node(store.pool())
    store.job(5)
    store.job(2, priority=1)
    store.claim(node, 4)
    running = [row.task_id for row in store.rows(Attempt)]
    tasks = [row.id for row in store.rows(Task)]
    assert running == [tasks[5], tasks[6], tasks[0], tasks[1]]


def test_not_before_run_after(store: Store) -> None:
    node = store.node(store.pool())
    store.job()
    (task,) = store.rows(Task)
    store.force(Task, task.id, run_after=store.clock())
    store.clock.move(-0.001)
    assert store.claim(node) == []
    store.clock.move(0.001)
    assert len(store.claim(node)) == 1
    assert store.one(Task, task.id).run_after is None


@pytest.mark.parametrize("state", LIVE_BUT_NOT_READY)
def test_only_a_ready_node_claims(store: Store, state: NodeState) -> None:
    node = store.node(store.pool(), state)
    store.job()
    assert store.claim(node) == []
    assert store.states(Task) == [TaskState.QUEUED]


@pytest.mark.parametrize("wanted", [0, -3])
def test_nothing_wanted_nothing_given(store: Store, wanted: int) -> None:
    node = store.node(store.pool())
    store.job()
    assert store.claim(node, wanted) == []


def test_what_the_agent_is_told(store: Store) -> None:
    node = store.node(store.pool(), token="acme/t")
    job = store.submit(
        {
            "name": "j",
            "client": "acme",
            "token": "t",
            "params": {"A": "1", "B": "job"},
            "env": {"B": "env", "C": "env"},
            "timeout": {"after": "2m", "grace": "5s"},
            "tasks": [{"name": "only", "run": "echo hi", "env": {"C": "task"}}],
        }
    )
    (order,) = store.write(lambda tx: claim(tx, holder(tx, node), 1))
    assert (order["run"], order["timeout_s"], order["grace_s"]) == ("echo hi", 120, 5)
    env = order["env"]
    assert (env["A"], env["B"], env["C"]) == ("1", "env", "task")
    assert (env["JOB_ID"], env["ORCHESTRATOR_JOB_ID"]) == (str(job), str(job))
    assert (env["ORCHESTRATOR_TASK"], env["ORCHESTRATOR_TOKEN"]) == ("only", "acme/t")
    assert env["ORCHESTRATOR_ATTEMPT"] == "1"


def test_no_claim_after_draining_began(store: Store) -> None:
    node = store.node(store.pool())
    store.job(2)
    store.claim(node)
    store.write(lambda tx: leaving.begin(tx, node, "operator", "asked"))
    assert store.state(Node, node) == NodeState.DRAINING
    assert store.claim(node) == []
    assert store.task_states(1) == {"t0": "running", "t1": "queued"}


def test_no_claim_slips_in_while_another_master_drains(masters: list[Store]) -> None:
    """The drain of one master has begun but is not committed: the claim of the other waits, and gets nothing."""
    one, two, _ = masters
    node = one.node(one.pool())
    one.job()
    drained, go = threading.Event(), threading.Event()

    def drain(tx: Tx) -> None:
        leaving.begin(tx, node, "operator", "asked")
        drained.set()
        go.wait(5)

    draining = one.writer.submit(drain)
    assert drained.wait(5)
    claimed = two.writer.submit(lambda tx: claim(tx, holder(tx, node), 1))
    with pytest.raises(TimeoutError):
        claimed.result(0.2)
    go.set()
    draining.result(5)
    assert claimed.result(5) == []
    assert one.states(Task) == [TaskState.QUEUED]


def test_a_drain_waits_for_another_masters_claim(masters: list[Store]) -> None:
    """The other way round: what was claimed first is run to its end, the node drains only then."""
    one, two, _ = masters
    node = one.node(one.pool())
    one.job()
    claimed, go = threading.Event(), threading.Event()

    def take(tx: Tx) -> int:
        (order,) = claim(tx, holder(tx, node), 1)
        claimed.set()
        go.wait(5)
        return int(order["attempt"])

    taking = one.writer.submit(take)
    assert claimed.wait(5)
    draining = two.writer.submit(lambda tx: leaving.begin(tx, node, "operator", "asked"))
    with pytest.raises(TimeoutError):
        draining.result(0.2)
    go.set()
    attempt = taking.result(5)
    draining.result(5)
    assert one.state(Node, node) == NodeState.DRAINING
    one.report(node, attempt)
    assert two.write(lambda tx: leaving.finish(tx, node))
    assert one.state(Node, node) == NodeState.TERMINATING
    assert one.states(Task) == [TaskState.SUCCEEDED]


def test_racing_claims_and_drains_leave_nothing_behind(masters: list[Store]) -> None:
    """Whoever wins: no task runs on a node that is terminating."""
    one, two, _ = masters
    pool = one.pool()
    nodes = [one.node(pool) for _ in range(12)]
    one.job(24)
    together = threading.Barrier(2)

    def claims() -> None:
        together.wait(5)
        for node in nodes:
            one.claim(node, 2)

    def drains() -> None:
        together.wait(5)
        for node in nodes:
            two.write(lambda tx, node=node: leaving.begin(tx, node, "operator", "asked"))

    threads = [threading.Thread(target=claims), threading.Thread(target=drains)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    busy = {row.node_id for row in one.rows(Attempt, state="running")}
    for node in nodes:
        assert one.state(Node, node) == (NodeState.DRAINING if node in busy else NodeState.TERMINATING)
