"""How waiting looks: a live picture on a terminal, otherwise one line for each change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.cli.render import COLOURS, clean
from orchestrator.cli.session import say

if TYPE_CHECKING:
    from orchestrator.cli.waiting import Snapshot

SENTENCES = 10  # as many as stay on the screen


class Display(Protocol):
    def update(self, now: Snapshot) -> None: ...
    def note(self, text: str) -> None: ...


@contextmanager
def display() -> Iterator[Display]:
    """Everything goes to standard error: standard output is for results."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=8, transient=True) as live:
        yield Picture(live)


class Lines:
    """Says what was not said before."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def note(self, text: str) -> None:
        say(text)

    def update(self, now: Snapshot) -> None:
        from orchestrator.cli.waiting import FEW

        if now.ended:
            return
        few = now.job["tasks"] <= FEW
        told = [now.headline, *(f"  {text}" for text in now.sentences if few or not text.startswith("Task "))]
        for line in told:
            if line not in self._said:
                say(line)
        self._said = set(told)


class Picture:
    """A bar, how many tasks and nodes are in which state, and why what waits is waiting."""

    def __init__(self, live: Any) -> None:
        from rich.spinner import Spinner

        self._live = live
        self._spinner = Spinner("dots")
        self._note = ""

    def note(self, text: str) -> None:
        self._live.console.print(text, style="yellow", markup=False, highlight=False)

    def update(self, now: Snapshot) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        from orchestrator.cli.render import lasted

        job = now.job
        done = job["tasks"] - job["open_tasks"]
        head = Table.grid(padding=(0, 1))
        state = Text(job["state"], COLOURS.get(job["state"], ""))
        bar = ProgressBar(total=job["tasks"], completed=done, width=30)
        name = Text(f"job {job['id']} {clean(job['name'])}", "bold")
        head.add_row(self._spinner, name, state, bar, f"{done}/{job['tasks']}", lasted(job["submitted_at"], None))
        lines: list[Any] = [head]
        for what, numbers in (("tasks", now.tasks), ("nodes", now.nodes)):
            line = Text(f"  {what}: ")
            for i, (kind, count) in enumerate(numbers.items()):
                line.append(f"{' · ' if i else ''}{count} ").append(kind, COLOURS.get(kind, ""))
            if numbers:
                lines.append(line)
        width = max(20, self._live.console.width - 1)
        for sentence in now.sentences[:SENTENCES]:
            text = Text(f"  {clean(sentence)}", "dim", no_wrap=True, overflow="ellipsis")
            text.truncate(width, overflow="ellipsis")
            lines.append(text)
        self._live.update(Group(*lines), refresh=True)
