"""Waiting for a job: its progress as it changes, and the exit status that says how it ended."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from orchestrator.cli.render import counts, lasted
from orchestrator.cli.session import Session, say

if TYPE_CHECKING:
    from orchestrator.cli.client import Client
    from orchestrator.cli.progress import Display

T = TypeVar("T")
STATUS = {"succeeded": 0, "failed": 1, "cancelled": 3}
FEW = 20  # tasks told of one by one
MANY = 1000  # tasks that are counted by state
POLL_S = (0.5, 2.0)  # at first, at most
AGAIN_S = (0.5, 10.0)


@dataclass(frozen=True)
class Snapshot:
    """A job as it is at one moment."""

    job: dict[str, Any]
    tasks: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.job["state"] in STATUS

    @property
    def headline(self) -> str:
        """`job 7 is running: 3 of 8 tasks ended (3 succeeded, 2 running, 3 waiting); nodes: 1 ready, 1 booting`."""
        total, done = self.job["tasks"], self.job["tasks"] - self.job["open_tasks"]
        told = f"job {self.job['id']} is {self.job['state']}: "
        told += f"{done} of {total} tasks ended" if total <= FEW else f"{100 * done // total} % of {total} tasks ended"
        if self.tasks and total <= FEW:
            told += f" ({counts(self.tasks)})"
        return told + (f"; nodes: {counts(self.nodes)}" if self.nodes else "")


class Patience:
    """Asking a master that is away again and again, a little later each time, and saying so once."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._wait_s = 0.0

    def until_answered(self, ask: Callable[[], T]) -> T:
        from orchestrator.cli.client import Unreachable

        while True:
            try:
                answer = ask()
            except Unreachable as error:
                self.pause(error.lines[0])
            else:
                self.answered()
                return answer

    def pause(self, why: str) -> None:
        if not self._wait_s:
            self._tell(f"{why.partition(';')[0]}; it is asked again until it answers (Ctrl-C stops the waiting)")
        self._wait_s = min(max(AGAIN_S[0], self._wait_s * 1.6), AGAIN_S[1])
        time.sleep(self._wait_s)

    def answered(self) -> None:
        if self._wait_s:
            self._tell("the master answers again")
        self._wait_s = 0.0


def wait_for(session: Session, job: int) -> None:
    """Until the job has ended, or the person has enough. Always raises typer.Exit with the status."""
    from orchestrator.cli.progress import display

    while True:
        try:
            with display() as shown:
                last = _watch(session.api, job, shown)
            break
        except KeyboardInterrupt:
            _ask(session, job)
    _tell_end(last)
    session.show(last.job, lambda: None)
    raise typer.Exit(STATUS[last.job["state"]])


def snapshot(api: Client, job_id: int) -> Snapshot:
    why = api.get(f"jobs/{job_id}/explain")
    job = api.get(f"jobs/{job_id}")
    if job["state"] in STATUS:
        if why["state"] != job["state"]:  # it ended in between
            why = api.get(f"jobs/{job_id}/explain")
        return Snapshot(job, sentences=why["sentences"][1:])
    tasks = api.get(f"jobs/{job_id}/tasks", limit=MANY)["items"] if job["tasks"] <= MANY else []
    tokens = {item["token"] for item in (job, *tasks)} - {None}
    used = {task["node_id"] for task in tasks if task["state"] == "running"}
    nodes = api.get("nodes", live=True, limit=MANY)["items"]
    mine = [node["state"] for node in nodes if node["token"] in tokens or node["id"] in used]
    return Snapshot(job, dict(Counter(task["state"] for task in tasks)), dict(Counter(mine)), why["sentences"][1:])


def _watch(api: Client, job: int, shown: Display) -> Snapshot:
    patience = Patience(shown.note)
    wait_s = POLL_S[0]
    while True:
        now = patience.until_answered(lambda: snapshot(api, job))
        shown.update(now)
        if now.ended:
            return now
        time.sleep(wait_s)
        wait_s = min(wait_s * 1.1, POLL_S[1])


def _ask(session: Session, job: int) -> None:
    """After Ctrl-C: cancel, detach, or wait on. Raises typer.Exit to detach."""
    follow = f"`orchestrator job wait {job}` waits again, `orchestrator job cancel {job}` ends it"
    answer = "d"
    if sys.stdin.isatty() and sys.stderr.isatty():
        print(
            f"\njob {job}: [c]ancel it, [d]etach and let it go on, or Enter to wait on? ",
            end="",
            file=sys.stderr,
            flush=True,
        )
        try:
            answer = (sys.stdin.readline() or "d").strip().lower()[:1]
        except KeyboardInterrupt:
            print(file=sys.stderr)
    if answer == "c":
        session.api.post(f"jobs/{job}/cancel")
        say(f"job {job} is being cancelled; what runs is given time to end")
    elif answer == "d":
        say(f"detached: job {job} goes on; {follow}")
        raise typer.Exit(130)


def _tell_end(last: Snapshot) -> None:
    job = last.job
    took = lasted(job["submitted_at"], job["finished_at"])
    say(f"job {job['id']} {job['state']} after {took}: {job['reason']}")
    if job["state"] != "succeeded":
        for sentence in last.sentences[1:]:  # the first says what the line above says
            say(f"  {sentence}")
        say(f"  `orchestrator job show {job['id']}` has its tasks, `orchestrator job logs {job['id']}` what they wrote")
