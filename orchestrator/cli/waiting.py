"""Waiting for a job: its progress as it changes, and the exit status that says how it ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from orchestrator.cli.interrupts import Interrupted, OnInterrupt, Wish, raised, wish_of_person
from orchestrator.cli.session import Session, say

if TYPE_CHECKING:
    from orchestrator.cli.client import Client
    from orchestrator.cli.progress import Display

T = TypeVar("T")
ENDED = ("succeeded", "failed", "cancelled")
# 1 … 125 are a failed task's own, so what is not the job's stands above: 200 and what other commands say (2, 4), or near.
ABOVE = 200
CANCELLED, OVERDUE = 203, 205
MANY = 1000  # tasks that are counted by state
POLL_S = (0.5, 2.0)  # at first, at most
AGAIN_S = (0.5, 10.0)
AT_FIRST_S = 30.0
"""How long a master that does not answer at all is asked: longer than one takes to start again."""
TAIL_LINES, TAIL_BYTES = 20, 8192

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="with --wait: say nothing unless the job fails")]
WaitTimeout = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="with --wait: no longer than this (90s, 15m, 2h); the job goes on"),
]
OnInterruptOption = Annotated[
    OnInterrupt | None,
    typer.Option("--on-interrupt", help="with --wait: what a signal does to the job; default: Ctrl-C asks, others detach"),
]


class Overdue(Exception):
    """The person did not want to wait longer."""


@dataclass(frozen=True)
class How:
    """How somebody waits. `until` is a moment of `time.monotonic`."""

    quiet: bool = False
    until: float | None = None
    on_interrupt: OnInterrupt | None = None

    @classmethod
    def asked(cls, quiet: bool, timeout: str | None, on_interrupt: OnInterrupt | None) -> How:
        """From the options. Raises typer.BadParameter."""
        if timeout is None:
            return cls(quiet, None, on_interrupt)
        from orchestrator.jobs.duration import seconds

        try:
            return cls(quiet, time.monotonic() + seconds(timeout), on_interrupt)
        except ValueError as error:
            raise typer.BadParameter(f"--wait-timeout: {error}") from error


@dataclass(frozen=True)
class Snapshot:
    """A job as it is at one moment; what only a picture shows is empty where none is drawn."""

    job: dict[str, Any]
    tasks: dict[str, int] = field(default_factory=dict)
    reports: list[dict[str, Any]] = field(default_factory=list)
    nodes: dict[str, int] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.job["state"] in ENDED


class Patience:
    """Asking a master that is away again and again, a little later each time, and saying so once.

    `until`: the moment of `time.monotonic` after which its absence is raised.
    """

    def __init__(self, tell: Callable[[str], None], until: float | None = None) -> None:
        self._tell = tell
        self._until = until
        self._wait_s = 0.0

    def until_answered(self, ask: Callable[[], T]) -> T:
        """Raises Unreachable once the time is over."""
        from orchestrator.cli.client import Unreachable

        while True:
            try:
                answer = ask()
            except Unreachable as error:
                if self._until is not None and time.monotonic() >= self._until:
                    raise
                self.pause(error.lines[0])
            else:
                self.answered()
                return answer

    def pause(self, why: str) -> None:
        if not self._wait_s:
            self._tell(f"{why.partition(';')[0]}; it is asked again until it answers (Ctrl-C stops the waiting)")
        self._wait_s = min(max(AGAIN_S[0], self._wait_s * 1.6), AGAIN_S[1])
        sleep(self._wait_s, self._until)

    def answered(self) -> None:
        if self._wait_s:
            self._tell("the master answers again")
        self._wait_s = 0.0


def at_first(how: How) -> Patience:
    """For the first call: a master that is being started again answers soon, one at a mistyped address never does."""
    soon = time.monotonic() + AT_FIRST_S
    return Patience(_nothing if how.quiet else say, soon if how.until is None else min(soon, how.until))


def sleep(seconds: float, until: float | None) -> None:
    """So long, and not beyond that moment."""
    time.sleep(seconds if until is None else max(0.0, min(seconds, until - time.monotonic())))


@contextmanager
def with_statuses_above() -> Iterator[None]:
    """Within: what goes wrong, other than the job, has a status that no task's exit status can be taken for."""
    from orchestrator.cli.client import Complaint

    try:
        with raised():
            yield
    except Complaint as complaint:
        raise Complaint(*complaint.lines, status=ABOVE + complaint.status) from complaint
    except Interrupted as interrupt:
        raise typer.Exit(interrupt.status) from None


def wait_for(session: Session, job: int, how: How) -> None:
    """Until the job has ended, or the person has enough. Always raises typer.Exit with the status, or Complaint."""
    from orchestrator.cli.progress import display

    cancelling = False
    while True:
        try:
            with display(how.quiet) as shown:
                last = _watch(session.api, job, shown, how)
                status = _tell_end(session.api, last, shown, how)
            break
        except Interrupted as interrupt:
            if cancelling:  # whoever insists need not wait for its end
                raise
            cancelling = _interrupted(session.api, job, interrupt, how)
        except Overdue:
            say(f"job {job} has not ended in time; it goes on: {_follow(job)}")
            last, status = Snapshot(session.api.get(f"jobs/{job}")), OVERDUE
            break
    session.show(last.job, lambda: None)
    raise typer.Exit(status)


def snapshot(api: Client, job_id: int) -> Snapshot:
    """All that a picture shows."""
    why = api.get(f"jobs/{job_id}/explain")
    job = api.get(f"jobs/{job_id}")
    if job["state"] in ENDED:
        if why["state"] != job["state"]:  # it ended in between
            why = api.get(f"jobs/{job_id}/explain")
        return Snapshot(job, sentences=why["sentences"][1:])
    tasks = api.get(f"jobs/{job_id}/tasks", limit=MANY)["items"] if job["tasks"] <= MANY else []
    tokens = {item["token"] for item in (job, *tasks)} - {None}
    running = [task for task in tasks if task["state"] == "running"]
    used = {task["node_id"] for task in running}
    nodes = api.get("nodes", live=True, limit=MANY)["items"]
    mine = [node["state"] for node in nodes if node["token"] in tokens or node["id"] in used]
    return Snapshot(
        job,
        tasks=dict(Counter(task["state"] for task in tasks)),
        reports=[task for task in running if task.get("progress") is not None],
        nodes=dict(Counter(mine)),
        sentences=why["sentences"][1:],
    )


def _watch(api: Client, job: int, shown: Display, how: How) -> Snapshot:
    """The job at its end. Raises Overdue, and Unreachable where the time is over and no master answers."""
    patience = Patience(shown.note, how.until)
    wait_s = POLL_S[0]
    while True:
        now = patience.until_answered(lambda: shown.look(api, job))
        shown.update(now)
        if now.ended:
            return now
        if how.until is not None and time.monotonic() >= how.until:
            raise Overdue
        sleep(wait_s, how.until)
        wait_s = min(wait_s * 1.1, POLL_S[1])


def _interrupted(api: Client, job: int, interrupt: Interrupted, how: How) -> bool:
    """Do what the person wants: True where the job is being cancelled. Raises Interrupted to leave it."""
    wish = wish_of_person(job, interrupt.number, how.on_interrupt)
    if wish is Wish.CANCEL:
        Patience(say, how.until).until_answered(lambda: api.post(f"jobs/{job}/cancel"))
        say(f"job {job} is being cancelled; what runs is given time to end")
    elif wish is Wish.DETACH:
        say(f"detached: job {job} goes on; {_follow(job)}")
        raise interrupt
    return wish is Wish.CANCEL


def _nothing(_: str) -> None: ...


def _follow(job: int) -> str:
    return f"`orchestrator job wait {job}` waits again, `orchestrator job cancel {job}` ends it"


def _tell_end(api: Client, last: Snapshot, shown: Display, how: How) -> int:
    """Say how it ended; the exit status."""
    job = last.job
    shown.end(last)
    if job["state"] != "failed":
        return 0 if job["state"] == "succeeded" else CANCELLED
    patience = Patience(shown.note, how.until)
    failed = patience.until_answered(lambda: api.get(f"jobs/{job['id']}/tasks", state="failed", limit=MANY)["items"])
    if not failed:
        return 1
    first = min(failed, key=lambda task: (task["finished_at"], task["id"]))
    tail = patience.until_answered(lambda: _tail(api, job["id"], first["name"]))
    shown.failure(job, first, len(failed), tail)
    code = first["exit_code"]
    return code if code is not None and 1 <= code <= 125 else 1


def _tail(api: Client, job: int, task: str) -> list[str]:
    """The last lines of what a task wrote."""
    path = f"jobs/{job}/logs"
    size = int(api.call("GET", path, {"task": task, "limit": 1}).headers["X-Log-Size"])
    offset = max(0, size - TAIL_BYTES)
    text = api.call("GET", path, {"task": task, "offset": offset}).content.decode(errors="replace")
    lines = text.splitlines()
    return lines[-TAIL_LINES:] if offset == 0 else lines[1:][-TAIL_LINES:]
