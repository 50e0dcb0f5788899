"""`orchestrator submit`: a job file becomes a job, and perhaps is waited for."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.interrupts import Interrupted, OnInterrupt
from orchestrator.cli.session import Session, say
from orchestrator.cli.waiting import (
    How,
    OnInterruptOption,
    Quiet,
    WaitTimeout,
    at_first,
    wait_for,
    with_statuses_above,
)

TRIES = 3


def submit(
    session: Session,
    file: Annotated[str, typer.Argument(metavar="FILE", help="job file, YAML or JSON; - for standard input")],
    param: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="a parameter; wins over the file's")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="until it has ended; the exit status says how")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="submit nothing; show what would run where, why, and at which price")
    ] = False,
    dry_commands: Annotated[
        bool, typer.Option("--dry-commands", help="run `sleep 1` in place of each command, and all else as ever")
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", "--idempotency-key", metavar="KEY", help="asking again with this key gives the same job, not another"
        ),
    ] = None,
    quiet: Quiet = False,
    wait_timeout: WaitTimeout = None,
    on_interrupt: OnInterruptOption = None,
) -> None:
    """Submit a job and print its number.

    With --wait the exit status is the job's: 0 where it succeeded, the first failed task's own (1 … 125), 203 where it
    was cancelled; and 202 refused, 204 no master answers, 205 not in time, 128 + the signal's number where one ended the
    waiting and the job goes on.
    """

    def document() -> dict[str, Any]:
        return _merged(_read(file), param or [])  # type: ignore[no-any-return]

    if dry_run:
        from orchestrator.cli.plan import show_plan

        show_plan(session, document())
        return
    how = (quiet, wait_timeout, on_interrupt)
    query = {"dry_commands": "true"} if dry_commands else {}
    create(session, "jobs", document, key, wait=wait, how=how, **query)


def create(
    session: Session,
    path: str,
    document: Callable[[], dict[str, Any]],
    key: str | None,
    *,
    wait: bool,
    how: tuple[bool, str | None, OnInterrupt | None],
    **query: str,
) -> None:
    """Make a job of what `document` gives, print its number, and wait for its end where that is wanted."""
    key = key or str(uuid.uuid4())
    if not wait:
        done = _post(session, path, document(), key, query)
        _tell_repeated(done)
        session.show(done, lambda: print(done["id"]))
        return
    asked = How.asked(*how)
    with with_statuses_above():
        done = _patiently_posted(session, path, document(), key, query, asked)
        if not asked.quiet:
            _tell_repeated(done)
        if not (session.json or asked.quiet):
            print(done["id"], flush=True)
        wait_for(session, done["id"], asked)


def _patiently_posted(
    session: Session, path: str, document: dict[str, Any], key: str, query: Mapping[str, str], how: How
) -> dict[str, Any]:
    """Submitted, also by a master that is just being started again."""
    try:
        return at_first(how).until_answered(lambda: _post(session, path, document, key, query))
    except Interrupted:
        say(f"whether the job was created is not known; ask again with --key {key}")
        raise


def _post(session: Session, path: str, document: dict[str, Any], key: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Ask until it is answered: the key makes asking again safe where an answer was lost."""
    from orchestrator.cli.client import Unreachable

    for left in reversed(range(TRIES)):
        try:
            done: dict[str, Any] = session.api.post(path, document, {"Idempotency-Key": key}, **query)
            return done
        except Unreachable as error:
            if not error.sent:
                raise
            if not left:
                again = f"whether the job was created is not known; ask again with --key {key}"
                raise Unreachable(*error.lines, again) from error
    raise AssertionError("unreachable")


def _tell_repeated(done: dict[str, Any]) -> None:
    if done["repeated"]:
        say(f"job {done['id']} was submitted before with this idempotency key; nothing new was created")


def _read(file: str) -> Any:
    """The document in a job file. Raises Complaint."""
    from orchestrator.cli.client import Complaint

    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise Complaint(f"{file}: cannot be read ({error.strerror}); name a job file, or - for standard input") from error
    if data.lstrip()[:1] == b"{":
        with suppress(ValueError):
            return json.loads(data)  # JSON may be indented with tabs, YAML may not
    from orchestrator.jobs.spec import SpecError, read_yaml

    try:
        return read_yaml(data)
    except SpecError as error:
        raise Complaint(*(f"{file}: {path}: {message}" for path, message in error.problems)) from error


def params_of(pairs: list[str]) -> dict[str, str]:
    """What `--param KEY=VALUE` said. Raises Complaint."""
    from orchestrator.cli.client import Complaint

    given = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise Complaint(f"--param: {pair!r} is not KEY=VALUE; write one such as REGION=eu")
        given[key] = value
    return given


def _merged(document: Any, pairs: list[str]) -> Any:
    """The document with the launch's parameters over its own, as JSON can say it. Raises Complaint."""
    from orchestrator.cli.client import Complaint

    if not isinstance(document, dict):
        raise Complaint("$: a job file is a mapping; begin with name:, client: and run: or tasks:")
    if given := params_of(pairs):
        own = document.get("params") or {}
        if not isinstance(own, dict):
            raise Complaint("params: must be a mapping of names to values; mend it")
        document = {**document, "params": {**own, **given}}
    try:
        if problems := list(_not_json("$", document)):
            raise Complaint(*problems)
        json.dumps(document, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise Complaint(f"$: cannot be sent ({error}); mend the file") from error
    return document


def _not_json(path: str, value: object) -> Iterator[str]:
    """What YAML can say and JSON cannot: most often a date that was meant as text."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_json(f"{path}.{key}", item)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _not_json(f"{path}[{i}]", item)
    elif isinstance(value, date | bytes | set):
        kind = type(value).__name__
        yield f"{path.removeprefix('$.')}: {value!s:.40} is not text but a {kind}; put it in quotes"
