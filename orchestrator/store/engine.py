"""One engine for SQLite and PostgreSQL, set so that neither loses an update."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url

WITHIN, ONE_OF = "eo_within", "eo_one_of"
"""SQLite's functions over lists in JSON, called only for rows that have a list: its own `json_each` makes tables of them,
and a statement that is kept with such a table does not survive every change of the database under it."""


class StoreInUse(Exception):
    """Another master has this SQLite database open."""


def open_engine(url: str) -> Engine:
    """An engine for `sqlite:///file` or `postgresql+psycopg://…`.

    SQLite: WAL, so that readers never wait for the writer; FULL, so that a committed answer survives a power cut (group
    commit makes it cheap); and transactions begun by us, because the driver's own late BEGIN loses updates silently.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            connect_args={
                "options": "-c timezone=UTC",  # times come back in the session's zone: let it be ours
                "connect_timeout": 5,  # seconds, and milliseconds: a server that is gone without a word is noticed
                "tcp_user_timeout": 15000,
            },
            pool_pre_ping=True,
            json_serializer=_dumps,
        )
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"check_same_thread": False}, json_serializer=_dumps)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "busy_timeout=5000",
        "cache_size=-16000",
    ):
        connection.execute(f"PRAGMA {pragma}")
    connection.create_function(WITHIN, 2, _within, deterministic=True)
    connection.create_function(ONE_OF, 2, _one_of, deterministic=True)


def _within(some: str | None, all_: str | None) -> bool:
    return set(json.loads(some or "[]")) <= set(json.loads(all_ or "[]"))


def _one_of(text: str | None, all_: str | None) -> bool:
    return text in json.loads(all_ or "[]")


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get("writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _dumps(value: object) -> str:
    import orjson

    return orjson.dumps(value).decode()


def lock_sqlite(url: str) -> IO[str] | None:
    """Hold the SQLite database for this process alone, as long as the returned file stays open.

    Wake-ups and heartbeats of one master are not seen by another on SQLite: two would work against each other.
    Raises StoreInUse. PostgreSQL takes any number of masters: None.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    path = Path(parsed.database + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise StoreInUse(
            f"another master (pid {holder}) has {parsed.database} open: SQLite takes one master. "
            "Stop that one, or use PostgreSQL (ORCHESTRATOR_DATABASE_URL=postgresql://…) to run several"
        ) from error
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
    return file
