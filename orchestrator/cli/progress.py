"""How waiting looks: a live picture on a terminal, otherwise one line for each change of the job's state, or none."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.cli.render import COLOURS, at, clean, lasted
from orchestrator.cli.session import say

if TYPE_CHECKING:
    from orchestrator.cli.client import Client
    from orchestrator.cli.waiting import Snapshot

SENTENCES = 10  # as many as stay on the screen
REPORTS = 5
BAR = 30


class Display(Protocol):
    def look(self, api: Client, job: int) -> Snapshot: ...
    def update(self, now: Snapshot) -> None: ...
    def note(self, text: str) -> None: ...
    def end(self, last: Snapshot) -> None: ...
    def failure(self, job: dict[str, Any], first: dict[str, Any], failed: int, tail: Sequence[str]) -> None: ...


@contextmanager
def display(quiet: bool) -> Iterator[Display]:
    """Everything goes to standard error: standard output is for results."""
    if quiet:
        yield Silence()
        return
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=8, transient=True) as live:
        yield Picture(live)


class _Plain:
    """Asks for the job alone, and tells a failure as every display does."""

    def look(self, api: Client, job: int) -> Snapshot:
        from orchestrator.cli.waiting import Snapshot

        return Snapshot(api.get(f"jobs/{job}"))

    def failure(self, job: dict[str, Any], first: dict[str, Any], failed: int, tail: Sequence[str]) -> None:
        how = first["reason"] or "failed"
        others = f", the first of {failed} that failed" if failed > 1 else ""
        say(f"  task {first['name']}{others}: {how}; " + ("it ended with:" if tail else "it wrote nothing"))
        for line in tail:
            say(f"  | {line}")
        named = f" --task {first['name']}" if job["tasks"] > 1 else ""
        say(f"  `orchestrator job show {job['id']}` has its tasks, `orchestrator job logs {job['id']}{named}` all it wrote")


class Silence(_Plain):
    """For cron, which mails what it hears: a job that does not fail says nothing."""

    def note(self, text: str) -> None: ...
    def update(self, now: Snapshot) -> None: ...

    def end(self, last: Snapshot) -> None:
        if last.job["state"] != "succeeded":
            say(_line(last.job))


class Lines(_Plain):
    """One line a state of the job: when it came to it and why, and what it waits for."""

    def __init__(self) -> None:
        self._said: tuple[str, str | None] | None = None

    def note(self, text: str) -> None:
        say(f"{_now()}  {text}")

    def update(self, now: Snapshot) -> None:
        if now.ended:
            return
        state = (now.job["state"], now.job["waiting"])
        if state != self._said:
            say(_line(now.job))
        self._said = state

    def end(self, last: Snapshot) -> None:
        say(_line(last.job))


class Picture(_Plain):
    """A bar, how many tasks and nodes are in which state, what tasks report, and why what waits is waiting."""

    def __init__(self, live: Any) -> None:
        from rich.spinner import Spinner

        self._live = live
        self._spinner = Spinner("dots")

    def look(self, api: Client, job: int) -> Snapshot:
        from orchestrator.cli.waiting import snapshot

        return snapshot(api, job)

    def note(self, text: str) -> None:
        self._live.console.print(clean(text), style="yellow", markup=False, highlight=False)

    def end(self, last: Snapshot) -> None:
        job = last.job
        self._live.stop()
        say(f"job {job['id']} {job['state']} after {lasted(job['submitted_at'], job['finished_at'])}: {job['reason']}")
        if job["state"] != "succeeded":
            for sentence in last.sentences[1:]:  # the first says what the line above says
                say(f"  {sentence}")

    def update(self, now: Snapshot) -> None:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        job = now.job
        head = Table.grid(padding=(0, 1))
        state = Text(job["state"], COLOURS.get(job["state"], ""))
        done = job["tasks"] - job["open_tasks"]
        name = Text(f"job {job['id']} {clean(job['name'])}", "bold")
        elapsed = lasted(job["submitted_at"], None)
        head.add_row(self._spinner, name, state, _bar(done, job["tasks"]), f"{done}/{job['tasks']}", elapsed)
        lines: list[Any] = [head]
        for what, numbers in (("tasks", now.tasks), ("nodes", now.nodes)):
            line = Text(f"  {what}: ")
            for i, (kind, count) in enumerate(numbers.items()):
                line.append(f"{' · ' if i else ''}{count} ").append(kind, COLOURS.get(kind, ""))
            if numbers:
                lines.append(line)
        for task in now.reports[:REPORTS]:
            report = Table.grid(padding=(0, 1))
            told = self._one_line(f"{task['progress']:.0%} {task.get('progress_note') or ''}", 40)
            report.add_row(" ", Text(clean(task["name"])), _bar(task["progress"], 1.0), told)
            lines.append(report)
        width = max(20, self._live.console.width - 1)
        lines += [self._one_line(f"  {sentence}", width) for sentence in now.sentences[:SENTENCES]]
        self._live.update(Group(*lines), refresh=True)

    def _one_line(self, text: str, width: int) -> Any:
        from rich.text import Text

        line = Text(clean(text).replace("\n", " "), "dim", no_wrap=True, overflow="ellipsis")
        line.truncate(width, overflow="ellipsis")
        return line


def _bar(done: float, total: float) -> Any:
    from rich.progress_bar import ProgressBar

    return ProgressBar(total=total, completed=done, width=BAR)


def _line(job: dict[str, Any]) -> str:
    """`2025-01-31 05:00:00Z  job 7 running: task load runs`, at the master's own moments."""
    moments = {"queued": job["submitted_at"], "running": job["started_at"]}
    when = at(moments.get(job["state"], job["finished_at"])) or _now()
    return f"{when}  job {job['id']} {job['state']}: {job['waiting'] or job['reason']}"


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z"
