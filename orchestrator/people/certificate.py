"""A certificate of our own, for `--tls self-signed`: machines and the command line trust it by its pin.

It is made for ten years and anew in the last month of them, at a start: machines pin it, and those that run when it
changes are lost to the master.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509

LASTS = timedelta(days=3650)
RENEWED_BEFORE = timedelta(days=30)


def ensure(certificate: Path, key: Path, hosts: Iterable[str], now: datetime) -> bool:
    """Make both files, readable by their owner alone, where they are missing or expire within a month. Whether it did."""
    if key.exists() and certificate.exists() and _good_until(certificate, key) - now > RENEWED_BEFORE:
        return False
    certificate.parent.mkdir(parents=True, exist_ok=True)
    made, secret = _make([*hosts, *_own_names()], now)
    for path, content in ((key, secret), (certificate, made)):
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_bytes(content)
        fresh.replace(path)
    return True


def _own_names() -> list[str]:
    return ["localhost", "127.0.0.1", "::1", socket.gethostname()]


def _good_until(certificate: Path, key: Path) -> datetime:
    """When it expires; long ago for what is no certificate, or that of another key: a crash came between the two files."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    never = datetime.min.replace(tzinfo=UTC) + RENEWED_BEFORE
    try:
        made, secret = (
            x509.load_pem_x509_certificate(certificate.read_bytes()),
            load_pem_private_key(key.read_bytes(), None),
        )
    except (ValueError, TypeError):
        return never
    return made.not_valid_after_utc if made.public_key() == secret.public_key() else never


def _make(hosts: list[str], now: datetime) -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Elastic Orchestrator")])
    names = [_general_name(host) for host in dict.fromkeys(hosts)]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LASTS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form, unlocked = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    return made.public_bytes(pem), key.private_bytes(pem, form, unlocked)


def _general_name(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
