"""Every state and every allowed step. `store.doors` lets nothing through that is not drawn here.

Node     requested → launching → booting → ready → draining → terminating → terminated
         any of the first four ───(reason)────────► draining or terminating
Launch   requested → launching → launched | failed
Task     waiting → queued → running → succeeded | failed | cancelled | skipped
                     ▲_________|  (a new attempt, not before run_after); queued → failed where no machine will come
Attempt  running → succeeded | failed | timed_out | killed | lost | cancelled;  lost → late
Job      queued → running → succeeded | failed | cancelled, derived from its tasks
Notification  pending → sent | failed (given up)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class NodeState(StrEnum):
    REQUESTED = "requested"
    LAUNCHING = "launching"
    BOOTING = "booting"
    READY = "ready"
    DRAINING = "draining"
    TERMINATING = "terminating"
    TERMINATED = "terminated"


class LaunchState(StrEnum):
    REQUESTED = "requested"
    LAUNCHING = "launching"
    LAUNCHED = "launched"
    FAILED = "failed"


class TaskState(StrEnum):
    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class AttemptState(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    KILLED = "killed"
    LOST = "lost"
    CANCELLED = "cancelled"
    LATE = "late"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class NotificationState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"


N, L, T, A, J = NodeState, LaunchState, TaskState, AttemptState, JobState
Steps = Mapping[str, frozenset[str]]

NODE_STEPS: Steps = {
    N.REQUESTED: frozenset({N.LAUNCHING, N.DRAINING, N.TERMINATING}),
    N.LAUNCHING: frozenset({N.BOOTING, N.DRAINING, N.TERMINATING}),
    N.BOOTING: frozenset({N.READY, N.DRAINING, N.TERMINATING}),
    N.READY: frozenset({N.DRAINING, N.TERMINATING}),
    N.DRAINING: frozenset({N.TERMINATING}),
    N.TERMINATING: frozenset({N.TERMINATED}),
    N.TERMINATED: frozenset(),
}
LAUNCH_STEPS: Steps = {
    L.REQUESTED: frozenset({L.LAUNCHING, L.FAILED}),
    L.LAUNCHING: frozenset({L.LAUNCHED, L.FAILED}),
    L.LAUNCHED: frozenset(),
    L.FAILED: frozenset(),
}
TASK_STEPS: Steps = {
    # Failed: its condition cannot be decided.
    T.WAITING: frozenset({T.QUEUED, T.CANCELLED, T.SKIPPED, T.FAILED}),
    # Succeeded: a deploy task runs nowhere. Failed: the machines it waits for will not come.
    T.QUEUED: frozenset({T.RUNNING, T.CANCELLED, T.SKIPPED, T.SUCCEEDED, T.FAILED}),
    T.RUNNING: frozenset({T.QUEUED, T.SUCCEEDED, T.FAILED, T.CANCELLED}),
    T.SUCCEEDED: frozenset(),
    T.FAILED: frozenset(),
    T.CANCELLED: frozenset(),
    T.SKIPPED: frozenset(),
}
ATTEMPT_STEPS: Steps = {
    A.RUNNING: frozenset({A.SUCCEEDED, A.FAILED, A.TIMED_OUT, A.KILLED, A.LOST, A.CANCELLED}),
    A.LOST: frozenset({A.LATE}),
    A.SUCCEEDED: frozenset(),
    A.FAILED: frozenset(),
    A.TIMED_OUT: frozenset(),
    A.KILLED: frozenset(),
    A.CANCELLED: frozenset(),
    A.LATE: frozenset(),
}
JOB_STEPS: Steps = {
    J.QUEUED: frozenset({J.RUNNING, J.SUCCEEDED, J.FAILED, J.CANCELLED}),
    J.RUNNING: frozenset({J.SUCCEEDED, J.FAILED, J.CANCELLED}),
    J.SUCCEEDED: frozenset(),
    J.FAILED: frozenset(),
    J.CANCELLED: frozenset(),
}
NOTIFICATION_STEPS: Steps = {
    NotificationState.PENDING: frozenset({NotificationState.SENT, NotificationState.FAILED}),
    NotificationState.SENT: frozenset(),
    NotificationState.FAILED: frozenset(),
}

NODE_ON_ITS_WAY = (N.REQUESTED, N.LAUNCHING, N.BOOTING, N.READY)
"""States in which a node is, or may become, supply. Those after it only leave."""

NODE_LIVE = (*NODE_ON_ITS_WAY, N.DRAINING, N.TERMINATING)
"""States in which a machine may exist and cost money: what counts against a pool's cap."""

TASK_OPEN = (T.WAITING, T.QUEUED, T.RUNNING)
TASK_ENDED = (T.SUCCEEDED, T.FAILED, T.CANCELLED, T.SKIPPED)
JOB_OPEN = (J.QUEUED, J.RUNNING)
LAUNCH_OPEN = (L.REQUESTED, L.LAUNCHING)
