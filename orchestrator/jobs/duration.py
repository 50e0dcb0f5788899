"""Durations as people write them: `90`, `"90s"`, `"15m"`, `"2h"`, `"1d"`; seconds inside."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)")


def seconds(value: Any) -> float:
    """Seconds of a duration; ValueError with the accepted forms otherwise."""
    if isinstance(value, str) and (match := _PATTERN.fullmatch(value.strip())):
        value = float(match[1]) * _UNITS[match[2]]
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
        return float(value)
    raise ValueError(f"{value!r} is not a duration; write seconds, or a number with s, m, h or d, such as 15m")


Duration = Annotated[float, BeforeValidator(seconds)]
