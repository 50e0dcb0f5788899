"""`orchestrator job logs`: what the tasks of a job wrote, as it is, searched, or followed while it grows."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from orchestrator.cli.render import clean
from orchestrator.cli.session import Session, say

JobId = Annotated[int, typer.Argument(metavar="JOB", min=1, help="number of a job")]
RESUMED = 100  # logs of which the master is told how far they were read


def logs(
    session: Session,
    job: JobId,
    task: Annotated[str | None, typer.Option(help="only this task's")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="its first, second, … try; else the last")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the job, or the task, has ended")] = False,
    search: Annotated[
        str | None, typer.Option(metavar="TEXT", help="only lines with this text, with their numbers")
    ] = None,
    head: Annotated[int | None, typer.Option(min=1, max=100_000, help="only the first so many lines")] = None,
    tail: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="only the last so many lines, or -f from there")
    ] = None,
) -> None:
    """What a job wrote, byte for byte; of several tasks each line with its task's name before it.

    `--output json` changes only what `--search` prints."""
    if (search is not None) + (head is not None) + (tail is not None) > 1 or (follow and (search or head)):
        raise typer.BadParameter("of --search, --head and --tail only one, and with -f only --tail")
    found = session.api.get(f"jobs/{job}")
    alone = task is not None or found["tasks"] == 1
    chosen = {"task": task, "attempt": attempt}
    if search is not None:
        _search(session, job, search, chosen)
    elif head or tail or (alone and not follow):
        response = _print_piece(session, job, {**chosen, "head": head, "tail": tail})
        if follow:
            end = int(response.headers["X-Log-Offset"]) + len(response.content)
            _follow(session, job, chosen, alone, _Reading({int(response.headers["X-Log-Attempt"]): end}))
    elif not follow:
        with session.api.stream(f"jobs/{job}/logs/stream", follow=False, **chosen) as lines:
            for _ in _shown(lines, _Reading(), alone):
                pass
    else:
        if found["state"] == "queued":
            say(f"the job is queued: nothing is written yet (`orchestrator job explain {job}`)")
        _follow(session, job, chosen, alone, _Reading())


@dataclass
class _Reading:
    """How far each attempt's log was read, which of them are whole, and what of their last lines is not printed yet."""

    read: dict[int, int] = field(default_factory=dict)
    newest: int | None = None
    whole: set[int] = field(default_factory=set)
    rest: dict[int, bytes] = field(default_factory=dict)

    def place(self) -> dict[str, Any]:
        """Where a stream that broke is to go on."""
        growing = [f"{attempt}:{offset}" for attempt, offset in self.read.items() if attempt and attempt not in self.whole]
        return {"at": growing[-RESUMED:], "since": self.newest}

    def new_of(self, told: dict[str, Any]) -> bytes:
        """What of this piece was not read yet: after a break some of it comes again."""
        data = base64.b64decode(told["data"])
        at = self.read.get(told["attempt"], 0)
        self.read[told["attempt"]] = max(at, told["offset"] + len(data))
        return data[max(0, at - told["offset"]) :]


def _print_piece(session: Session, job: int, query: dict[str, Any]) -> Any:
    """From the first byte to the last one there is now. Returns the last answer."""
    offset = 0
    while True:
        response = session.api.call("GET", f"jobs/{job}/logs", {**query, "offset": offset, "limit": 16 << 20})
        sys.stdout.buffer.write(response.content)
        sys.stdout.buffer.flush()
        offset = int(response.headers["X-Log-Offset"]) + len(response.content)
        if not response.content or query.get("head") or offset >= int(response.headers["X-Log-Size"]):
            return response
        query = {**query, "tail": None}


def _search(session: Session, job: int, text: str, chosen: dict[str, Any]) -> None:
    items: list[dict[str, Any]] = []
    after = 0
    while True:
        page = session.api.get(f"jobs/{job}/logs", search=text, limit=1000, after=after, **chosen)
        items += page["items"]
        if not session.json:
            for item in page["items"]:
                print(clean(f"{item['task']}:{item['line']}: {item['text']}"))
        if page["next"] is None:
            break
        after = page["next"]
    if not items:
        say("no line has it")
    session.show({"items": items, "next": None}, lambda: None)


def _follow(session: Session, job: int, chosen: dict[str, Any], alone: bool, reading: _Reading) -> None:
    """Until the master says that all is told. A line that breaks is taken up again where it was."""
    from orchestrator.cli.client import Unreachable
    from orchestrator.cli.waiting import Patience

    patience = Patience(say)
    while True:
        try:
            with session.api.stream(f"jobs/{job}/logs/stream", **reading.place(), **chosen) as lines:
                for event in _shown(lines, reading, alone):
                    patience.answered()
                    if event == "end":
                        return
            patience.pause("the stream ended")
        except Unreachable as error:
            patience.pause(error.lines[0])


def _shown(lines: Iterable[str], reading: _Reading, alone: bool) -> Iterator[str]:
    """Print what comes; yields the name of each event."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            told = json.loads(line[6:])
            reading.newest = max(reading.newest or 0, told.get("attempt", told.get("newest", 0)))
            if name == "log":
                _print(told, reading.new_of(told), reading, alone)
            elif name == "attempt":
                reading.whole.add(told["attempt"])
                if rest := reading.rest.pop(told["attempt"], b""):
                    _write(told, rest + b"\n")
            yield name


def _print(told: dict[str, Any], data: bytes, reading: _Reading, alone: bool) -> None:
    if alone:
        if told["offset"] == 0 and told["number"] > 1 and data:
            say(f"the task is tried again (attempt {told['number']})")
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    whole, feed, rest = (reading.rest.pop(told["attempt"], b"") + data).rpartition(b"\n")
    if rest:
        reading.rest[told["attempt"]] = rest
    if feed:
        _write(told, whole + feed)


def _write(told: dict[str, Any], lines: bytes) -> None:
    """Whole lines, each with its task's name."""
    again = f"#{told['number']}" if told["number"] > 1 else ""
    before = f"{told['task']}{again} | ".encode()
    sys.stdout.buffer.write(b"".join(before + line for line in lines.splitlines(keepends=True)))
    sys.stdout.buffer.flush()
