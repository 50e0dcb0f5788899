"""Parameters of a job file: what each is called, what may stand in it, and what it is when nobody says otherwise.

A parameter is text in the end, for it becomes a variable of the task's environment. Its type only says which text is taken:
`5` for an integer, `true` or `false` for a boolean.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
EnvValue = Annotated[str, StringConstraints(max_length=32_768)]
ParamValue = str | int | float | bool
"""What a launch may give; it is stored as text."""

SHORTEST_SECRET = 4
"""Characters. A shorter value would be masked wherever its letters happen to stand, or could not be masked."""


class Param(BaseModel):
    """One declared parameter. Plain text is short for `{default: "that text"}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text", "integer", "number", "boolean", "choice"] = "text"
    default: EnvValue | None = None
    required: bool = False
    choices: list[EnvValue] | None = None
    secret: bool = False
    description: Annotated[str, StringConstraints(max_length=2000)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain_text_is_its_default(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"default": data}
        if not isinstance(data, dict):
            raise ValueError("is no valid string; put it in quotes, or say its type: {type: integer, default: 5}")
        default, kind = data.get("default"), data.get("type", "text")
        if isinstance(default, bool | int | float) and kind in ("integer", "number", "boolean"):
            return {**data, "default": _worded(default)}
        return data

    @model_validator(mode="after")
    def _holds_together(self) -> Param:
        if (self.type == "choice") != bool(self.choices):
            raise ValueError("choices belong to type: choice, and it needs them; write {type: choice, choices: [a, b]}")
        if self.secret and self.type != "text":
            raise ValueError("a secret is text; remove type")
        if self.secret and self.default is not None:
            raise ValueError("a secret has no default in the file; remove it, and use `client params set --secret`")
        if self.default is not None:
            try:
                self.text(self.default)
            except ValueError as error:
                raise ValueError(f"default {error}") from None
        return self

    def text(self, value: ParamValue) -> str:
        """The value as the task's environment has it. Raises ValueError saying which values are taken."""
        text = _worded(value)
        if self.type == "integer" and not re.fullmatch(r"[+-]?[0-9]{1,40}", text):
            raise ValueError(f"{_shown(text)} is no integer; write one such as 5")
        if self.type == "number" and not _is_number(text):
            raise ValueError(f"{_shown(text)} is no number; write one such as 0.5")
        if self.type == "boolean" and text not in ("true", "false"):
            raise ValueError(f"{_shown(text)} is no boolean; write true or false")
        if self.type == "choice" and text not in (self.choices or ()):
            raise ValueError(f"{_shown(text)} is none of its choices; write one of {', '.join((self.choices or [])[:20])}")
        return text


UNDECLARED = Param()
"""How a parameter is taken that the job file does not speak of."""


def _worded(value: ParamValue) -> str:
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and text.strip() == text and "_" not in text
    except ValueError:
        return False


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")
