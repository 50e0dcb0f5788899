"""Secrets on their way: opened for the one order that needs them, and kept out of the log that comes back.

A masked byte becomes `*`, so that offsets stay what they are at the agent. A value may be split between two calls. So the
end of a chunk that could begin a value is masked at once, and what goes on after stored `*` as a value would, is too. Both
need only what is stored: they hold over a restart of the master, between masters, and for a chunk that comes again. The
price is a byte or more of another meaning that shows as `*` where a chunk happens to end with a value's first letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Engine, select

from orchestrator.files.base import LogStore
from orchestrator.jobs.params import SHORTEST_SECRET
from orchestrator.jobs.secrets import Unopenable, Vault, opened
from orchestrator.model.tables import Attempt, Job, Task, table

Order = dict[str, Any]
jobs, tasks, attempts = table(Job), table(Task), table(Attempt)
MOST = 100_000
"""Attempts remembered; who is forgotten is looked up again."""

EVERYTHING = (b"",)
"""Without their key the values are not known: the rest of the log is masked whole."""


class Masks:
    """Which values are to be kept out of which attempt's log. Most have none, and cost a look into a dictionary."""

    def __init__(self, engine: Engine, vault: Vault, logs: LogStore) -> None:
        self._engine = engine
        self._vault = vault
        self._logs = logs
        self._values: dict[int, tuple[bytes, ...]] = {}

    def open(self, order: Order) -> Order:
        """The order with its secrets in plain text. Raises Unopenable."""
        env = order["env"]
        if all(isinstance(value, str) for value in env.values()):
            self._note(order["attempt"], ())
            return order
        secrets = opened(env, self._vault)
        self._note(order["attempt"], to_mask(secrets.values()))
        return {**order, "env": {**env, **secrets}}

    def masked(self, attempt_id: int, offset: int, data: bytes) -> bytes:
        """The chunk as it may be stored at this offset, of the same length. Reads the database for an order that another
        process made, and the store where there are secrets."""
        values = self._values.get(attempt_id)
        if values is None:
            values = self._look_up(attempt_id)
        if not values or not data:
            return data
        if values == EVERYTHING:
            return b"*" * len(data)
        longest = max(map(len, values)) - 1
        before = self._logs.read(attempt_id, max(0, offset - longest), min(longest, offset))
        return mask(values, before, data)

    def forget(self, attempt_ids: Iterable[int]) -> None:
        for id_ in attempt_ids:
            self._values.pop(id_, None)

    def _look_up(self, attempt_id: int) -> tuple[bytes, ...]:
        query = select(jobs.c.params).join(tasks, tasks.c.job_id == jobs.c.id)
        query = query.join(attempts, attempts.c.task_id == tasks.c.id).where(attempts.c.id == attempt_id)
        with self._engine.connect() as connection:
            params = connection.execute(query).scalar() or {}
        try:
            values = to_mask(opened(params, self._vault).values())
        except Unopenable:
            values = EVERYTHING
        self._note(attempt_id, values)
        return values

    def _note(self, attempt_id: int, values: tuple[bytes, ...]) -> None:
        if len(self._values) >= MOST:  # attempts that were lost are never acknowledged
            self._values.pop(next(iter(self._values)), None)
        self._values[attempt_id] = values


def to_mask(secrets: Iterable[str]) -> tuple[bytes, ...]:
    """The values and, of those of several lines, each line: programs print them one by one. Longest first."""
    found = {secret for secret in secrets if secret}
    lines = {line.strip() for secret in found for line in secret.splitlines()}
    found |= {line for line in lines if len(line) >= SHORTEST_SECRET}
    return tuple(sorted((secret.encode() for secret in found), key=lambda value: (-len(value), value)))


def mask(values: Sequence[bytes], before: bytes, data: bytes) -> bytes:
    """`data` with `*` for each byte that belongs to one of the values, given what was stored `before` it."""
    out = bytearray(data)
    stars = len(before) - len(before.rstrip(b"*"))
    for value in values:
        for begun in range(1, min(stars, len(value) - 1) + 1):  # how much of it may be stored already
            rest = value[begun : begun + len(data)] if value[begun] == data[0] else b""
            if rest and data.startswith(rest):
                out[: len(rest)] = b"*" * len(rest)
        for at in _places(data, value):
            out[at : at + len(value)] = b"*" * len(value)
        for at in _places(data, value[:1], max(0, len(data) - len(value) + 1)):  # how much may be its beginning
            if value.startswith(data[at:]):
                out[at:] = b"*" * (len(data) - at)
                break
    return bytes(out)


def _places(data: bytes, part: bytes, at: int = 0) -> Iterator[int]:
    while (at := data.find(part, at)) >= 0:
        yield at
        at += 1
