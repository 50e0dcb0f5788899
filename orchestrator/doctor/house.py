"""The master's own house: settings, data folder, database, certificate, and the URL that machines call."""

from __future__ import annotations

import json
import shutil
import ssl
from collections.abc import Iterator
from datetime import datetime
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import urlsplit

from sqlalchemy import Engine, make_url, select
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.doctor.probe import addresses, ask, expiry
from orchestrator.files.base import Missing
from orchestrator.files.opening import bucket_of
from orchestrator.model.tables import Meta, table
from orchestrator.settings import Settings
from orchestrator.store.migrate import SchemaTooNew, current_schema, known_revisions
from orchestrator.store.trouble import StoreTrouble
from providers.base import Finding, Verdict

DISK_SCARCE_BYTES = 2_000_000_000
DISK_FULL_BYTES = 200_000_000


def settings_read(settings: Settings) -> Iterator[Finding]:
    if not settings.clouds:
        fix = "no machine can be rented: add a table such as [clouds.aws] (docs/settings.md)"
        yield Finding("settings", Verdict.WARNING, f"they can be read and name no cloud; {fix}")
    else:
        yield Finding("settings", Verdict.OK, f"they can be read and name {len(settings.clouds)} cloud(s)")


def data_dir(folder: Path) -> Iterator[Finding]:
    """Whether files can be made there, or where it will be made at the first start, and how many more."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        fix = "make it writable for the user that runs the master, or name another as data_dir"
        yield Finding("data_dir", Verdict.WRONG, f"no file can be made in {there} ({error.strerror}); {fix}")
    else:
        told = f"{folder} is writable" if there == folder.absolute() else f"{folder} is made at the first start"
        yield Finding("data_dir", Verdict.OK, told)
    free = shutil.disk_usage(there).free
    verdict = Verdict.WRONG if free < DISK_FULL_BYTES else Verdict.WARNING if free < DISK_SCARCE_BYTES else Verdict.OK
    fix = "" if verdict is Verdict.OK else ": the database and the logs of jobs grow there; make room, or move data_dir"
    yield Finding("disk", verdict, f"{free / 1e9:.1f} GB are free at {there}{fix}")


def file_store(files: str | None, endpoint_url: str | None) -> Iterator[Finding]:
    """Whether the store of logs and artifacts takes calls, where it is not the folder. Changes nothing there."""
    if files is None:
        return
    try:
        next(bucket_of(files, endpoint_url).list(""), None)
    except (StoreTrouble, Missing) as error:
        yield Finding("files", Verdict.WRONG, str(error))
    else:
        yield Finding("files", Verdict.OK, f"{files} takes calls")


def database(engine: Engine | None, url: str) -> Iterator[Finding]:
    shown = make_url(url).render_as_string(hide_password=True)
    if engine is None:
        yield Finding("database", Verdict.OK, f"{shown} is not there yet; `orchestrator serve` makes it")
        return
    try:
        current, newest = _schema(engine), known_revisions()[-1]
    except SchemaTooNew as error:
        yield Finding("database", Verdict.WRONG, str(error))
    except SQLAlchemyError as error:
        why = " ".join(str(getattr(error, "orig", None) or error).split())
        yield Finding("database", Verdict.WRONG, f"{shown} does not answer: {why}; mend database_url, or start it")
    else:
        then = "" if current == newest else f"; `orchestrator serve` brings it to {newest}"
        yield Finding("database", Verdict.OK, f"{shown} answers and has schema {current or 'none'}{then}")


def is_ready(engine: Engine) -> bool:
    """Whether this program can read the rows that are there."""
    try:
        return _schema(engine) == known_revisions()[-1]
    except (SchemaTooNew, SQLAlchemyError):
        return False


def installation(engine: Engine) -> str | None:
    """The installation's id where the database has one."""
    meta = table(Meta)
    try:
        with engine.connect() as connection:
            return connection.execute(select(meta.c.value).where(meta.c.key == "installation")).scalar()
    except SQLAlchemyError:  # told by `database`
        return None


def certificate(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Whether the master's own certificate fits its key, and how long it holds."""
    path = settings.certificate
    if path is None or (settings.tls and not path.exists()):  # the first start makes it
        return
    fix = "renew it; machines that are up trust only the old one, so let them end first"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, settings.certificate_key)
        yield expiry(path.read_text(), str(path), now, fix)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        fix = "name a certificate and its key, both PEM, as tls_cert and tls_key"
        yield Finding("certificate", Verdict.WRONG, f"{path} cannot be used: {error}; {fix}")


def answers(url: str) -> Iterator[Finding]:
    """Whether a master answers at the URL that machines are given, as seen from here."""
    try:
        _, body = ask("GET", f"{url.rstrip('/')}/healthz")
        version = json.loads(body)["version"]
    except (OSError, HTTPException) as error:
        fix = "start it with `orchestrator serve`, or mend master_url"
        yield Finding("master_url", Verdict.WARNING, f"no master answers at {url} ({error or type(error).__name__}); {fix}")
    except (ValueError, KeyError, TypeError):
        yield Finding("master_url", Verdict.WRONG, f"{url} is not a master's; mend master_url, or what stands before it")
    else:
        yield Finding("master_url", Verdict.OK, f"the master (version {version}) answers at {url}")


def reachable_from(url: str, endpoint: str) -> Iterator[Finding]:
    """Whether machines of the cloud with this endpoint can mean the right host by the master's URL."""
    subject, here, there = "master_url", addresses(url), addresses(endpoint)
    local_cloud = bool(there) and all(address.is_loopback for address in there)
    private_cloud = bool(there) and all(address.is_private for address in there)
    fix = "set master_url to an address that the cloud's machines reach"
    if not here:
        told = f"the host of {url} cannot be looked up from here; its machines must be able to, or {fix}"
        yield Finding(subject, Verdict.WARNING, told)
    elif any(address.is_unspecified for address in here):
        yield Finding(subject, Verdict.WRONG, f"{url} is no address to call; {fix}")
    elif any(address.is_loopback for address in here) and not local_cloud:
        verdict = Verdict.WRONG if endpoint else Verdict.WARNING
        yield Finding(subject, verdict, f"{url} means each machine itself, not this master; {fix}")
    elif all(address.is_private for address in here) and not private_cloud:
        told = f"{url} is a private address: right only where the machines' network leads to it; else {fix}"
        yield Finding(subject, Verdict.WARNING, told)
    else:
        yield Finding(subject, Verdict.OK, f"its machines are told to call {url}")
    if urlsplit(url).scheme == "http" and not local_cloud:
        fix = "set tls_cert and tls_key (or tls = 'self-signed'), or put TLS before it"
        yield Finding("tls", Verdict.WARNING, f"{url} is not encrypted: who listens in between reads the jobs; {fix}")


def _schema(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return current_schema(connection)
