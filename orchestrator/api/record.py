"""The record of calls: each that changes something, and each that is refused for who calls, as an event `request`.

The change itself has its own event in its own transaction, with the same actor; this one tells what was asked, from where,
and how it ended, also where nothing came of it. A submission is told by its job's event, which names the address too.
"""

from __future__ import annotations

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.agents.refusals import Refusals
from orchestrator.api.auth import READS
from orchestrator.clock import Clock
from orchestrator.store.writer import Tx, Writer

LONGEST = 300
UNKNOWN_CALLER = (401, 403, 429)
log = structlog.get_logger(__name__)


class Record:
    """Writes the events. The same refusal of one address and caller (or claimed name) is told once a minute."""

    def __init__(self, writer: Writer, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        self._refusals = Refusals()

    async def keep(self, scope: Scope, status: int) -> None:
        """Called on the event loop, before the answer leaves. A database in trouble keeps no answer back."""
        address = address_of(scope)
        state = scope.get("state", {})
        actor = state["who"].actor if "who" in state else "nobody"
        kind = (address, actor, status, state.get("claimed"))
        if status >= 400 and not self._refusals.deserves(kind, scope, self._clock()):
            return
        query = scope["query_string"].decode("latin-1")
        asked = f"{scope['method']} {scope['path']}{'?' if query else ''}{query}"[:LONGEST]
        claimed = f" as {state['claimed']!r}" if "claimed" in state else ""

        def tell(tx: Tx) -> None:
            tx.tell("request", 0, f"{_plain(asked)}{claimed}: {status}", detail=f"from {address}", actor=actor)

        try:
            await self._writer.awrite(tell)
        except Exception as error:
            log.warning("a call is not on record", asked=asked, actor=actor, status=status, exc_info=error)


class Recorded:
    """An application whose calls are recorded."""

    def __init__(self, inner: ASGIApp, record: Record) -> None:
        self._inner = inner
        self._record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._inner(scope, receive, send)
            return
        scope.setdefault("state", {})

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                if scope["method"] not in READS or status in UNKNOWN_CALLER:
                    await self._record.keep(scope, status)
            await send(message)

        await self._inner(scope, receive, sending)


def address_of(scope: Scope) -> str:
    """The address that calls, behind the proxies that are trusted."""
    return str(scope["client"][0]) if scope.get("client") else "a local socket"


def _plain(text: str) -> str:
    """Without what would break a line or a terminal, and NUL, which PostgreSQL refuses."""
    return "".join(character if character.isprintable() else "?" for character in text)
