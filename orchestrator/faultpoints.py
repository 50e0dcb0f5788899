"""Fault points: named places at which a test makes a running master die, fail or wait.

Off, which is always but in tests, `reach` is a comparison with None. On, with ORCHESTRATOR_FAULTS naming a folder: a file
in it named like a point strikes the first process that reaches the point, once, and is gone then. Its text says how: `kill`
(SIGKILL, as of `kill -9`), `raise` or `delay=SECONDS`; `kill@3` strikes at the third time. So a test may strike again and
again while services restart what died, with their environment as it was. Agents have points of the same kind, in
`cloudinit/agent/faultpoints.py`, and read the same folder.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "ORCHESTRATOR_FAULTS"
_folder = Path(os.environ[VARIABLE]) if VARIABLE in os.environ else None

VERBS = ("launch", "instances", "impaired", "console", "terminate")
"""What the master asks of a cloud while it works: each has a point before and one after its call."""
LOOPS = ("planner", "launcher", "watcher", "reaper", "due", "deadlines", "retention", "notifier")

POINTS: Mapping[str, str] = {
    "start.before_migrate": "the database is open, its schema not looked at",
    "start.after_migrate": "the schema is this version's, nothing else was done",
    "start.before_token": "the first API token is in the database, its file is not written",
    "start.before_serve": "all is ready, no call is answered yet",
    "writer.before_transaction": "pieces of work are taken from the queue",
    "writer.after_piece": "one piece of a group is done, the others are not",
    "writer.before_commit": "the transaction is whole, its commit not asked for",
    "writer.after_commit": "it is committed, nobody knows: neither who asked nor whom it wakes",
    "writer.before_answer": "those it wakes are told, those who asked are not",
    "submit.before_write": "a job file was read and found good",
    "submit.before_answer": "the job is committed, its number not told",
    "enrol.before_write": "an agent asked to be let in",
    "enrol.before_answer": "the node is ready, its agent does not know",
    "sync.before_write": "an agent's results were read, its logs are stored",
    "sync.before_wait": "there is nothing to say, the call begins to wait",
    "sync.before_answer": "results are taken and orders given, the agent knows of neither",
    "log.before_append": "a chunk of a log was read",
    "log.after_append": "it is on the disk, its agent does not know",
    "artifact.before_append": "a piece of an artifact was read",
    "artifact.before_keep": "the file is whole and checked, and not in the store",
    "artifact.before_write": "it is in the store, and in no row",
    "artifact.before_answer": "its row is there, its agent does not know",
    "notify.claimed": "messages are claimed, none is sent",
    "notify.before_note": "messages were sent, nothing of it is written down",
    **{f"provider.{verb}.before": f"`{verb}` is about to be asked of a cloud" for verb in VERBS},
    **{f"provider.{verb}.after": f"a cloud has answered `{verb}`, nothing of it is written down" for verb in VERBS},
    **{f"loop.{name}.before": f"the {name} begins a step" for name in LOOPS},
    **{f"loop.{name}.after": f"the {name} has ended a step" for name in LOOPS},
}
"""Every point of the master, and what is done and not done there."""

_ENTRIES = {
    "order": "that an order came",
    "begin": "that its command is about to start",
    "end": "how it ended",
    "gone": "that the master has its result",
}
AGENT_POINTS: Mapping[str, str] = {
    "agent.enrol.before": "the node's credential is on its disk, nobody was asked",
    "agent.enrol.after": "the master has let it in, which is not written down",
    "agent.identity.written": "it is written down who this node is",
    "agent.compact.before": "the journal is written anew, the old one still in its place",
    "agent.compact.after": "the new journal is in place",
    **{f"agent.journal.{entry}.before": f"the journal does not say {told}" for entry, told in _ENTRIES.items()},
    **{f"agent.journal.{entry}.after": f"the journal says {told}" for entry, told in _ENTRIES.items()},
    "agent.spawn.before": "a command is about to be started",
    "agent.spawn.after": "it runs",
    "agent.call.before": "a call is about to be sent to the master",
    "agent.call.after": "the master's answer came, nothing of it is done",
}
"""Every point of an agent; there each only kills."""


class Struck(Exception):
    """What `raise` raises: a defect nobody foresaw."""


def on() -> bool:
    return _folder is not None


def reach(point: str) -> None:
    """Go on, unless a test has armed this point."""
    if _folder is not None:
        _strike(_folder / point, POINTS[point])


def _strike(armed: Path, told: str) -> None:
    try:
        action, _, nth = armed.read_text().strip().partition("@")
        if int(nth or 1) > 1:
            armed.write_text(f"{action}@{int(nth) - 1}")
            return
        armed.unlink()  # of several that come here at once, one is struck
    except FileNotFoundError:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "raise":
        raise Struck(f"{armed.name}: {told}")
    time.sleep(float(action.removeprefix("delay=")))


class Watched:
    """A provider with a point before and after each verb."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._provider, name)
        if name not in VERBS:
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            reach(f"provider.{name}.before")
            answer = found(*arguments, **options)
            reach(f"provider.{name}.after")
            return answer

        return call
