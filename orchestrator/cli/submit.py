"""`orchestrator submit`: a job file becomes a job, and perhaps is waited for."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
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
Wait = Annotated[bool, typer.Option("--wait", help="until it has ended; the exit status says how")]
Key = Annotated[
    str | None,
    typer.Option(
        "--key", "--idempotency-key", metavar="KEY", help="asking again with this key gives the same job, not another"
    ),
]


def submit(
    session: Session,
    file: Annotated[str, typer.Argument(metavar="FILE", help="job file, YAML or JSON; - for standard input")],
    param: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="a parameter; wins over the file's")] = None,
    wait: Wait = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="submit nothing; show what would run where, why, and at which price")
    ] = False,
    dry_commands: Annotated[
        bool, typer.Option("--dry-commands", help="run `sleep 1` in place of each command, and all else as ever")
    ] = False,
    key: Key = None,
    quiet: Quiet = False,
    wait_timeout: WaitTimeout = None,
    on_interrupt: OnInterruptOption = None,
) -> None:
    """Submit a job and print its number.

    With --wait the exit status is the job's: 0 where it succeeded, the first failed task's own (1 … 125), 203 where it
    was cancelled; and 202 refused, 204 no master answers, 205 not in time, 128 + the signal's number where one ended the
    waiting and the job goes on.
    """

    from orchestrator.cli.jobfile import JobFile

    job_file = JobFile(file)

    def document() -> dict[str, Any]:
        given = params_of(param or [])
        sendable = job_file.sendable()
        return {"file": sendable, "params": given} if given else sendable

    if dry_run:
        from orchestrator.cli.plan import show_plan

        show_plan(session, document())
        return
    how = (quiet, wait_timeout, on_interrupt)
    query = {"dry_commands": "true"} if dry_commands else {}
    create(session, "jobs", document, key, wait=wait, how=how, told=job_file.told, **query)


def create(
    session: Session,
    path: str,
    document: Callable[[], dict[str, Any]],
    key: str | None,
    *,
    wait: bool,
    how: tuple[bool, str | None, OnInterrupt | None],
    told: Callable[[], AbstractContextManager[None]] = nullcontext,
    **query: str,
) -> None:
    """Make a job of what `document` gives, print its number, and wait for its end where that is wanted. In `told` a refusal
    may become what its person understands."""
    key = key or str(uuid.uuid4())
    if not wait:
        asked_for = document()
        with told():
            done = _post(session, path, asked_for, key, query)
        _tell_repeated(done)
        session.show(done, lambda: print(done["id"]))
        return
    asked = How.asked(*how)
    with with_statuses_above():
        asked_for = document()
        with told():
            done = _patiently_posted(session, path, asked_for, key, query, asked)
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
