"""How documents look: drawn tables on a terminal, plain columns in a pipe."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

COLOURS = {
    **dict.fromkeys(("succeeded", "ready", "active"), "green"),
    **dict.fromkeys(("running", "booting", "launching", "requested"), "cyan"),
    **dict.fromkeys(("waiting", "queued", "draining", "terminating", "paused", "deleting"), "yellow"),
    **dict.fromkeys(("failed", "frozen"), "red"),
    **dict.fromkeys(("cancelled", "skipped", "terminated"), "dim"),
}
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(value: object) -> str:
    """Text that does nothing to a terminal but appear on it: names and reasons come from jobs and clouds."""
    return "" if value is None else _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table; `empty` is told where there is nothing to show."""
    cells = [[clean(cell).replace("\n", " ") for cell in row] for row in rows]
    if not sys.stdout.isatty():
        lines = [[column.upper() for column in columns], *([cell or "-" for cell in row] for row in cells)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    elif not cells:
        print(empty)
    else:
        _draw(columns, cells)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """One thing, a line a field; those without a value are left out."""
    shown = [(name, clean(value)) for name, value in pairs if value not in (None, "")]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        print(f"{name.ljust(width)}  {value}")


def explanation(document: Mapping[str, Any]) -> None:
    print(clean(f"{document['subject']} is {document['state']}"))
    for sentence in document["sentences"]:
        print(clean(f"  {sentence}"))
    if document["next"]:
        print(clean(f"next: {document['next']}"))


def counts(numbers: Mapping[str, int]) -> str:
    """`2 ready, 1 booting`."""
    return ", ".join(f"{count} {state}" for state, count in numbers.items())


def bar(done: float) -> str:
    """`[########------------]  40%`: what a log of cron shows too."""
    full = int(max(0.0, min(1.0, done)) * 20)
    return f"[{'#' * full}{'-' * (20 - full)}] {int(done * 100):3d}%"


def moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def at(text: str | None) -> str:
    """`2025-01-31 05:00:00Z`."""
    return f"{when:%Y-%m-%d %H:%M:%S}Z" if (when := moment(text)) else ""


def ago(text: str | None) -> str:
    """`12 s ago`."""
    return f"{lasted(text, None)} ago" if text else ""


def lasted(start: str | None, end: str | None) -> str:
    """How long from one moment to another, or until now."""
    began = moment(start)
    if began is None:
        return ""
    seconds = max(0, int(((moment(end) or datetime.now(UTC)) - began).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:  # the last one tells a story; the others hold what is copied
        drawn.add_column(column, overflow="fold", no_wrap=column is not columns[-1])
    for row in rows:
        drawn.add_row(*(Text(cell, COLOURS.get(cell, "")) for cell in row))
    Console().print(drawn)
