"""Real receivers on loopback, an HTTP one and a mail server, and a sender with its store under the test's clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
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
