"""The database of a run: SQLite in memory, its schema made once a process and copied before each seed."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Engine, insert

from orchestrator.model.tables import Meta, table
from orchestrator.store.engine import open_engine
from orchestrator.store.migrate import upgrade

INSTALLATION = "eo-simulated"


@cache
def _migrated() -> tuple[Engine, bytes]:
    """One engine for all seeds, since what it has compiled is worth more than the run; and the empty database's bytes."""
    engine = open_engine("sqlite://")
    upgrade(engine)
    with engine.execution_options(writing=True).begin() as connection:
        connection.execute(insert(table(Meta)).values(key="installation", value=INSTALLATION))
    return engine, raw(engine).serialize()


def fresh() -> Engine:
    """The engine, on an empty migrated database."""
    engine, empty = _migrated()
    raw(engine).deserialize(empty)
    return engine


def raw(engine: Engine) -> Any:
    """The driver's own connection: there is one, as there is one thread."""
    with engine.connect() as connection:
        return connection.connection.driver_connection
