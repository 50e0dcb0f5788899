"""The doors: only drawn steps, only from the state the row is in, and never without the event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert
from sqlmodel import SQLModel

from orchestrator.model.states import (
    ATTEMPT_STEPS,
    JOB_STEPS,
    LAUNCH_STEPS,
    NODE_STEPS,
    TASK_STEPS,
    AttemptState,
    JobState,
    NodeState,
    Steps,
    TaskState,
)
from orchestrator.model.tables import Attempt, Event, Job, Launch, Node, Task, table
from orchestrator.store.doors import Move, StateConflict, StepForbidden, advance
from orchestrator.store.writer import Tx

if TYPE_CHECKING:
    from conftest import Store

ALL = {Node: NODE_STEPS, Launch: LAUNCH_STEPS, Task: TASK_STEPS, Attempt: ATTEMPT_STEPS, Job: JOB_STEPS}


def a_row(store: Store, model: type[SQLModel]) -> int:
    pool_id = store.pool()
    job_id = store.job()
    node_id = store.node(pool_id)
    (attempt_id,) = store.claim(node_id)
    task_id = store.rows(Task)[0].id
    launch_id = store.rows(Launch)[0].id
    return {Node: node_id, Launch: launch_id, Task: task_id, Attempt: attempt_id, Job: job_id}[model]


def step(id_: int, from_state: str, to: str, model: type[SQLModel] = Node) -> object:
    return lambda tx: advance(tx, model, [Move(id_, from_state, to, "because")])


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_every_pair_of_states(store: Store, model: type[SQLModel]) -> None:
    steps: Steps = ALL[model]
    id_ = a_row(store, model)
    for from_state in steps:
        for to in steps:
            store.force(model, id_, state=from_state, reason="arranged")
            before = store.count(Event)
            if to in steps[from_state]:
                store.write(step(id_, from_state, to, model))
                row = store.one(model, id_)
                assert (row.state, row.reason) == (to, "because")
                (event,) = store.rows(Event, subject=model.__name__.lower(), from_state=from_state, to_state=to)[-1:]
                assert (event.subject_id, event.reason, event.at) == (id_, "because", store.clock())
                assert store.count(Event) == before + 1
            else:
                with pytest.raises(StepForbidden):
                    store.write(step(id_, from_state, to, model))
                assert store.state(model, id_) == from_state
                assert store.count(Event) == before


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_a_row_that_moved_meanwhile_is_left_alone(store: Store, model: type[SQLModel]) -> None:
    id_ = a_row(store, model)
    steps = ALL[model]
    for from_state, allowed in steps.items():
        for to in allowed:
            for meanwhile in steps.keys() - {from_state}:
                store.force(model, id_, state=meanwhile)
                before = store.count(Event)
                with pytest.raises(StateConflict):
                    store.write(step(id_, from_state, to, model))
                assert store.state(model, id_) == meanwhile
                assert store.count(Event) == before
    with pytest.raises(StateConflict):
        store.write(step(999_999, from_state="running", to="succeeded", model=Task))


def test_all_rows_move_or_none(store: Store) -> None:
    pool = store.pool()
    first, second, moved = (store.node(pool) for _ in range(3))
    store.force(Node, moved, state=NodeState.TERMINATING)
    moves = [Move(id_, NodeState.READY, NodeState.DRAINING, "together") for id_ in (first, second, moved)]
    before = store.count(Event)
    with pytest.raises(StateConflict, match="1 of 3"):
        store.write(lambda tx: advance(tx, Node, moves))
    assert store.states(Node) == ["ready", "ready", "terminating"]
    assert store.count(Event) == before


def test_the_same_row_cannot_move_twice_at_once(store: Store) -> None:
    node = store.node(store.pool())
    moves = [Move(node, NodeState.READY, NodeState.DRAINING, "twice")] * 2
    with pytest.raises(StateConflict):
        store.write(lambda tx: advance(tx, Node, moves))
    assert store.state(Node, node) == NodeState.READY


def test_values_and_links_go_with_the_step(store: Store) -> None:
    pool = store.pool()
    node = store.node(pool)
    now = store.clock()
    values = {"draining_at": now, "end_reason": "operator"}
    links = {"node_id": node, "pool_id": pool}
    move = Move(node, NodeState.READY, NodeState.DRAINING, "asked", values, links, detail="more", actor="anna")
    store.write(lambda tx: advance(tx, Node, [move]))
    row = store.one(Node, node)
    assert (row.draining_at, row.end_reason) == (now, "operator")
    (event,) = store.rows(Event, node_id=node)
    assert (event.actor, event.detail, event.pool_id, event.at) == ("anna", "more", pool, now)


def test_a_rolled_back_transaction_leaves_neither_step_nor_event(store: Store) -> None:
    node = store.node(store.pool())
    before = store.count(Event)

    def work(tx: Tx) -> None:
        advance(tx, Node, [Move(node, NodeState.READY, NodeState.DRAINING, "then it breaks")])
        raise RuntimeError("after the step")

    with pytest.raises(RuntimeError, match="after the step"):
        store.write(work)
    assert store.state(Node, node) == NodeState.READY
    assert store.count(Event) == before


def test_many_rows_in_one_call(store: Store) -> None:
    job = store.job(300)
    moves = [Move(row.id, TaskState.QUEUED, TaskState.RUNNING, "all") for row in store.rows(Task, job_id=job)]
    store.write(lambda tx: advance(tx, Task, moves))
    assert set(store.states(Task)) == {TaskState.RUNNING}
    assert len(store.rows(Event, subject="task", to_state="running")) == 300


def test_no_moves_are_no_events(store: Store) -> None:
    store.write(lambda tx: advance(tx, Node, []))
    assert store.count(Event) == 0


def test_an_end_is_an_end() -> None:
    """No state that is called an end has a step out of it (a lost attempt may only become late)."""
    ends = [
        (NODE_STEPS, {NodeState.TERMINATED}),
        (TASK_STEPS, {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.SKIPPED}),
        (JOB_STEPS, {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
        (ATTEMPT_STEPS, set(AttemptState) - {AttemptState.RUNNING, AttemptState.LOST}),
    ]
    for steps, states in ends:
        assert {state for state, allowed in steps.items() if not allowed} == states


def test_an_attempt_needs_its_task(store: Store) -> None:
    """Foreign keys are enforced on both databases."""
    node = store.node(store.pool())
    row = {"task_id": 999, "node_id": node, "number": 1, "state": "running", "log_size": 0, "claimed_at": store.clock()}
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        store.write(lambda tx: tx.connection.execute(insert(table(Attempt)).values(**row)))
