"""User data as a machine reads it at first boot: a `#cloud-config` or a `#!` script, gzipped or not.

Only what the product's own user data needs is understood, `write_files` and `runcmd`; the rest is named on the
console and left out, so that a typo is seen there as on a real machine.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import shlex
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

_SCRIPT = "/var/lib/cloud/instance/scripts/part-001"
_UNDERSTOOD = {"write_files", "runcmd"}


@dataclass(frozen=True, slots=True)
class File:
    """One file to write before anything runs; `path` is absolute as the guest sees it."""

    path: str
    content: bytes
    mode: int = 0o644
    append: bool = False


@dataclass(frozen=True, slots=True)
class Boot:
    """What a machine does at first boot: files, then commands in order; `remarks` go to the console."""

    files: tuple[File, ...] = ()
    commands: tuple[tuple[str, ...], ...] = ()
    remarks: tuple[str, ...] = ()


def read(user_data: bytes) -> Boot:
    """Understand raw user data. Never raises: a real machine boots with broken user data too, and only says so."""
    try:
        raw = gzip.decompress(user_data) if user_data[:2] == b"\x1f\x8b" else user_data
        return _read(raw)
    except (OSError, EOFError, zlib.error, yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        return Boot(remarks=(f"the user data cannot be read, nothing of it runs: {error}",))


def _read(raw: bytes) -> Boot:
    if not raw.strip():
        return Boot()
    first = raw.split(b"\n", 1)[0].strip()
    if first.startswith(b"#!"):
        return Boot(files=(File(_SCRIPT, raw, 0o700),), commands=((_SCRIPT,),))
    if first != b"#cloud-config":
        return Boot(remarks=(f"user data that begins with {first[:40]!r} is of no known kind and was left out",))
    config = yaml.load(raw, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}  # noqa: S506  (both are safe loaders)
    return Boot(
        files=tuple(_file(entry) for entry in config.get("write_files") or ()),
        commands=tuple(_command(entry) for entry in config.get("runcmd") or ()),
        remarks=tuple(f"{key}: is not done here" for key in config if key not in _UNDERSTOOD),
    )


def _file(entry: Mapping[str, object]) -> File:
    if not str(entry.get("path", "")).startswith("/"):
        raise ValueError(f"write_files: an absolute path is needed, not {entry.get('path')!r}")
    return File(
        path=str(entry["path"]),
        content=_content(entry.get("content", ""), str(entry.get("encoding", ""))),
        mode=int(str(entry.get("permissions", "0644")), 8),
        append=bool(entry.get("append", False)),
    )


def _content(content: object, encoding: str) -> bytes:
    raw = content if isinstance(content, bytes) else str(content).encode()
    steps = encoding.lower().replace("gzip", "gz").replace("base64", "b64")
    try:
        if "b64" in steps:
            raw = base64.b64decode(b"".join(raw.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"write_files: content is not base64: {error}") from error
    return gzip.decompress(raw) if steps.startswith("gz") else raw


def _command(entry: object) -> tuple[str, ...]:
    if isinstance(entry, str):
        return ("sh", "-c", entry)
    if isinstance(entry, list) and entry:
        return tuple(str(word) for word in entry)
    raise ValueError(f"runcmd: a string or a list of words is needed, not {entry!r}")


def write(boot: Boot, root: Path) -> None:
    """Write the files below `root`, the machine's own prefix. A path cannot lead out of it."""
    for file in boot.files:
        target = prefixed(file.path, root)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab" if file.append else "wb") as out:
            out.write(file.content)
        target.chmod(file.mode)


def prefixed(path: str, root: Path) -> Path:
    """Where the guest's absolute `path` lies on this host. Raises ValueError when it would leave the machine."""
    target = (root / path.lstrip("/")).resolve()
    if not target.is_relative_to(root.resolve()):
        raise ValueError(f"{path} leads out of the machine")
    return target


def moved(commands: Iterable[tuple[str, ...]], files: Iterable[File], root: Path) -> list[list[str]]:
    """The commands with every written file's path, as a word of its own, moved below `root`."""
    places = {file.path: str(prefixed(file.path, root)) for file in files}
    if not places:
        return [list(words) for words in commands]
    longest_first = sorted(places, key=len, reverse=True)
    word = re.compile(r"(?<![\w./-])(" + "|".join(map(re.escape, longest_first)) + r")(?![\w/-]|\.\w)")

    def move(argument: str) -> str:
        return places.get(argument) or word.sub(lambda match: shlex.quote(places[match[1]]), argument)

    return [[move(argument) for argument in words] for words in commands]
