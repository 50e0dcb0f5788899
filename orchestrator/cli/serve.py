"""`orchestrator serve`: one master, over uvicorn."""

from __future__ import annotations

import gc
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import structlog
import uvicorn

from orchestrator.api.auth import make_token
from orchestrator.api.http import build
from orchestrator.app import Master
from orchestrator.faultpoints import reach
from orchestrator.settings import Settings

SWITCH_S = 0.0005  # the writer must not keep the event loop waiting for Python's default of 5 ms
ADMIN_TOKEN = "admin.token"  # noqa: S105 - the name of a file


def run(settings: Settings) -> None:
    """Serve until a signal. Raises StoreInUse, SchemaTooNew."""
    configure_logs()
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()  # what was imported stays: no collection need walk it again
    master = Master(settings)
    token = admin_token(master)
    app = build(master)
    reach("start.before_serve")
    print(f"Elastic Orchestrator at {settings.url}  (API token in {token})", flush=True)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        backlog=4096,
        # Agents' polls are open all the time: they need not be waited for, they come again.
        timeout_graceful_shutdown=2,
        ssl_certfile=str(settings.tls_cert) if settings.tls_cert else None,
        ssl_keyfile=str(settings.tls_key) if settings.tls_key else None,
    )


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
