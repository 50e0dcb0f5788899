"""The engine: one master on SQLite, aware times, waiting instead of failing."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from orchestrator.jobs.due import wake_due
from orchestrator.model.tables import Pool, Task
from orchestrator.store.engine import StoreInUse, lock_sqlite
from orchestrator.store.installation import installation_id

if TYPE_CHECKING:
    from conftest import Store


def test_sqlite_takes_one_master(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'deep' / 'o.db'}"
    held = lock_sqlite(url)
    assert held is not None
    with pytest.raises(StoreInUse, match=rf"pid {os.getpid()}.*ORCHESTRATOR_DATABASE_URL"):
        lock_sqlite(url)
    code = f"from orchestrator.store.engine import *; lock_sqlite({url!r})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StoreInUse" in other.stderr
    held.close()
    again = lock_sqlite(url)
    assert again is not None
    again.close()


def test_other_databases_need_no_lock() -> None:
    assert lock_sqlite("postgresql://nowhere/db") is None
    assert lock_sqlite("sqlite://") is None


def test_the_installation_is_named_once(store: Store) -> None:
    name = store.write(installation_id)
    assert name.startswith("eo-")
    assert store.write(installation_id) == name


def test_masters_that_start_together_agree_on_the_installation(masters: list[Store]) -> None:
    asked = [master.writer.submit(installation_id) for master in masters for _ in range(3)]
    assert len({future.result(10) for future in asked}) == 1


def test_times_come_back_aware_and_in_utc(store: Store) -> None:
    pool = store.pool()
    written = datetime(2026, 7, 1, 12, 30, 15, 123456, tzinfo=timezone(timedelta(hours=2)))
    store.force(Pool, pool, paused_at=written)
    read = store.one(Pool, pool).paused_at
    assert read == written
    assert read.tzinfo == UTC
    with pytest.raises(Exception, match="naive time"):
        store.force(Pool, pool, paused_at=written.replace(tzinfo=None))


def test_times_compare_in_the_database_as_they_do_here(store: Store) -> None:
    """SQLite keeps them as text: with and without microseconds they must still sort."""
    pool = store.pool()
    for micro in (0, 1, 999_999):
        at = datetime(2026, 7, 1, 12, 0, 0, micro, tzinfo=UTC)
        store.force(Pool, pool, paused_at=at)
        assert len(store.rows(Pool, paused_at=at)) == 1
        columns = Pool.__table__.c  # type: ignore[attr-defined]
        with store.engine.connect() as connection:
            earlier = columns.paused_at < at + timedelta(microseconds=1)
            assert connection.execute(columns.id.table.select().where(earlier)).all()
            assert not connection.execute(columns.id.table.select().where(columns.paused_at < at)).all()


def test_a_reader_does_not_wait_for_the_writer(store: Store) -> None:
    pool = store.pool()
    with store.engine.execution_options(writing=True).begin() as writing:
        writing.execute(text("UPDATE pool SET max_nodes = 99"))
        assert store.one(Pool, pool).max_nodes == 10
    assert store.one(Pool, pool).max_nodes == 99


def test_tasks_whose_time_has_come_wake_their_nodes(store: Store) -> None:
    heard: list[object] = []
    store.writer.listen(lambda _, queued: heard.append(dict(queued)))
    store.job(3, token="t")
    store.job()
    heard.clear()
    assert store.write(wake_due) is None
    for task, wait_s in ((1, 10), (2, 10), (3, 30)):
        store.force(Task, task, run_after=store.clock() + timedelta(seconds=wait_s))
    assert store.write(wake_due) == 10
    assert heard == []
    store.clock.move(10)
    assert store.write(wake_due) == 20
    assert heard == [{("acme/t", None): 2}]
