"""What can be learnt of a URL from here, without credentials: whom its host stands for, what answers, its certificate."""

from __future__ import annotations

import socket
import ssl
from datetime import datetime, timedelta
from email.message import Message
from http.client import HTTPConnection, HTTPSConnection
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from providers.base import Finding, Verdict

Address = IPv4Address | IPv6Address
TIMEOUT_S = 5
CERTIFICATE_DUE = timedelta(days=14)


def addresses(url: str) -> list[Address]:
    """What the host of this URL stands for here; empty where it cannot be looked up."""
    try:
        host = urlsplit(url).hostname
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else []
    except (OSError, ValueError):
        return []
    return [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def ask(method: str, url: str) -> tuple[Message, bytes]:
    """Headers and body of whatever answers, with any status. Raises OSError, HTTPException, ValueError.

    Whom to trust is not judged here: agents pin a certificate, and SDKs have their own authorities.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        anyone = ssl._create_unverified_context()  # noqa: S323
        connection: HTTPConnection = HTTPSConnection(host, parts.port, timeout=TIMEOUT_S, context=anyone)
    else:
        connection = HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
    try:
        connection.request(method, parts.path or "/")
        answer = connection.getresponse()
        return answer.headers, answer.read(65_536)
    finally:
        connection.close()


def shown_certificate(url: str) -> str:
    """The certificate (PEM) that this https URL shows. Raises OSError, ValueError."""
    parts = urlsplit(url)
    return ssl.get_server_certificate((parts.hostname or "", parts.port or 443), timeout=TIMEOUT_S)


def expiry(pem: str, name: str, now: datetime, fix: str) -> Finding:
    """What the certificate's last day means today. Raises ValueError where it is none."""
    from cryptography import x509

    last = x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
    if last <= now:
        return Finding("certificate", Verdict.WRONG, f"{name} expired on {last:%Y-%m-%d %H:%M} UTC; {fix}")
    if last - now < CERTIFICATE_DUE:
        return Finding("certificate", Verdict.WARNING, f"{name} expires on {last:%Y-%m-%d %H:%M} UTC; {fix}")
    return Finding("certificate", Verdict.OK, f"{name} holds until {last:%Y-%m-%d}")
