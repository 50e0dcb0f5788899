"""What is kept has its time: logs and artifacts of attempts that ended long ago are removed, and an event says so."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, or_, select

from orchestrator.clock import Clock
from orchestrator.files.base import Kept
from orchestrator.model.states import AttemptState
from orchestrator.model.tables import Artifact, Attempt, table
from orchestrator.store.writer import Tx, Writer

artifacts, attempts = table(Artifact), table(Attempt)

LOOK_S = 3600.0
BATCH = 200  # attempts of one event
UPLOAD_S = 86400.0  # a piece of a file that nobody went on with for so long


class Retention:
    """`step` is one pass. Files go first: what a crash leaves is a row whose file is gone, and the next pass finds it."""

    def __init__(
        self, writer: Writer, clock: Clock, logs: Kept, files: Kept, uploads: Path, *, log_days: float, artifact_days: float
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._uploads = uploads
        self._kinds: tuple[tuple[Kept, float, str, str], ...] = (
            (logs, log_days, "logs", "log_retention_days"),
            (files, artifact_days, "artifacts", "artifact_retention_days"),
        )

    def step(self) -> None:
        for store, days, what, setting in self._kinds:
            if days:
                self._clear(store, self._clock() - timedelta(days=days), what, f"{setting} = {days:g}")
        for piece in self._uploads.glob("*"):
            if piece.stat().st_mtime < time.time() - UPLOAD_S:
                piece.unlink(missing_ok=True)

    def _clear(self, store: Kept, moment: datetime, what: str, setting: str) -> None:
        for batch in _batches(store.last_written_before(moment), BATCH):
            over = self._writer.write(_over(batch, moment))
            for attempt_id in over:
                store.remove(attempt_id)
            if over:
                self._writer.write(_removed(over, what, setting))


def _over(attempt_ids: list[int], moment: datetime) -> Callable[[Tx], list[int]]:
    """Those that no live or younger attempt has; one without a row is of a database that was restored."""

    def work(tx: Tx) -> list[int]:
        young = or_(attempts.c.state == AttemptState.RUNNING, attempts.c.finished_at >= moment)
        kept = tx.connection.execute(select(attempts.c.id).where(attempts.c.id.in_(attempt_ids), young)).scalars()
        return sorted(set(attempt_ids) - set(kept))

    return work


def _removed(attempt_ids: list[int], what: str, setting: str) -> Callable[[Tx], None]:
    def work(tx: Tx) -> None:
        if what == "artifacts":
            tx.connection.execute(delete(artifacts).where(artifacts.c.attempt_id.in_(attempt_ids)))
        told = f"{what} of {len(attempt_ids)} attempt(s), {attempt_ids[0]} to {attempt_ids[-1]}"
        tx.tell("installation", 0, f"{told}, were removed: {setting}")

    return work


def _batches(found: Iterable[int], size: int) -> Iterator[list[int]]:
    found = iter(found)
    while batch := list(itertools.islice(found, size)):
        yield batch
