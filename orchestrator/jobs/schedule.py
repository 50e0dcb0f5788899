"""When a template runs by itself: checked with the job file and kept with its version."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]"
_CRON = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)


def _written(form: str, example: str) -> Any:
    """Text of this form, or several in a list."""

    def check(value: object) -> object:
        if not isinstance(value, str) or not re.fullmatch(form, value):
            raise ValueError(f'is not understood; write "{example}", in quotes')
        return value

    one = Annotated[str, BeforeValidator(check)]
    listed = BeforeValidator(lambda value: value if isinstance(value, list) else [value])
    return Annotated[list[one], Field(min_length=1, max_length=100), listed]


def _cron(text: str) -> str:
    fields = text.split()
    if len(fields) != len(_CRON):
        raise ValueError(f'{text!r:.60} has {len(fields)} fields; write five, from minute to weekday, such as "0 5 * * *"')
    for field, (name, least, most, names) in zip(fields, _CRON, strict=True):
        if not all(_in_range(part, least, most, names) for part in field.lower().split(",")):
            raise ValueError(f"{field!r:.60} is no {name}; write *, {least}-{most}, a list, or */5")
    return " ".join(fields)


def _in_range(part: str, least: int, most: int, names: tuple[str, ...]) -> bool:
    """One part of a field: `*`, `5`, `1-5`, each perhaps with a step, `/2`."""
    value = rf"[0-9]{{1,2}}{''.join('|' + name for name in names)}"
    match = re.fullmatch(rf"(\*|({value})(?:-({value}))?)(?:/([1-9][0-9]?))?", part)
    if match is None:
        return False
    ends = [names.index(end) + least if end in names else int(end) for end in match.group(2, 3) if end]
    return all(least <= end <= most for end in ends) and ends == sorted(ends)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{name!r:.60} is no time zone; write one such as Europe/Paris or UTC") from None
    return name


class Schedule(BaseModel):
    """One of `daily`, `weekly`, `monthly`, `cron`, `at`; the first four by the clock of `timezone`.

    The words `now` (once, when it is committed) and `never` (only by hand, the default) are short for `{at: …}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: Literal["now", "never"] | None = None
    daily: _written(_TIME, "05:00") | None = None  # type: ignore[valid-type]
    weekly: _written(rf"({'|'.join(DAYS)}) {_TIME}", "mon 05:00") | None = None  # type: ignore[valid-type]
    monthly: _written(rf"([1-9]|[12][0-9]|3[01]|last) {_TIME}", "1 05:00") | None = None  # type: ignore[valid-type]
    cron: Annotated[str, AfterValidator(_cron)] | None = None
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"

    @model_validator(mode="before")
    @classmethod
    def _a_word_may_stand_alone(cls, data: Any) -> Any:
        if data in ("now", "never"):
            return {"at": data}
        if not isinstance(data, dict):
            raise ValueError('is no schedule; write now, never, or one such as {daily: "05:00", timezone: Europe/Paris}')
        return data

    @model_validator(mode="after")
    def _says_one_thing(self) -> Schedule:
        said = [name for name in ("at", "daily", "weekly", "monthly", "cron") if getattr(self, name) is not None]
        if len(said) != 1:
            told = f"says {' and '.join(said)}" if said else "does not say when"
            raise ValueError(f"{told}; write one of daily, weekly, monthly and cron")
        return self
