"""Receivers and a sender for each test."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller
from certificates import self_signed
from receiver import Receiver
from receivers import PASSWORD, USER, Mailbox, Post, authenticated

from orchestrator.demo.stage import free_port
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from conftest import Store


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    opened = Receiver()
    yield opened
    opened.close()


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's certificate for 127.0.0.1, which this process trusts as its host's administrator would have it."""
    pem, key = self_signed(tmp_path, "receiver")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    return context


@pytest.fixture
def secure_receiver(certificate: ssl.SSLContext) -> Iterator[Receiver]:
    opened = Receiver(certificate)
    yield opened
    opened.close()


@pytest.fixture
def mailbox(certificate: ssl.SSLContext) -> Iterator[Mailbox]:
    """A mail server that takes nothing without STARTTLS and a password."""
    box = Mailbox()
    options = {"tls_context": certificate, "require_starttls": True, "auth_required": True, "authenticator": authenticated}
    box.port = free_port(0)
    controller = Controller(box, hostname="127.0.0.1", port=box.port, **options)
    controller.start()
    yield box
    controller.stop()


@pytest.fixture
def post(store: Store, tmp_path: Path) -> Post:
    return Post(store, Settings(data_dir=tmp_path))


@pytest.fixture
def mail_settings(mailbox: Mailbox, tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a master that sends by the mailbox's server."""
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")

    def made(**more: Any) -> Settings:
        values = {"smtp_host": "127.0.0.1", "smtp_port": mailbox.port, "smtp_user": USER, "smtp_password_file": secret}
        return Settings(data_dir=tmp_path, **{**values, "mail_from": "orchestrator@example.org", **more})

    return made
