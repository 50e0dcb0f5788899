"""Whole lists out of pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ..base import Unavailable
from .errors import PARAMETER, Refusal

PAGE_SIZES = (500, 100, 20, 5)  # servers allow 500 unless told otherwise


class Lists:
    """The lists of one account."""

    def __init__(self, timed: Callable[..., tuple[dict[str, Any], datetime]]) -> None:
        self._timed = timed
        self._page_size = PAGE_SIZES[0]

    def all(self, command: str, noun: str, params: Mapping[str, str]) -> list[dict[str, Any]]:
        return self.timed(command, noun, params)[0]

    def timed(self, command: str, noun: str, params: Mapping[str, str]) -> tuple[list[dict[str, Any]], datetime]:
        """Every row, and the server's time. Raises Unavailable where rows are missing: half a list must not look like one.

        Rows are in the order they were made, and move forward when one before them goes. Read from the last page to the
        first, none is missed; one that moved is seen twice. A row that is made meanwhile may be missing, as ever.
        """
        size, first, now = self._first(command, params)
        total = int(first.get("count", 0))
        pages = -(-total // size)
        found = first.get(noun, []) if pages <= 1 else []
        for page in [*range(pages, 1, -1), 1] if pages > 1 else []:
            answer, now = self._timed(command, {**params, "page": str(page), "pagesize": str(size)})
            found = [*found, *answer.get(noun, [])]
            total = min(total, int(answer.get("count", 0)))
        rows = {_key(row): row for row in found}
        if len(rows) < total:
            raise Unavailable(f"CloudStack gave {len(rows)} of {total} rows of {command}; it is asked again")
        return list(rows.values()), now

    def _first(self, command: str, params: Mapping[str, str]) -> tuple[int, dict[str, Any], datetime]:
        """The first page, and its size. A server that allows no such page says only that a parameter is wrong."""
        sizes = [size for size in PAGE_SIZES if size <= self._page_size]
        for size in sizes:
            try:
                answer, now = self._timed(command, {**params, "page": "1", "pagesize": str(size)})
            except Refusal as refusal:
                if refusal.code != PARAMETER or size == sizes[-1]:
                    raise
            else:
                self._page_size = size
                return size, answer, now
        raise AssertionError("there is always a smallest page")


def _key(row: dict[str, Any]) -> tuple[Any, Any]:
    """A template in several zones has a row for each; key pairs had no id before 4.17."""
    return row.get("id") or row.get("name"), row.get("zoneid")
