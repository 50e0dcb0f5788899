"""Real receivers on loopback, an HTTP one and a mail server, and a sender with its store under the test's clock."""

from __future__ import annotations

import json
import ssl
import threading
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from aiosmtpd.handlers import Message
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

from orchestrator.model.tables import Pool
from orchestrator.notify.courier import Courier
from orchestrator.notify.sender import Sender
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from conftest import Store

KEY = b"k" * 32
USER, PASSWORD = "orchestrator", "correct horse"


@dataclass
class Got:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class Receiver:
    """An HTTP server that keeps what it gets. `answers` are given in order, the last one for ever: (status, headers)."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.got: list[Got] = []
        self.answers: list[tuple[int, dict[str, str]]] = [(204, {})]
        self.hold = threading.Event()
        self.hold.set()
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with receiver._lock:
                    receiver.got.append(Got(self.path, dict(self.headers.items()), body))
                    status, headers = receiver.answers[0]
                    if len(receiver.answers) > 1:
                        receiver.answers.pop(0)
                receiver.hold.wait(30)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Mailbox(Message):
    """Keeps the messages that a mail server took. `refuse`: what it answers to each recipient instead."""

    messages: list[EmailMessage] = field(default_factory=list)
    refuse: str | None = None
    port: int = 0

    def __post_init__(self) -> None:
        super().__init__(EmailMessage)

    async def handle_RCPT(self, _: Any, __: Session, envelope: Envelope, address: str, options: list[str]) -> str:  # noqa: N802
        if self.refuse is not None:
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    def prepare_message(self, _: Session, envelope: Envelope) -> Any:
        assert isinstance(envelope.content, bytes)
        return message_from_bytes(envelope.content, policy=policy.default)

    def handle_message(self, message: Any) -> None:
        self.messages.append(message)


def authenticated(_: Any, __: Session, ___: Envelope, mechanism: str, data: Any) -> AuthResult:
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=right, handled=right)


@dataclass
class Post:
    """A sender over the store, and short words for what tests do."""

    store: Store
    settings: Settings
    chance: float = 0.5

    @property
    def courier(self) -> Courier:
        return Courier(self.settings, KEY, "eo-test")

    def sender(self, writer: Any = None) -> Sender:
        store = self.store
        return Sender(
            writer or store.writer, store.engine, self.courier, store.clock, self.settings.url, lambda: self.chance
        )

    def step(self) -> float | None:
        return self.sender().step()

    def ended_job(self, *notify: dict[str, Any], exit_code: int = 0, **values: Any) -> int:
        """A job of one task that has just ended, on a node that can run it."""
        pools = self.store.rows(Pool)
        node = self.store.node(pools[0].id if pools else self.store.pool())
        job = self.store.job(notify=list(notify), **values)
        self.store.run_one(node, exit_code=exit_code)
        return job
