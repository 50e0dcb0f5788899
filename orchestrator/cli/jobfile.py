"""A job file as commands are given it: read, made fit to send, and what is wrong in it told by file and line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.cli.client import Complaint, Refused


class Mistakes(Complaint):
    """What is wrong in a file, as compilers say it: `FILE:LINE: path: what is wrong; the fix`."""

    prefix = ""


class JobFile:
    """A file by its name; `-` is standard input."""

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def data(self) -> bytes:
        """Raises Complaint where it cannot be read."""
        try:
            return sys.stdin.buffer.read() if self.name == "-" else Path(self.name).read_bytes()
        except OSError as error:
            fix = "name a job file, or - for standard input"
            raise Complaint(f"{self.name}: cannot be read ({error.strerror}); {fix}") from error

    @cached_property
    def text(self) -> str:
        """Raises Complaint."""
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise Mistakes(f"{self.name}:1: $: is not UTF-8 ({error.reason}); save it so") from error

    @contextmanager
    def told(self) -> Iterator[None]:
        """What is refused inside is told with the lines of this file."""
        try:
            yield
        except Refused as error:
            if error.problems:
                raise self.mistakes(error.problems) from error
            raise

    def mistakes(self, problems: Sequence[tuple[str, str]]) -> Mistakes:
        from orchestrator.jobs.lines import report

        return Mistakes(*report(self.name, self.data.decode(errors="replace"), problems))

    def sendable(self) -> dict[str, Any]:
        """The document in it, as JSON can say it. Raises Mistakes."""
        document = self._read()
        if not isinstance(document, dict):
            raise self.mistakes([("$", "a job file is a mapping; begin with name:, client: and run: or tasks:")])
        try:
            if problems := list(_not_json("$", document)):
                raise self.mistakes(problems)
            json.dumps(document, allow_nan=False)
        except (ValueError, RecursionError) as error:
            raise self.mistakes([("$", f"cannot be sent ({error}); mend the file")]) from error
        return document

    def _read(self) -> Any:
        if self.data.lstrip()[:1] == b"{":
            with suppress(ValueError, RecursionError):
                return json.loads(self.data)
        from orchestrator.jobs.spec import SpecError, read

        try:
            return read(self.data)
        except SpecError as error:
            raise self.mistakes(error.problems) from error


def _not_json(path: str, value: object) -> Iterator[tuple[str, str]]:
    """What YAML can say and JSON cannot: most often a date that was meant as text."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_json(f"{path}.{key}", item)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _not_json(f"{path}[{i}]", item)
    elif isinstance(value, date | bytes | set):
        kind = type(value).__name__
        yield path.removeprefix("$."), f"{value!s:.40} is not text but a {kind}; put it in quotes"
