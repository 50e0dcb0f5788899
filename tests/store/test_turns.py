"""Turns: clients share nodes without a token by their weights, whoever queued more and whoever came first."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from orchestrator.agents.claims import claim, holder
from orchestrator.jobs import shares
from orchestrator.model.tables import Attempt, Client, Job, Task

if TYPE_CHECKING:
    from conftest import Store


def queue(store: Store, client: str, tasks: int = 1, **job: Any) -> int:
    units = [{"name": f"{client}-{i}", "run": "true"} for i in range(tasks)]
    return store.submit({"name": "j", "client": client, "tasks": units, **job})


def serve(store: Store, node: int, tasks: int) -> list[str]:
    """The node runs so many tasks, one after the other; whose they were."""
    served = []
    for _ in range(tasks):
        orders = store.write(lambda tx: claim(tx, holder(tx, node), 1))
        if not orders:
            break
        served.append(orders[0]["env"]["ORCHESTRATOR_TASK"].rpartition("-")[0])
        store.report(node, orders[0]["attempt"])
    return served


@pytest.fixture
def node(store: Store) -> int:
    return store.node(store.pool())


def test_a_small_client_does_not_wait_for_a_large_one(store: Store, node: int) -> None:
    queue(store, "large", 200)
    queue(store, "small")
    assert "small" in serve(store, node, 2)


def test_clients_alternate_whoever_queued_more(store: Store, node: int) -> None:
    for client in ("a", "b", "c"):
        queue(store, client, 30)
    assert Counter(serve(store, node, 30)) == {"a": 10, "b": 10, "c": 10}


def test_many_small_jobs_are_as_one_large_one(store: Store, node: int) -> None:
    for _ in range(20):
        queue(store, "many")
    queue(store, "one", 20)
    assert Counter(serve(store, node, 20)) == {"many": 10, "one": 10}


def test_by_their_weights(store: Store, node: int) -> None:
    queue(store, "heavy")
    serve(store, node, 1)
    store.write(lambda tx: shares.change(tx, "heavy", weight=3.0, priority=None, actor="tester"))
    queue(store, "heavy", 40)
    queue(store, "light", 40)
    assert Counter(serve(store, node, 24)) == {"heavy": 18, "light": 6}


def test_priorities_come_before_turns(store: Store, node: int) -> None:
    queue(store, "a", 5)
    queue(store, "b", 3, priority=1)
    assert serve(store, node, 4) == ["b", "b", "b", "a"]


def test_a_clients_priority_is_added_to_its_jobs(store: Store, node: int) -> None:
    queue(store, "urgent")
    serve(store, node, 1)
    store.write(lambda tx: shares.change(tx, "urgent", weight=None, priority=5, actor="tester"))
    queue(store, "a", 3, priority=4)
    job = queue(store, "urgent", 2)
    assert store.one(Job, job).priority == 5
    assert serve(store, node, 3) == ["urgent", "urgent", "a"]


def test_what_was_used_before_is_not_held_against_a_client(store: Store, node: int) -> None:
    """`early` had all nodes to itself for long; from now on it has its half, and not nothing."""
    queue(store, "early", 50)
    serve(store, node, 50)
    queue(store, "late", 20)
    queue(store, "early", 20)
    assert Counter(serve(store, node, 10)) == {"early": 5, "late": 5}


def test_what_was_not_used_is_not_saved_up(store: Store, node: int) -> None:
    queue(store, "busy", 100)
    serve(store, node, 40)
    queue(store, "sleeper", 50)
    assert Counter(serve(store, node, 20)) == {"busy": 10, "sleeper": 10}


def test_a_client_keeps_the_order_of_its_own_jobs(store: Store, node: int) -> None:
    queue(store, "other", 10)
    first, second = queue(store, "mine", 3), queue(store, "mine", 3)
    serve(store, node, 16)
    jobs = {row.id: row.job_id for row in store.rows(Task)}
    order = [jobs[row.task_id] for row in store.rows(Attempt) if jobs[row.task_id] in (first, second)]
    assert order == [first] * 3 + [second] * 3


def test_a_task_of_four_slots_costs_as_much_as_four(store: Store) -> None:
    node = store.node(store.pool(), slots=4)
    units = [{"name": f"wide-{i}", "run": "true", "slots": 4} for i in range(10)]
    store.submit({"name": "j", "client": "wide", "tasks": units})
    queue(store, "narrow", 20)
    turns = {row.name: row.turn for row in store.rows(Task)}
    assert turns["wide-4"] == turns["narrow-16"]
    assert node


def test_tasks_released_by_their_needs_stand_where_the_queue_is_then(store: Store, node: int) -> None:
    """A wide graph that waited does not pass those who queued meanwhile, and does not queue behind all of them."""
    fan = [{"name": f"fan-{i}", "run": "true", "needs": ["fan-first"]} for i in range(10)]
    store.submit({"name": "g", "client": "fan", "tasks": [{"name": "fan-first", "run": "true"}, *fan]})
    queue(store, "other", 40)
    assert serve(store, node, 1) == ["fan"]
    assert Counter(serve(store, node, 12)) == {"fan": 6, "other": 6}
    queue(store, "fan", 5)
    assert Counter(serve(store, node, 8)) == {"fan": 4, "other": 4}


def test_a_retry_keeps_its_turn(store: Store, node: int) -> None:
    queue(store, "a", 4, retry={"attempts": 2})
    [attempt] = store.claim(node)
    store.report(node, attempt, exit_code=1)
    [again] = store.claim(node)
    assert store.one(Attempt, again).task_id == store.one(Attempt, attempt).task_id


def test_a_delayed_retry_at_the_front_does_not_open_the_front_to_others(store: Store, node: int) -> None:
    queue(store, "a", 60, retry={"attempts": 2, "delay": "1h"})
    [attempt] = store.claim(node)
    store.report(node, attempt, exit_code=1)
    serve(store, node, 40)
    queue(store, "new", 30)
    assert Counter(serve(store, node, 16)) == {"a": 8, "new": 8}


def test_tokens_and_an_empty_queue_cost_no_turns(store: Store, node: int) -> None:
    store.submit({"name": "j", "client": "acme", "token": "t", "tasks": [{"name": "a", "run": "true"}]})
    assert store.rows(Task)[0].turn == store.rows(Job)[0].turn == 0
    assert serve(store, node, 1) == []


def test_cancelled_jobs_leave_no_gap(store: Store, node: int) -> None:
    queue(store, "other", 40)
    store.cancel(queue(store, "mine", 100))
    queue(store, "mine", 10)
    assert Counter(serve(store, node, 10)) == {"mine": 5, "other": 5}


def test_the_queue_is_read_by_its_index(store: Store) -> None:
    """Ordering ten thousand tasks at each claim would hold up everybody."""
    if store.on_postgres:
        pytest.skip("the plan of PostgreSQL depends on its statistics")
    from orchestrator.agents import claims
    from orchestrator.jobs import turns

    with store.engine.connect() as connection:
        for statement in (claims._claim_unprotected, turns._first, turns._latest_jobs):
            form = statement._form(connection)
            rows = (
                connection.connection.cursor()
                .execute("EXPLAIN QUERY PLAN " + form.sql, [None] * len(form._plan))
                .fetchall()
            )
            told = " ".join(row[3] for row in rows)
            assert "TEMP B-TREE" not in told, told
            assert "ix_task_queue" in told or "ix_job_turn" in told, told


def test_shares_are_changed_by_name_and_told(store: Store) -> None:
    queue(store, "acme")
    assert store.write(lambda tx: shares.change(tx, "acme", weight=2.5, priority=-3, actor="tester"))
    assert not store.write(lambda tx: shares.change(tx, "nobody", weight=2.5, priority=None, actor="tester"))
    [client] = store.rows(Client)
    assert (client.weight, client.priority) == (2.5, -3)
    assert "weight = 2.5, priority = -3" in store.reasons(subject="client")[0]
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM client")).scalar() == 1
