"""E-mail by the operator's own server: plain text, from fields that cannot hold a line break."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.notify.answers import GiveUp, TryLater

if TYPE_CHECKING:
    import smtplib
    from email.message import EmailMessage

SMTP_S = 20.0


@dataclass(frozen=True)
class MailServer:
    """How to reach it. `password` is asked for at each message: a file of it may be renewed."""

    host: str
    port: int
    tls: str
    user: str | None
    password: Callable[[], str]
    sender: str

    def send(self, to: str, message_id: str, subject: str, text: str, now: datetime) -> str:
        """Hand one message over; what the server said. Raises TryLater, GiveUp."""
        import smtplib

        message = self._message(to, message_id, subject, text, now)
        try:
            with self._connected() as smtp:
                if self.user is not None:
                    smtp.login(self.user, self.password())
                smtp.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            code, told = error.recipients[to]
            raise _refused(self.host, code, told) from error
        except (smtplib.SMTPAuthenticationError, smtplib.SMTPSenderRefused) as error:
            refusal = f"{self.host} refuses us ({error.smtp_code} {_text(error.smtp_error)})"
            raise TryLater(f"{refusal}; check smtp_user, its password and mail_from") from error
        except smtplib.SMTPResponseException as error:
            raise _refused(self.host, error.smtp_code, error.smtp_error) from error
        except (smtplib.SMTPException, OSError) as error:
            raise TryLater(f"{self.host}:{self.port} does not take mail ({error or type(error).__name__})") from error
        return f"{self.host} took it"

    def _connected(self) -> smtplib.SMTP:
        import smtplib
        import ssl

        if self.tls == "tls":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=SMTP_S, context=ssl.create_default_context())
        smtp = smtplib.SMTP(self.host, self.port, timeout=SMTP_S)
        if self.tls == "starttls":
            try:
                smtp.starttls(context=ssl.create_default_context())
            except BaseException:
                with suppress(OSError):
                    smtp.close()
                raise
        return smtp

    def _message(self, to: str, message_id: str, subject: str, text: str, now: datetime) -> EmailMessage:
        from email.message import EmailMessage
        from email.utils import format_datetime

        message = EmailMessage()
        # The library refuses line breaks in any of these; what is in them cannot hold one in the first place.
        message["From"] = self.sender
        message["To"] = to
        message["Subject"] = subject
        message["Date"] = format_datetime(now)
        message["Message-ID"] = f"<{message_id}@{self.sender.rpartition('@')[2].rstrip('>')}>"  # the same at each try
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text)
        return message


def _refused(host: str, code: int, told: bytes | str) -> TryLater | GiveUp:
    """A 4yz answer asks for patience, a 5yz stays one."""
    reason = f"{host} answered {code} {_text(told)}"
    return GiveUp(reason) if code >= 500 else TryLater(reason)


def _text(told: bytes | str) -> str:
    text = told.decode(errors="replace") if isinstance(told, bytes) else told
    return " ".join(text.split())[:200]
