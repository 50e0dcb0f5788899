"""`orchestrator backup`, `restore` and `migrate`: upkeep of the master's database, on the master's own host."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from orchestrator.cli.session import ConfigFile, load_settings, with_complaints

P = ParamSpec("P")


def on_the_database(work: Callable[P, None]) -> Callable[P, None]:
    """What is expected to go wrong with a database is told without a trace."""

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        def told() -> None:
            from orchestrator.backup import BackupRefused
            from orchestrator.cli.client import Complaint
            from orchestrator.jobs.secrets import Unopenable
            from orchestrator.store.engine import StoreInUse
            from orchestrator.store.migrate import SchemaTooNew, UnknownRevision
            from orchestrator.store.trouble import trouble_of

            try:
                work(*args, **kwargs)
            except (StoreInUse, SchemaTooNew, UnknownRevision, BackupRefused, Unopenable) as error:
                raise Complaint(str(error)) from error
            except Exception as error:
                if (trouble := trouble_of(error)) is None:
                    raise
                raise Complaint(str(trouble)) from error

        with_complaints(told)

    return run


@on_the_database
def backup(
    file: Annotated[Path, typer.Argument(help="the file to write; it holds secrets, and only its owner may read it")],
    config: ConfigFile = None,
) -> None:
    """Copy the database, the master's keys and its first token into a file, while the master runs."""
    from orchestrator.backup import back_up

    manifest = back_up(load_settings(config), file)
    print(f"{file}: installation {manifest.installation}, schema {manifest.schema}, of {manifest.made_at}")


@on_the_database
def restore(
    file: Annotated[
        Path | None, typer.Argument(help="of `backup`; without one: the database was restored by its own tools")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="set aside the database that is there")] = False,
    made_at: Annotated[str, typer.Option("--made-at", help="without a file: when the backup was made")] = "an earlier time",
    config: ConfigFile = None,
) -> None:
    """Go back to a backup, with no master running. Machines it knows are ended at the next start, others after a grace."""
    from orchestrator.backup import go_on
    from orchestrator.backup import restore as restore_file

    settings = load_settings(config)
    if file is None:
        ended = go_on(settings, made_at)
    else:
        manifest, ended = restore_file(settings, file, replace=replace)
        made_at = manifest.made_at
    print(f"restored as of {made_at}; {ended} node(s) will be ended and their work done again; start the master now")


@on_the_database
def migrate(
    to: Annotated[str, typer.Option("--to", help="a schema's number, older ones too; default: this version's")] = "head",
    config: ConfigFile = None,
) -> None:
    """Bring the database to a schema, with no master running: forward as its start does, or back for an older version."""
    from orchestrator.store.engine import lock_sqlite, open_engine
    from orchestrator.store.migrate import move

    settings = load_settings(config)
    lock = lock_sqlite(settings.database)
    engine = open_engine(settings.database)
    before, after = move(engine, to)
    engine.dispose()
    if lock is not None:
        lock.close()
    print(f"schema {before or 'none'} → {after or 'none'}")
