"""Enrolment secrets and hashes. A launch's secret is derived, so it stands in no database and is the same after a crash."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def load_key(path: Path) -> bytes:
    """The master's key, made at the first start and readable by its owner alone."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.touch(mode=0o600)
        fresh.write_bytes(secrets.token_bytes(32))
        fresh.replace(path)
    return path.read_bytes()


def enrolment_secret(key: bytes, installation: str, launch_id: int) -> str:
    """What the machines of one launch enrol with, each once, until the boot deadline."""
    proof = hmac.new(key, f"enrol {installation} {launch_id}".encode(), hashlib.sha256).hexdigest()
    return f"{launch_id}.{proof}"


def launch_of(key: bytes, installation: str, secret: str) -> int | None:
    """The launch that this enrolment secret belongs to, or None for a wrong one."""
    number, _, _ = secret.partition(".")
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        return None
    expected = enrolment_secret(key, installation, int(number))
    return int(number) if hmac.compare_digest(expected.encode(), secret.encode()) else None
