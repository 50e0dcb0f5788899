"""Results: an outcome counts once, for the task's one live attempt, and only from the node that has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.agents.exchange import Answer, ResultMessage, SyncMessage, exchange
from orchestrator.agents.results import Result, accept, lose_attempts
from orchestrator.jobs.outcomes import Outcome
from orchestrator.model.states import AttemptState, NodeState, TaskState
from orchestrator.model.tables import Attempt, Event, Job, Node, Task

if TYPE_CHECKING:
    from conftest import Store


def started(store: Store, **values: object) -> tuple[int, int, int]:
    """A job of one task running on a node: (job, node, attempt)."""
    node = store.node(store.pool())
    job = store.job(**values)
    (attempt,) = store.claim(node)
    return job, node, attempt


def sync(store: Store, node: int, **message: object) -> Answer:
    return store.write(lambda tx: exchange(tx, node, SyncMessage(**message)))


def test_a_result_moves_attempt_task_and_job(store: Store) -> None:
    job, node, attempt = started(store)
    store.clock.move(30)
    store.report(node, attempt)
    row = store.one(Attempt, attempt)
    assert (row.state, row.exit_code, row.finished_at) == (AttemptState.SUCCEEDED, 0, store.clock())
    (task,) = store.rows(Task)
    assert (task.state, task.exit_code, task.finished_at) == (TaskState.SUCCEEDED, 0, store.clock())
    assert store.state(Job, job) == "succeeded"
    store.check_counters()


def test_a_repeated_result_is_passed_over(store: Store) -> None:
    _, node, attempt = started(store)
    store.report(node, attempt)
    before = store.rows(Event), store.rows(Task), store.rows(Attempt)
    store.report(node, attempt)
    store.report(node, attempt, exit_code=1)
    assert (store.rows(Event), store.rows(Task), store.rows(Attempt)) == before


def test_the_same_result_twice_in_one_message(store: Store) -> None:
    job, node, attempt = started(store)
    twice = [Result(attempt, Outcome("exited", 0))] * 2
    store.write(lambda tx: accept(tx, node, twice))
    assert store.state(Job, job) == "succeeded"
    store.check_counters()


def test_another_nodes_result_is_refused_on_record(store: Store) -> None:
    _, node, attempt = started(store)
    other = store.node(store.rows(Node)[0].pool_id)
    store.report(other, attempt)
    assert store.state(Attempt, attempt) == AttemptState.RUNNING
    (event,) = store.rows(Event, node_id=other)
    assert f"attempt {attempt} was refused" in event.reason
    store.report(node, attempt)
    assert store.states(Task) == ["succeeded"]


def test_a_result_for_an_attempt_that_never_was(store: Store) -> None:
    node = store.node(store.pool())
    store.report(node, 12345)
    (event,) = store.rows(Event, node_id=node)
    assert "attempt 12345 was refused" in event.reason


def test_a_lost_attempts_result_is_stored_as_late(store: Store) -> None:
    """Law 7: never accepted, whatever it says, not even while the task waits to be tried again."""
    _, node, attempt = started(store)
    store.write(lambda tx: lose_attempts(tx, node, "silent"))
    assert store.states(Task) == [TaskState.QUEUED]
    store.report(node, attempt)
    assert store.state(Attempt, attempt) == AttemptState.LATE
    assert store.states(Task) == [TaskState.QUEUED]
    (event,) = store.rows(Event, subject="attempt", to_state="late")
    assert event.attempt_id == attempt
    store.report(node, attempt)  # repeated: nothing more
    assert len(store.rows(Event, subject="attempt")) == 1
    second = store.node(store.rows(Node)[0].pool_id)
    (again,) = store.claim(second)
    store.report(second, again)
    assert store.states(Task) == [TaskState.SUCCEEDED]
    assert [row.number for row in store.rows(Attempt)] == [1, 2]


def test_a_repeated_report_of_a_broken_start_is_not_late(store: Store) -> None:
    """The agent itself said that the attempt could not start; saying it again changes nothing."""
    _, node, attempt = started(store)
    store.report(node, attempt, "start_failed")
    assert store.state(Attempt, attempt) == AttemptState.LOST
    before = store.rows(Event)
    store.report(node, attempt, "start_failed")
    assert store.state(Attempt, attempt) == AttemptState.LOST
    assert store.rows(Event) == before


def test_infrastructure_budget_then_failed(store: Store) -> None:
    job, node, attempt = started(store, retry={"infrastructure_attempts": 2})
    store.report(node, attempt, "lost")
    assert store.states(Task) == [TaskState.QUEUED]
    (attempt,) = store.claim(node)
    store.report(node, attempt, "lost")
    (task,) = store.rows(Task)
    assert (task.state, task.infrastructure_failures, task.job_failures) == (TaskState.FAILED, 2, 0)
    assert "infrastructure failure 2 of 2" in task.reason
    assert store.state(Job, job) == "failed"


def test_job_budget_with_delay(store: Store) -> None:
    job, node, attempt = started(store, retry={"attempts": 3, "delay": "10s", "backoff": 2})
    store.report(node, attempt, exit_code=9)
    assert store.claim(node) == []
    store.clock.move(10)
    (attempt,) = store.claim(node)
    store.report(node, attempt, exit_code=9)
    store.clock.move(19)
    assert store.claim(node) == []
    store.clock.move(1)
    (attempt,) = store.claim(node)
    store.report(node, attempt, exit_code=9)
    (task,) = store.rows(Task)
    assert (task.state, task.exit_code, task.job_failures, task.attempts) == (TaskState.FAILED, 9, 3, 3)
    assert store.state(Job, job) == "failed"


def test_cancelled_while_running(store: Store) -> None:
    job, node, attempt = started(store)
    assert store.cancel(job)
    answer = sync(store, node, known=[attempt])
    assert answer.stop == {attempt: "cancelled"}
    store.report(node, attempt, "cancelled")
    assert store.states(Attempt) == [AttemptState.CANCELLED]
    assert store.states(Task) == [TaskState.CANCELLED]
    assert store.state(Job, job) == "cancelled"


def test_a_lost_answer_loses_no_task(store: Store) -> None:
    node = store.node(store.pool())
    store.job(2)
    first = sync(store, node, free=1)
    again = sync(store, node, free=1)
    assert [order["attempt"] for order in again.orders] == [order["attempt"] for order in first.orders]
    assert store.count(Attempt) == 1
    known = [order["attempt"] for order in again.orders]
    assert sync(store, node, free=0, known=known).orders == []


def test_what_the_master_gave_up_is_fenced(store: Store) -> None:
    _, node, attempt = started(store)
    store.write(lambda tx: lose_attempts(tx, node, "silent"))
    assert sync(store, node, known=[attempt]).stop == {attempt: "fenced"}


def test_a_result_is_acknowledged_whatever_became_of_it(store: Store) -> None:
    _, node, attempt = started(store)
    result = ResultMessage(attempt=attempt, outcome="exited", exit_code=0)
    for _ in range(2):
        assert sync(store, node, known=[attempt], results=[result]).acknowledged == [attempt]


def test_a_draining_node_ends_with_its_last_result(store: Store) -> None:
    _, node, attempt = started(store)
    store.force(Node, node, state=NodeState.DRAINING, end_reason="operator", draining_at=store.clock())
    assert sync(store, node, known=[attempt]).draining
    assert store.state(Node, node) == NodeState.DRAINING
    sync(store, node, results=[ResultMessage(attempt=attempt, outcome="exited", exit_code=0)])
    assert store.state(Node, node) == NodeState.TERMINATING
    assert store.states(Task) == [TaskState.SUCCEEDED]


def test_a_terminated_node_is_told_so(store: Store) -> None:
    node = store.node(store.pool(), NodeState.TERMINATED)
    store.job()
    answer = sync(store, node, free=1)
    assert answer.gone
    assert answer.orders == []


@pytest.mark.parametrize(
    "values",
    [
        {"outcome": "exited", "exit_code": 2**31 - 1},
        {"outcome": "exited", "exit_code": 0, "log_size": 3 * 2**30},
        {"outcome": "start_failed", "detail": b"no such file: 'a\\0b'".decode("unicode_escape")},
        {"outcome": "exited", "exit_code": 0, "finished_at": 9.9e10, "started_at": 0},
    ],
    ids=["largest exit code", "log over 2 GiB", "NUL in the detail", "clock far off"],
)
def test_what_the_message_allows_the_database_takes(store: Store, values: dict[str, object]) -> None:
    """A message that passes the check but breaks the transaction would be repeated by its agent for ever."""
    _, node, attempt = started(store)
    message = SyncMessage.model_validate({"results": [{"attempt": attempt, **values}]})
    store.write(lambda tx: exchange(tx, node, message))
    assert store.state(Attempt, attempt) != AttemptState.RUNNING


@pytest.mark.parametrize(
    "values", [{"exit_code": 2**31}, {"exit_code": -(2**31)}, {"log_size": 2**63}, {"detail": "x" * 2001}]
)
def test_what_the_database_cannot_take_is_refused_first(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        ResultMessage.model_validate({"attempt": 1, "outcome": "exited", **values})
