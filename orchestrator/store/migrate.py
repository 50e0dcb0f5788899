"""Schema migrations: forward at every start, back by hand. A schema newer than this program is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, func, select

SCRIPTS = Path(__file__).parent / "migrations"
LOCK = 0x0E57AC  # any number, the same for all masters


class SchemaTooNew(Exception):
    """The database was written by a newer version."""


class UnknownRevision(Exception):
    """There is no schema of this number."""


def upgrade(engine: Engine) -> None:
    """Bring the schema to this program's version, in one transaction. Raises SchemaTooNew."""
    move(engine, "head")


def move(engine: Engine, to: str) -> tuple[str | None, str | None]:
    """Bring the schema to this revision, forward or back, in one transaction; both it came from and it is at now.

    `to` is a number, `head` or `base` (no tables). Raises SchemaTooNew, UnknownRevision.
    """
    known = known_revisions()
    if to not in (*known, "head", "base"):
        raise UnknownRevision(f"there is no schema {to!r}; there are {', '.join(known)}, head, and base for none")
    with engine.execution_options(writing=True).begin() as connection:
        if engine.dialect.name == "postgresql":  # masters that start together: one after the other
            connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        current = current_schema(connection)
        config = alembic_config(connection)
        target = {"head": known[-1], "base": None}.get(to, to)
        if (target or "") >= (current or ""):
            command.upgrade(config, to)
        else:
            command.downgrade(config, to)
    return current, target


def current_schema(connection: Connection) -> str | None:
    """The database's schema; None where it is empty. Raises SchemaTooNew."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known_revisions():
        raise SchemaTooNew(
            f"the database has schema {current}, which this version does not know: it was opened by a newer one. "
            "Install that version again, or restore a backup made before it"
        )
    return current


@cache
def known_revisions() -> tuple[str, ...]:
    """The schemas that this program knows, oldest first."""
    return tuple(sorted(script.revision for script in ScriptDirectory(str(SCRIPTS)).walk_revisions()))


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    return config
