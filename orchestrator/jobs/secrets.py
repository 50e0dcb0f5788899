"""Secrets at rest: encrypted in their rows by keys that stand in a file of their own, never in the database.

The file has one key a line, the newest first: it encrypts, all decrypt. It is made at the first use. Every use looks
whether the file has changed, so that a rotation needs no restart.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


class Unopenable(Exception):
    """A secret that no key in the file opens; the text says what brings it back."""


class Vault:
    """Encrypts and decrypts by the keys in this file. Thread-safe. `cryptography` is imported when there is a secret."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._loaded: tuple[tuple[int, int], MultiFernet] | None = None

    def seal(self, text: str) -> str:
        """The ciphertext, printable. Raises OSError where the key file can be neither read nor made."""
        return self._fernet().encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """The text. Raises Unopenable."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet(make=False).decrypt(sealed.encode()).decode()
        except FileNotFoundError:
            raise Unopenable(
                f"there is no key file {self.path}; bring back the one that was kept with the database"
            ) from None
        except (InvalidToken, ValueError):
            raise Unopenable(
                f"no key in {self.path} opens it; bring back the key it was encrypted with, or set it anew"
            ) from None

    def renew(self, sealed: str) -> str:
        """The same secret under the newest key. Raises Unopenable."""
        return self.seal(self.open(sealed))

    def rotate(self) -> None:
        """Put a new key in front of all others."""
        self._fernet()
        _write(self.path, [_new_key(), *self._keys()])

    def forget(self, keep: int) -> None:
        """Drop all keys but the newest `keep`."""
        _write(self.path, self._keys()[:keep])

    def _fernet(self, *, make: bool = True) -> MultiFernet:
        with self._lock:
            try:
                stamp = _stamp(self.path)
            except FileNotFoundError:
                if not make:
                    raise
                _make(self.path)
                stamp = _stamp(self.path)
            if self._loaded is None or self._loaded[0] != stamp:
                from cryptography.fernet import Fernet, MultiFernet

                self._loaded = stamp, MultiFernet([Fernet(key) for key in self._keys()])
            return self._loaded[1]

    def _keys(self) -> list[str]:
        return self.path.read_text().split()


def opened(params: Mapping[str, Any], vault: Vault) -> dict[str, str]:
    """The secrets among a job's stored parameters, in plain text. Raises Unopenable naming the parameter."""
    found = {}
    for name, value in params.items():
        if not isinstance(value, str):
            try:
                found[name] = vault.open(value["secret"])
            except Unopenable as error:
                raise Unopenable(f"secret parameter {name}: {error}") from error
    return found


def _make(path: Path) -> None:
    """The first key. Where several masters share the file, the first one's stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    _fill(fresh, [_new_key()])
    with suppress(FileExistsError):
        os.link(fresh, path)
    fresh.unlink()


def _write(path: Path, keys: list[str]) -> None:
    fresh = path.with_name(f"{path.name}.new")
    _fill(fresh, keys)
    fresh.replace(path)


def _fill(path: Path, keys: list[str]) -> None:
    """To the disk, before anything is encrypted with it, and for its owner alone."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    with path.open("w") as file:
        file.write("\n".join(keys) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _new_key() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ino
