"""Templates: named job files with versions. A commit adds a version, a rollback goes back to one; none ever changes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select, update

from orchestrator.jobs.clients import client_id
from orchestrator.jobs.spec import JobSpec
from orchestrator.model.tables import Client, Template, TemplateVersion, table
from orchestrator.store.writer import Tx

templates, versions, clients = table(Template), table(TemplateVersion), table(Client)
Row = dict[str, Any]


class TemplateRefused(Exception):
    """It cannot be so; the text says what can."""


@dataclass(frozen=True, slots=True)
class Committed:
    """`created` is false where the current version has the same document: nothing was stored then."""

    template_id: int
    number: int
    sha256: str
    created: bool


def commit(tx: Tx, spec: JobSpec, source: str, note: str, *, actor: str) -> Committed:
    """Store this job file as the next version of the template of its name, which is made where there is none.

    Raises TemplateRefused where another client has a template of that name.
    """
    owner = client_id(tx, spec.client)
    # Locked, so that whoever commits in the same moment is next: on PostgreSQL there may be two masters.
    held = select(templates).where(templates.c.name == spec.name).with_for_update()
    found = tx.connection.execute(held).mappings().first()
    if found is None:
        fresh = {"name": spec.name, "client_id": owner, "number": 0, "created_at": tx.now}
        made = insert(templates).values(**fresh).returning(templates)
        found = tx.connection.execute(made).mappings().one()
    elif found["client_id"] != owner:
        raise TemplateRefused(f"another client has a template named {spec.name!r}; give this one another name")
    current = tx.connection.execute(_version(found["id"], found["number"])).mappings().first()
    if current is not None and current["sha256"] == spec.version and found["deleted_at"] is None:
        return Committed(found["id"], current["number"], spec.version, created=False)
    last = tx.connection.execute(select(func.max(versions.c.number)).where(versions.c.template_id == found["id"])).scalar()
    row = {
        "template_id": found["id"],
        "number": (last or 0) + 1,
        "sha256": spec.version,
        "document": spec.document,
        "source": source,
        "note": note,
        "committed_by": actor,
        "committed_at": tx.now,
    }
    tx.connection.execute(insert(versions).values(**row))
    _make_current(tx, found["id"], row["number"])
    told = f"version {row['number']} of {spec.name} was committed"
    tx.tell("template", found["id"], told, detail=note or None, actor=actor)
    return Committed(found["id"], row["number"], spec.version, created=True)


def rollback(tx: Tx, template: Mapping[str, Any], number: int, *, actor: str) -> None:
    """Make an earlier (or later) version the current one."""
    _make_current(tx, template["id"], number)
    tx.tell(
        "template", template["id"], f"{template['name']} went from version {template['number']} to {number}", actor=actor
    )


def delete(tx: Tx, template: Mapping[str, Any], *, actor: str) -> None:
    """It is listed and launched no more. Its versions stay, for the jobs that name them; a commit brings it back."""
    tx.connection.execute(update(templates).where(templates.c.id == template["id"]).values(deleted_at=tx.now))
    tx.tell("template", template["id"], f"template {template['name']} was deleted", actor=actor)


def list_templates(connection: Connection, limit: int, before: int | None, *of: str | None) -> list[Row]:
    """Newest first, each with its current version; only those of each client that is named."""
    query = _templates()
    for client in filter(None, of):
        query = query.where(clients.c.name == client)
    if before is not None:
        query = query.where(templates.c.id < before)
    return [dict(row) for row in connection.execute(query.order_by(templates.c.id.desc()).limit(limit)).mappings()]


def find(connection: Connection, ref: str) -> Row | None:
    """A template by its name, or else by its id."""
    row = connection.execute(_templates().where(templates.c.name == ref)).mappings().first()
    if row is None and re.fullmatch(r"[0-9]{1,18}", ref):
        row = connection.execute(_templates().where(templates.c.id == int(ref))).mappings().first()
    return dict(row) if row is not None else None


def list_versions(connection: Connection, template_id: int, limit: int, before: int | None) -> list[Row]:
    """Newest first, without their documents."""
    columns = [column for column in versions.c if column.name not in ("document", "source")]
    query = select(*columns).where(versions.c.template_id == template_id)
    if before is not None:
        query = query.where(versions.c.id < before)
    return [dict(row) for row in connection.execute(query.order_by(versions.c.id.desc()).limit(limit)).mappings()]


def find_version(connection: Connection, template: Mapping[str, Any], ref: str | None) -> Row | None:
    """A version by its number or by the beginning of its SHA-256 (the newest such); without either the current one."""
    if ref is None or re.fullmatch(r"[0-9]{1,6}", ref):
        query = _version(template["id"], int(ref) if ref is not None else template["number"])
    elif re.fullmatch(r"[0-9a-f]{6,64}", ref):
        mine = (versions.c.template_id == template["id"], versions.c.sha256.startswith(ref))
        query = select(versions).where(*mine).order_by(versions.c.number.desc()).limit(1)
    else:
        return None
    row = connection.execute(query).mappings().first()
    return dict(row) if row is not None else None


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What was written otherwise, as a unified diff; empty where it is the same text."""
    names = [f"version {row['number']} ({row['sha256'][:12]})" for row in (before, after)]
    texts = [row["source"].splitlines() for row in (before, after)]
    return "".join(f"{line}\n" for line in difflib.unified_diff(texts[0], texts[1], names[0], names[1], lineterm=""))


def _templates() -> Select[Any]:
    about = (versions.c.sha256, versions.c.note, versions.c.committed_by, versions.c.committed_at, versions.c.document)
    current = (versions.c.template_id == templates.c.id) & (versions.c.number == templates.c.number)
    return (
        select(templates, clients.c.name.label("client"), versions.c.id.label("version_id"), *about)
        .join(clients, clients.c.id == templates.c.client_id)
        .join(versions, current)
        .where(templates.c.deleted_at.is_(None))
    )


def _version(template_id: int, number: int) -> Select[Any]:
    return select(versions).where(versions.c.template_id == template_id, versions.c.number == number)


def _make_current(tx: Tx, template_id: int, number: int) -> None:
    tx.connection.execute(update(templates).where(templates.c.id == template_id).values(number=number, deleted_at=None))
