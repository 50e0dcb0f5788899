"""Passwords: kept as argon2id hashes. The library is loaded when the first password is looked at, not at the start."""

from __future__ import annotations

import secrets
import threading
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pwdlib import PasswordHash

SHORTEST, LONGEST = 10, 1000  # characters
MEMORY_KIB, PASSES = 19_456, 2  # OWASP's least for one lane: 19 MiB and some 30 ms a look
_one_at_a_time = threading.Lock()  # so a flood of logins costs no more memory than one


def hashed(password: str) -> str:
    with _one_at_a_time:
        return _argon2().hash(_normal(password))


def fits(password: str, password_hash: str | None) -> bool:
    """Whether it is the password of this hash. For nobody's hash (None) it takes as long, and it is not."""
    with _one_at_a_time:
        return _argon2().verify(_normal(password), password_hash or _nobodys()) and password_hash is not None


def one_time() -> str:
    """A password of 128 bits that a person can type."""
    return "-".join(secrets.token_hex(4) for _ in range(4))


def _normal(password: str) -> str:
    """The same characters give the same bytes, whichever keyboard composed them."""
    return unicodedata.normalize("NFC", password)


@cache
def _argon2() -> PasswordHash:
    from pwdlib import PasswordHash
    from pwdlib.hashers.argon2 import Argon2Hasher

    return PasswordHash((Argon2Hasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=1),))


@cache
def _nobodys() -> str:
    return _argon2().hash(secrets.token_hex(16))
