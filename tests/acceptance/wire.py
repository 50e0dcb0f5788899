"""A wire to a PostgreSQL server that can be cut: at once, or in the middle of a COMMIT."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy.engine import make_url

CutAt = Literal["before", "after"]


@dataclass
class _Cut:
    """Where the next cut is: at the COMMIT of the transaction in which these bytes were sent."""

    mark: bytes
    at: CutAt
    seen_on: set[int] = field(default_factory=set)


class Wire:
    """Listens on loopback and passes everything on to the server's socket. `url` is the database through it."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._upstream = f"{parsed.query['host']}/.s.PGSQL.{parsed.port or 5432}"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._cut: _Cut | None = None
        self.up = True
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        query = {"sslmode": "disable", "gssencmode": "disable"}
        through = parsed.set(host="127.0.0.1", port=port, query=query, drivername="postgresql")
        self.url = through.render_as_string(hide_password=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Every connection breaks, and no new one comes about."""
        self.up = False
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.up = True

    def cut_commit_of(self, mark: str, at: CutAt) -> None:
        """Break the connection on which `mark` is sent, just before its COMMIT reaches the server or just after."""
        self._cut = _Cut(mark.encode(), at)

    @property
    def was_cut(self) -> bool:
        return self._cut is None

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if not self.up:
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._upstream)
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._open |= {client, server}
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, target, source is client), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                cut = self._strikes(id(source), data) if up else None
                if cut == "before":
                    break
                target.sendall(data)
                if cut == "after":
                    target.shutdown(socket.SHUT_WR)  # the server does as it was told; nobody hears of it
                    source.shutdown(socket.SHUT_RDWR)
                    return
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source, target}

    def _strikes(self, connection: int, data: bytes) -> CutAt | None:
        cut = self._cut
        if cut is None:
            return None
        if cut.mark in data:
            cut.seen_on.add(connection)
        if connection in cut.seen_on and b"COMMIT" in data:
            self._cut = None
            return cut.at
        return None
