"""Backups: what a master cannot be made anew from, in one file, and the way back from it.

A backup is older than the world: machines were launched and tasks ended after it. So what it says of machines is not
believed. Every node in it is ended and its running attempts are lost, which queues their tasks again; machines that it does
not know are orphans, ended after their grace; and numbers that may have been used since are passed over, because clouds and
log files go by them.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Engine, func, insert, select, text
from sqlalchemy.engine import make_url

from orchestrator import __version__
from orchestrator.clock import SteadyClock, utc_now
from orchestrator.fleet import leaving
from orchestrator.model.states import NODE_LIVE, LaunchState
from orchestrator.model.tables import Attempt, Event, Launch, Node, table
from orchestrator.settings import Settings
from orchestrator.store.engine import lock_sqlite, open_engine
from orchestrator.store.migrate import SchemaTooNew, known_revisions, upgrade
from orchestrator.store.writer import Tx, Writer

nodes, launches, attempts, events = (table(m) for m in (Node, Launch, Attempt, Event))

DATABASE, KEY, TOKEN, MANIFEST = "orchestrator.db", "master.key", "admin.token", "backup.json"
SECRETS = "secrets.key"
"""The keys of the secret parameters: where they stand in the archive, wherever the settings keep them."""
FORMAT = 1
PASSED_OVER = 1_000_000
"""So many numbers are passed over after a restore: more than can have been used since the backup."""


class BackupRefused(Exception):
    """It cannot be done so; the text says what can."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a backup, and of when it is."""

    format: int
    version: str
    schema: str
    installation: str
    made_at: str


def back_up(settings: Settings, file: Path) -> Manifest:
    """Write database, keys and first token into `file`, readable by its owner alone, whole or not at all.

    The master may run meanwhile. Raises BackupRefused.
    """
    source = _sqlite_file(settings)
    if not source.exists():
        raise BackupRefused(f"there is no database {source}; name the settings of the master with --config")
    with TemporaryDirectory(dir=file.resolve().parent, prefix=f".{file.name}-") as folder:  # made for its owner alone
        copy = Path(folder) / DATABASE
        manifest = _copy(source, copy)
        whole = Path(folder) / "whole"
        with tarfile.open(whole, "w") as archive:
            _add(archive, MANIFEST, json.dumps(asdict(manifest), indent=2).encode())
            archive.add(copy, DATABASE)
            for name, kept in _beside(settings).items():
                if kept.exists():
                    _add(archive, name, kept.read_bytes())
        whole.chmod(0o600)
        _to_disk(whole)
        whole.replace(file)
    return manifest


def restore(settings: Settings, file: Path, *, replace: bool = False) -> tuple[Manifest, int]:
    """Put the backup in the place of the master's database; what was there is kept beside it with `replace`.

    Returns the manifest and how many nodes were ended. No master may run. Raises BackupRefused, StoreInUse, SchemaTooNew.
    """
    target = _sqlite_file(settings)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with _alone(settings), TemporaryDirectory(dir=target.parent, prefix=".restore-") as folder:
        manifest = _unpack(file, Path(folder))
        if target.exists():
            if not replace:
                raise BackupRefused(f"{target} exists; --replace keeps it as {_aside(target).name} and restores")
            _set_aside(target)
        (Path(folder) / DATABASE).replace(target)
        for name, place in _beside(settings).items():
            if (kept := Path(folder) / name).exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(kept, place)  # the settings may keep it on another disk
    return manifest, go_on(settings, manifest.made_at)


def go_on(settings: Settings, made_at: str) -> int:
    """Make a database that was just restored fit to go on from; how many nodes were ended. Not to be done twice, nor on a
    database that was not restored: it ends every machine."""
    with _alone(settings):
        engine = open_engine(settings.database)
        upgrade(engine)
        writer = Writer(engine, SteadyClock())
        try:
            with engine.connect() as connection:
                newest = connection.execute(select(func.coalesce(func.max(attempts.c.id), 0))).scalar_one()
            ended = writer.write(lambda tx: _disbelieve(tx, made_at))
        finally:
            writer.close()
        _pass_over_sequences(engine)
        engine.dispose()
    _set_logs_aside(settings.data_dir / "logs", newest)
    return ended


def _disbelieve(tx: Tx, made_at: str) -> int:
    live = (
        tx.connection.execute(select(nodes.c.id).where(nodes.c.state.in_(NODE_LIVE)).order_by(nodes.c.id)).scalars().all()
    )
    for node_id in live:
        leaving.at_once(tx, node_id, "restored", f"the backup of {made_at} does not know what became of it")
    told = f"restored from the backup of {made_at}; numbers that may have been used since are passed over"
    if (
        tx.connection.dialect.name == "sqlite"
    ):  # its numbers follow the rows, so that a row has to stand for those passed over
        _pass_over_rows(tx, told)
    tx.tell("installation", 0, told, actor="operator")
    return len(live)


def _pass_over_rows(tx: Tx, told: str) -> None:
    """One launch that never was, and one event. Nothing was launched before the first pool."""
    last = tx.connection.execute(select(launches).order_by(launches.c.id.desc()).limit(1)).mappings().first()
    if last is not None:
        skipped = {**last, "id": last["id"] + PASSED_OVER, "state": LaunchState.FAILED, "reason": told, "machines": 0}
        skipped |= {"deployment_id": None, "run_after": None, "requested_at": tx.now, "launched_at": None}
        tx.connection.execute(insert(launches).values(**skipped))
    newest = tx.connection.execute(select(func.coalesce(func.max(events.c.id), 0))).scalar_one()
    note = {"id": newest + PASSED_OVER, "at": tx.now, "subject": "installation", "subject_id": 0, "reason": told}
    tx.connection.execute(insert(events).values(**note, actor="operator"))


def _pass_over_sequences(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        return
    with engine.execution_options(writing=True).begin() as connection:
        query = text("SELECT sequencename FROM pg_sequences WHERE schemaname = current_schema()")
        for name in connection.execute(query).scalars().all():
            connection.execute(text("SELECT setval(:name, nextval(:name) + :by)"), {"name": name, "by": PASSED_OVER})


def _set_logs_aside(logs: Path, newest_attempt: int) -> None:
    """Logs of attempts that the backup does not know: their numbers may be given again."""
    for log in logs.glob("*/*.log"):
        if int(log.stem) > newest_attempt:
            log.rename(_aside(log))


def _copy(source: Path, target: Path) -> Manifest:
    """An online copy, as of one moment, and looked through before it is called a backup."""
    with closing(sqlite3.connect(source, timeout=30)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
        if (found := copy.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise BackupRefused(f"{source} is damaged ({found}); restore an older backup")
        schema = copy.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        (installation,) = copy.execute("SELECT value FROM meta WHERE key = 'installation'").fetchone()
    return Manifest(FORMAT, __version__, schema, installation, utc_now().isoformat(timespec="seconds"))


def _unpack(file: Path, folder: Path) -> Manifest:
    try:
        with tarfile.open(file) as archive:
            contents = {
                name: _member(archive, name)
                for name in (MANIFEST, DATABASE, KEY, TOKEN, SECRETS)
                if name in archive.getnames()
            }
        manifest = Manifest(**json.loads(contents.pop(MANIFEST)))
        contents[DATABASE]
    except FileNotFoundError:
        raise BackupRefused(f"there is no file {file}") from None
    except (tarfile.TarError, KeyError, ValueError, TypeError) as error:
        raise BackupRefused(f"{file} is not a whole backup of `orchestrator backup` ({error})") from error
    if manifest.format > FORMAT or manifest.schema not in known_revisions():
        raise SchemaTooNew(
            f"{file} was made by version {manifest.version}, which is newer; install that version to restore it"
        )
    for name, content in contents.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(content)
        _to_disk(folder / name)
    return manifest


def _beside(settings: Settings) -> dict[str, Path]:
    """The files beside the database, by their names in the archive."""
    return {KEY: settings.data_dir / KEY, TOKEN: settings.data_dir / TOKEN, SECRETS: settings.secrets_file}


def _sqlite_file(settings: Settings) -> Path:
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite" and url.database:
        return Path(url.database)
    told = url.set(drivername="postgresql").render_as_string(hide_password=True)
    keys = f"{settings.data_dir / KEY} and {settings.secrets_file}"
    raise BackupRefused(
        f"this master's database is PostgreSQL, which has its own tools: `pg_dump --format=custom --file=FILE {told}`, and "
        f"keep {keys} with it; after `pg_restore` run `orchestrator restore` without a file"
    )


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """No master runs on this database meanwhile, as far as that can be known."""
    lock = lock_sqlite(settings.database)
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _set_aside(database: Path) -> None:
    with closing(sqlite3.connect(database)) as old:  # what its side file holds belongs to it, not to the restored one
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.rename(_aside(database))
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.before-restore-{datetime.now().astimezone():%Y%m%dT%H%M%S}")


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file.read()


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
