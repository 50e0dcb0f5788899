"""Takes one message to one place, once, whatever kind of place it is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from orchestrator.notify.answers import TryLater
from orchestrator.notify.mail import MailServer
from orchestrator.notify.message import Document, subject, text
from orchestrator.notify.webhook import Webhooks, signing_key
from orchestrator.settings import Settings

PORTS = {"starttls": 587, "tls": 465, "none": 25}


class Courier:
    """Knows the settings and the secrets; keeps nothing between two messages."""

    def __init__(self, settings: Settings, key: bytes, installation: str) -> None:
        self._settings = settings
        self._key = key
        self._installation = installation
        self._webhooks = Webhooks(settings.webhook_hosts)

    def id_of(self, number: int | str) -> str:
        """The id that a receiver knows this notification by, at every try."""
        return f"{self._installation}-{number}"

    def secret(self, client: str | None = None, name: str | None = None) -> str:
        """What signatures are checked with: the installation's secret, or a client's own by name."""
        given = self._settings.webhook_secret
        return signing_key(self._key, self._installation, given.get_secret_value() if given else None, client, name)

    async def deliver(self, place: Mapping[str, Any], client: str, document: Document, now: datetime) -> str:
        """What the receiver answered. Raises TryLater, GiveUp."""
        if url := place.get("webhook"):
            secret = self.secret(client, place.get("secret"))
            return await self._webhooks.post(url, secret, document["id"], document, now)
        server = self._mail_server()
        return await asyncio.to_thread(server.send, place["email"], document["id"], subject(document), text(document), now)

    def _mail_server(self) -> MailServer:
        settings = self._settings
        if settings.smtp_host is None or settings.mail_from is None:
            raise TryLater("no mail server is known; an operator may set smtp_host and mail_from")
        port = settings.smtp_port or PORTS[settings.smtp_tls]
        return MailServer(
            settings.smtp_host, port, settings.smtp_tls, settings.smtp_user, self._password, settings.mail_from
        )

    def _password(self) -> str:
        settings = self._settings
        if settings.smtp_password is not None:
            return settings.smtp_password.get_secret_value()
        if settings.smtp_password_file is None:
            raise TryLater("smtp_user has no password; set smtp_password or smtp_password_file")
        try:
            return settings.smtp_password_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise TryLater(f"smtp_password_file {settings.smtp_password_file} cannot be read ({error})") from error
