"""Lines of a log: the first ones, the last ones, those with a text in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.files.base import LogStore

BLOCK = 256 << 10
SHOWN = 500  # letters of a line with a match


@dataclass(frozen=True, slots=True)
class Match:
    """A line with the text in it: its number from 1 on, the offset of its first byte, and its text, or a part of it."""

    line: int
    offset: int
    text: str


def end_of_head(store: LogStore, attempt_id: int, lines: int) -> int:
    """The offset behind the first so many lines."""
    at = 0
    while block := store.read(attempt_id, at, BLOCK):
        feeds = block.count(b"\n")
        if feeds >= lines:
            return at + _behind_line(block, lines)
        lines -= feeds
        at += len(block)
    return at


def start_of_tail(store: LogStore, attempt_id: int, lines: int) -> int:
    """The offset at which the last so many lines begin. A last line need not have ended."""
    at = store.size(attempt_id)
    if at and store.read(attempt_id, at - 1, 1) == b"\n":
        lines += 1  # the feed at the very end begins no line
    while at > 0:
        start = max(0, at - BLOCK)
        block = store.read(attempt_id, start, at - start)
        feeds = block.count(b"\n")
        if feeds >= lines:
            return start + _behind_line(block, feeds - lines + 1)
        lines -= feeds
        at = start
    return 0


def search(store: LogStore, attempt_id: int, text: str, most: int) -> list[Match]:
    """Lines with this text, whatever the case of its ASCII letters; the first `most` of them."""
    wanted = text.encode().lower()
    found: list[Match] = []
    for line, offset, content in _lines_with(store, attempt_id, wanted):
        if len(found) == most:
            break
        at = content.lower().find(wanted)
        part = content[max(0, at - SHOWN // 2) :][:SHOWN] if len(content) > SHOWN else content
        found.append(Match(line, offset, part.decode(errors="replace").rstrip("\r")))
    return found


def _lines_with(store: LogStore, attempt_id: int, wanted: bytes) -> Iterator[tuple[int, int, bytes]]:
    line, at, rest = 1, 0, b""
    while block := store.read(attempt_id, at + len(rest), BLOCK):
        block = rest + block
        whole = block.rfind(b"\n") + 1
        if not whole and len(block) > 4 * BLOCK:  # no line of a person's: what is not found in this part is passed over
            whole = len(block)
        if wanted in block[:whole].lower():
            yield from _split(line, at, block[:whole], wanted)
        line += block.count(b"\n", 0, whole)
        at += whole
        rest = block[whole:]
    if wanted in rest.lower():
        yield line, at, rest


def _split(line: int, at: int, block: bytes, wanted: bytes) -> Iterator[tuple[int, int, bytes]]:
    for number, content in enumerate(block.split(b"\n"), line):
        if wanted in content.lower():
            yield number, at, content
        at += len(content) + 1


def _behind_line(block: bytes, line: int) -> int:
    at = 0
    for _ in range(line):
        at = block.index(b"\n", at) + 1
    return at
