"""`orchestrator job artifacts` and `job download`: the files that a job's tasks left."""

from __future__ import annotations

import hashlib
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.logs import JobId
from orchestrator.cli.render import at, clean, table
from orchestrator.cli.session import Session, say

EVERY = 1 << 30
Task = Annotated[str | None, typer.Option(help="only this task's")]


def artifacts(
    session: Session,
    job: JobId,
    task: Task = None,
    every: Annotated[bool, typer.Option("--every", help="of every attempt, not only of the newest that has some")] = False,
) -> None:
    """The files that its tasks left."""
    page = session.api.page(f"jobs/{job}/artifacts", EVERY, cursor="after", task=task, every=every or None)
    columns = ("id", "task", "attempt", "size", "stored", "path")
    none = "It has none; `artifacts:` in a job file says which files are kept."
    session.show(page, lambda: table(columns, map(_row, page["items"]), none))


def download(
    session: Session,
    job: JobId,
    pattern: Annotated[str, typer.Argument(help="only paths like this, such as '*.csv'")] = "*",
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="the folder to write to")] = Path(),
    task: Task = None,
) -> None:
    """Fetch the files that its tasks left; of a job with several tasks, each task's into a folder of its name."""
    several = session.api.get(f"jobs/{job}")["tasks"] > 1
    items = session.api.page(f"jobs/{job}/artifacts", EVERY, cursor="after", task=task)["items"]
    chosen = [item for item in items if fnmatchcase(item["path"], pattern)]
    if not chosen:
        raise typer.BadParameter(f"no artifact of job {job} is like {pattern}; see `orchestrator job artifacts {job}`")
    to.mkdir(parents=True, exist_ok=True)
    written = []
    for item in chosen:
        place = _place(to, f"{item['task']}/{item['path']}" if several else item["path"])
        _fetch(session, item, place)
        written.append({**item, "file": str(place)})
        if not session.json:
            print(clean(str(place)))
    session.show({"items": written, "next": None}, lambda: say(f"{len(written)} file(s)"))


def _place(to: Path, path: str) -> Path:
    """Where a file goes: below `to`, whatever its path says and whatever links lie there. Makes the folders."""
    from orchestrator.cli.client import Complaint

    home = to.resolve()
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise Complaint(f"artifact {path!r} would lead out of {to}; it is not written")
    folder = home
    for part in parts[:-1]:
        folder /= part
        folder.mkdir(exist_ok=True)
        if folder.is_symlink() and not folder.resolve().is_relative_to(home):
            raise Complaint(f"{folder} is a link that leads out of {to}; {path!r} is not written")
    return to.joinpath(*parts)


def _fetch(session: Session, item: dict[str, Any], place: Path) -> None:
    """Whole and checked, or not at all; what was there before, also a link, gives way."""
    from orchestrator.cli.client import Unreachable

    fresh = place.with_name(f".{place.name[:100]}.{os.getpid()}.part")
    digest = hashlib.sha256()
    try:
        with fresh.open("xb") as file, session.api.pieces(f"artifacts/{item['id']}") as pieces:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != item["sha256"]:
            raise Unreachable(f"{item['path']} came damaged: its SHA-256 is not the one it was stored with; fetch it again")
        fresh.replace(place)
    finally:
        fresh.unlink(missing_ok=True)


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    return item["id"], item["task"], item["number"], item["size"], at(item["stored_at"]), item["path"]
