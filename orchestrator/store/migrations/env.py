"""Alembic runs on the connection it is handed, inside the caller's transaction."""

from alembic import context
from sqlmodel import SQLModel

import orchestrator.model.tables  # noqa: F401 - registers the tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
)
context.run_migrations()
