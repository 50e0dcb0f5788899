"""The parameters that a job really has: client's, under the job file's, under the launch's; and where each came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from orchestrator.jobs.params import SHORTEST_SECRET, UNDECLARED, EnvName, EnvValue, Param, ParamValue
from orchestrator.jobs.spec import SpecError

Source = Literal["client", "template", "launch"]
PRECEDENCE: tuple[Source, ...] = ("client", "template", "launch")
"""Who is further on wins."""
MASK = "***"
MOST = 1000
Stored = str | dict[str, str]
"""A value as its row has it: text, or `{"secret": ciphertext}`."""

_name: TypeAdapter[str] = TypeAdapter(EnvName)
_value: TypeAdapter[str] = TypeAdapter(EnvValue)
_unstorable = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class OfClient:
    """One of a client's parameters; a secret one's `value` is encrypted."""

    name: str
    value: str
    secret: bool


@dataclass(frozen=True, slots=True)
class Effective:
    """A job's parameters as its row has them, and who said each."""

    values: dict[str, Stored]
    sources: dict[str, Source]


NONE = Effective({}, {})


def effective(
    declared: Mapping[str, Param],
    client: Iterable[OfClient],
    launch: Mapping[str, ParamValue],
    seal: Callable[[str], str],
) -> Effective:
    """Lay the three over each other. What any of them calls a secret is one. Raises SpecError naming each parameter that
    does not fit its type, or is required and said by nobody."""
    if problems := given_problems(launch):
        raise SpecError(problems)
    winners: dict[str, tuple[Source, ParamValue | OfClient]] = {param.name: ("client", param) for param in client}
    secrets = {param.name for _, param in winners.values() if isinstance(param, OfClient) and param.secret}
    secrets |= {name for name, param in declared.items() if param.secret}
    winners |= {name: ("template", param.default) for name, param in declared.items() if param.default is not None}
    winners |= {name: ("launch", value) for name, value in launch.items()}
    values: dict[str, Stored] = {}
    for name, (source, value) in winners.items():
        if isinstance(value, OfClient) and value.secret:
            values[name] = {"secret": value.value}
            continue
        try:
            text = declared.get(name, UNDECLARED).text(value.value if isinstance(value, OfClient) else value)
        except ValueError as error:
            problems.append((f"params.{name}", f"{error} (the {source} gives it)"))
            continue
        if name in secrets and (short := secret_problems(text)):
            problems += [(f"params.{name}", problem) for problem in short]
            continue
        values[name] = {"secret": seal(text)} if name in secrets else text
    for name, param in declared.items():
        if param.required and name not in winners:
            fix = f"launch with --param {name}=…, or keep it with `client params set`"
            problems.append((f"params.{name}", f"is required and nobody gives it; {fix}"))
    if problems:
        raise SpecError(problems)
    return Effective(values, {name: source for name, (source, _) in winners.items()})


def given_problems(params: Mapping[Any, Any]) -> list[tuple[str, str]]:
    """What is wrong with the names and values of a launch, whatever the job file says of them."""
    if len(params) > MOST:
        return [("params", f"a launch gives at most {MOST} parameters; leave some out")]
    problems = []
    for name, value in params.items():
        try:
            _name.validate_python(name)
        except ValidationError:
            problems.append((f"params.{name!s:.40}", "names no variable; letters, digits and _ make a name, such as DAY"))
            continue
        if not isinstance(value, str | bool | int | float):
            problems.append((f"params.{name}", "must be text, a number, true or false; write it so"))
        elif isinstance(value, str):
            problems += [(f"params.{name}", problem) for problem in text_problems(value)]
    return problems


def text_problems(text: str) -> list[str]:
    """Why no environment can hold it."""
    if _unstorable.search(text):
        return ["has a NUL byte or half a surrogate pair; remove it"]
    try:
        _value.validate_python(text)
    except ValidationError:
        return ["is longer than 32768 characters; hand it over in a file"]
    return []


def secret_problems(text: str) -> list[str]:
    if len(text) >= SHORTEST_SECRET:
        return []
    return [f"a secret has at least {SHORTEST_SECRET} characters, or logs could not be kept free of it; take a longer one"]


def kept_as(before: Stored | None, text: str, seal: Callable[[str], str]) -> Stored:
    """A value in the place of an earlier one: encrypted where that was. Raises SpecError for a secret too short to mask."""
    if before is None or isinstance(before, str):
        return text
    if problems := secret_problems(text):
        raise SpecError([("params", problem) for problem in problems])
    return {"secret": seal(text)}


def shown(value: Stored) -> str:
    """As people may see it."""
    return value if isinstance(value, str) else MASK
