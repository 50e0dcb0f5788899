"""`orchestrator serve`: one master, over uvicorn."""

from __future__ import annotations

import ctypes
import gc
import logging
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

import structlog
import uvicorn

from orchestrator.api.auth import make_token
from orchestrator.api.http import build
from orchestrator.app import Master, certificate_pin
from orchestrator.clock import utc_now
from orchestrator.faultpoints import reach
from orchestrator.people.certificate import ensure
from orchestrator.people.passwords import hashed, one_time
from orchestrator.people.users import FIRST, add_first, anybody
from orchestrator.settings import Settings

M_TRIM_THRESHOLD, M_ARENA_MAX = -1, -8  # of malloc.h
SWITCH_S = 0.0005  # the writer must not keep the event loop waiting for Python's default of 5 ms
ADMIN_TOKEN = "admin.token"  # noqa: S105 - the name of a file


def run(settings: Settings) -> None:
    """Serve until a signal. Raises StoreInUse, SchemaTooNew."""
    configure_logs()
    give_memory_back()
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()  # what was imported stays: no collection need walk it again
    own_certificate(settings)
    master = Master(settings)
    token = admin_token(master)
    password = first_admin(master)
    app = build(master)
    reach("start.before_serve")
    print(f"Elastic Orchestrator at {settings.api_url}  (API token in {token})", flush=True)
    if password is not None:
        print(f"First login: {FIRST}, password {password}, which is changed then", flush=True)
    certificate, key = settings.certificate, settings.certificate_key
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        backlog=4096,
        # Agents' polls are open all the time: they need not be waited for, they come again.
        timeout_graceful_shutdown=2,
        # Who calls is who is connected, unless a proxy that is trusted says otherwise.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        ssl_certfile=str(certificate) if certificate else None,
        ssl_keyfile=str(key) if key else None,
    )
    doors = [(settings.host, settings.port), settings.agents_apart]
    uvicorn.Server(config).run([listen(*door) for door in doors if door is not None])


def give_memory_back() -> None:
    """Let glibc return what is freed, and keep two arenas instead of eight a core: 13 MB less of a master at rest. Other
    C libraries have no such call, or need none."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 2)
        libc.mallopt(M_TRIM_THRESHOLD, 128 << 10)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket there. Raises Complaint where it cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=4096)
    except OSError as error:
        fix = "another program has it, or it is not this host's; set another host or port"
        from orchestrator.cli.client import Complaint  # and with it httpx, which a master that sends nothing need not carry

        raise Complaint(f"cannot listen on {host} port {port}: {error.strerror or error}; {fix}") from error


def own_certificate(settings: Settings) -> None:
    """With `tls = "self-signed"`: the certificate is there, and holds for a while."""
    if settings.tls is None:
        return
    certificate, key = settings.certificate, settings.certificate_key
    assert certificate is not None and key is not None
    urls = (urlsplit(url).hostname for url in (settings.api_url, settings.url))
    if ensure(certificate, key, [settings.host, *(host for host in urls if host)], utc_now()):
        print(f"A certificate was made: {certificate}, pin {certificate_pin(settings)}", flush=True)


def first_admin(master: Master) -> str | None:
    """Where there is no user yet: one that may do everything, and its one-time password. None where there is."""
    with master.engine.connect() as connection:
        if anybody(connection):
            return None
    password = one_time()
    password_hash = hashed(password)
    return password if master.writer.write(lambda tx: add_first(tx, password_hash)) else None


def admin_token(master: Master) -> Path:
    """The file with the first token, made at the first start and readable by its owner alone."""
    path = master.settings.data_dir / ADMIN_TOKEN
    if not path.exists():
        text = master.writer.write(lambda tx: make_token(tx, "admin"))
        reach("start.before_token")
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(text)
        fresh.replace(path)
    return path


class _Unfailing:
    """A stream that drops what it cannot take: a full disk under the log must not end the thread that complains of it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def configure_logs() -> None:
    """Lines for people on a terminal, JSON otherwise; everything to standard error."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(_Unfailing(sys.stderr)),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
