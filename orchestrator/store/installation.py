"""This installation's id: made once, kept in the database, carried by every instance as a tag."""

from __future__ import annotations

import secrets

from sqlalchemy import insert, select

from orchestrator.model.tables import Meta, table
from orchestrator.store.writer import Tx

meta = table(Meta)


def installation_id(tx: Tx) -> str:
    found = tx.connection.execute(select(meta.c.value).where(meta.c.key == "installation")).scalar()
    if found is not None:
        return str(found)
    made = f"eo-{secrets.token_hex(6)}"
    tx.connection.execute(insert(meta).values(key="installation", value=made))
    return made
