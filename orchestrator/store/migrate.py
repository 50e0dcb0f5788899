"""Schema migrations, forward at every start. A schema newer than this program is refused."""

from __future__ import annotations

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


def upgrade(engine: Engine) -> None:
    """Bring the schema to this program's version, in one transaction. Raises SchemaTooNew."""
    with engine.execution_options(writing=True).begin() as connection:
        if engine.dialect.name == "postgresql":  # masters that start together: one after the other
            connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        config = alembic_config(connection)
        current = MigrationContext.configure(connection).get_current_revision()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if current is not None and current not in known:
            raise SchemaTooNew(
                f"the database has schema {current}, which this version does not know: it was opened by a newer one. "
                "Install that version again, or restore a backup made before it"
            )
        command.upgrade(config, "head")


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    return config
