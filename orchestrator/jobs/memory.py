"""Amounts of memory as people write them: `512M`, `4G`, `1.5T`, or a number of megabytes; megabytes inside."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

MOST_MB = 1 << 30
_UNITS = {"": 1, "M": 1, "G": 1024, "T": 1024 * 1024}
_PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([MGT]?)(?:i?B)?", re.IGNORECASE)


def megabytes(value: Any) -> int:
    """Megabytes (of 2²⁰ bytes) of an amount, rounded up; ValueError with the accepted forms otherwise."""
    if isinstance(value, str) and (match := _PATTERN.fullmatch(value.strip())):
        value = float(match[1]) * _UNITS[match[2].upper()]
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MOST_MB:
        return math.ceil(value)
    raise ValueError(f"{value!r} is not an amount of memory; write one such as 512M or 4G")


_SCHEMA = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_MB},
        {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*[MmGgTt]?([Ii]?[Bb])?\s*$"},
    ],
    "description": "megabytes, or a number with M, G or T, such as 4G",
}
Memory = Annotated[int, BeforeValidator(megabytes), WithJsonSchema(_SCHEMA)]
