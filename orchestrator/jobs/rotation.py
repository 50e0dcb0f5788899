"""A new key for all secrets, while masters run.

The new key goes in front of the others; then every row is encrypted with it, each where it is still what was read; then
only the key before it is kept, for what a running master encrypted in these moments. The next rotation drops that one, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Text, cast, select, update

from orchestrator.jobs.secrets import Vault
from orchestrator.model.tables import ClientParam, Job, table
from orchestrator.store.writer import Tx, Writer

params, jobs = table(ClientParam), table(Job)
CHUNK = 500
KEPT = 2


@dataclass(frozen=True, slots=True)
class Rotated:
    """How many secrets are encrypted anew."""

    clients: int
    jobs: int


def rotate(engine: Engine, vault: Vault) -> Rotated:
    """Raises Unopenable where no key opens a secret that is there: nothing is lost then, and both keys are kept."""
    vault.rotate()
    writer = Writer(engine)
    try:
        done = Rotated(_of_clients(engine, writer, vault), _of_jobs(engine, writer, vault))
        told = f"the key of secrets was changed; {done.clients + done.jobs} secret(s) were encrypted anew"
        writer.write(lambda tx: tx.tell("installation", 0, told, actor="operator"))
    finally:
        writer.close()
    vault.forget(keep=KEPT)
    return done


def _of_clients(engine: Engine, writer: Writer, vault: Vault) -> int:
    with engine.connect() as connection:
        rows = connection.execute(select(params.c.id, params.c.value).where(params.c.secret)).all()
    renewed = [(row.id, row.value, vault.renew(row.value)) for row in rows]

    def work(tx: Tx) -> None:
        for id_, old, new in renewed:  # what was set meanwhile has the new key already
            tx.connection.execute(update(params).where(params.c.id == id_, params.c.value == old).values(value=new))

    writer.write(work)
    return len(renewed)


def _of_jobs(engine: Engine, writer: Writer, vault: Vault) -> int:
    """Parameters of a job never change, so that nobody else writes there."""
    count, last = 0, 0
    while True:
        with engine.connect() as connection:
            rows = _with_secrets(connection, last)
        if not rows:
            return count
        renewed = [(row.id, {name: _renewed(value, vault) for name, value in row.params.items()}) for row in rows]

        def work(tx: Tx, renewed: list[tuple[int, dict[str, Any]]] = renewed) -> None:
            for id_, values in renewed:
                tx.connection.execute(update(jobs).where(jobs.c.id == id_).values(params=values))

        writer.write(work)
        count += sum(not isinstance(value, str) for _, values in renewed for value in values.values())
        last = rows[-1].id


def _with_secrets(connection: Connection, after: int) -> list[Any]:
    # Names are letters and values JSON text: only a secret is an object with this key.
    secret = cast(jobs.c.params, Text).like('%{"secret"%')
    query = select(jobs.c.id, jobs.c.params).where(jobs.c.id > after, secret).order_by(jobs.c.id).limit(CHUNK)
    return list(connection.execute(query))


def _renewed(value: Any, vault: Vault) -> Any:
    return value if isinstance(value, str) else {"secret": vault.renew(value["secret"])}
