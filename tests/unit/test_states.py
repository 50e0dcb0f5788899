"""The state tables are whole: every state has its steps, ends are ends, and each can be reached."""

from __future__ import annotations

from enum import StrEnum

import pytest

from orchestrator.model.states import (
    ATTEMPT_STEPS,
    JOB_OPEN,
    JOB_STEPS,
    LAUNCH_OPEN,
    LAUNCH_STEPS,
    NODE_LIVE,
    NODE_ON_ITS_WAY,
    NODE_STEPS,
    NOTIFICATION_STEPS,
    TASK_OPEN,
    TASK_STEPS,
    AttemptState,
    JobState,
    LaunchState,
    NodeState,
    NotificationState,
    Steps,
    TaskState,
)

TABLES: list[tuple[type[StrEnum], Steps, str]] = [
    (NodeState, NODE_STEPS, "requested"),
    (LaunchState, LAUNCH_STEPS, "requested"),
    (TaskState, TASK_STEPS, "waiting"),
    (AttemptState, ATTEMPT_STEPS, "running"),
    (JobState, JOB_STEPS, "queued"),
    (NotificationState, NOTIFICATION_STEPS, "pending"),
]


@pytest.mark.parametrize(("states", "steps", "first"), TABLES)
def test_every_state_is_drawn_and_reached(states: type[StrEnum], steps: Steps, first: str) -> None:
    assert set(steps) == set(states)
    assert all(target in steps for targets in steps.values() for target in targets)
    reached, edge = {first}, [first]
    while edge:
        new = steps[edge.pop()] - reached
        reached |= new
        edge += new
    assert reached == set(states)
    assert not any(state in targets for state, targets in steps.items())


def test_no_step_turns_back() -> None:
    """Only a task may be queued again: as a new attempt."""
    for states, steps, _ in TABLES:
        order = list(states)
        back = {(a, b) for a, targets in steps.items() for b in targets if order.index(b) < order.index(a)}
        assert back == ({("running", "queued")} if states is TaskState else set())


def test_every_live_node_can_leave_and_draining_only_leaves() -> None:
    for state in NODE_ON_ITS_WAY:
        assert {NodeState.DRAINING, NodeState.TERMINATING} <= NODE_STEPS[state]
    assert NODE_STEPS[NodeState.DRAINING] == {NodeState.TERMINATING}
    assert NODE_STEPS[NodeState.TERMINATING] == {NodeState.TERMINATED}


def test_open_means_that_a_step_is_left() -> None:
    assert set(NODE_LIVE) == {state for state, targets in NODE_STEPS.items() if targets}
    assert set(TASK_OPEN) == {state for state, targets in TASK_STEPS.items() if targets}
    assert set(JOB_OPEN) == {state for state, targets in JOB_STEPS.items() if targets}
    assert set(LAUNCH_OPEN) == {state for state, targets in LAUNCH_STEPS.items() if targets}
