"""What is removed when its time is over, and what never is, on both databases and both kinds of store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from orchestrator.clock import utc_now
from orchestrator.files.local import LocalFiles, LocalLogs
from orchestrator.files.retention import Retention
from orchestrator.files.s3 import Bucket, S3Files, S3Logs
from orchestrator.model.states import NodeState
from orchestrator.model.tables import Artifact, Attempt, Event, Task, table

DAY_S = 86400


@pytest.fixture(params=["local", "s3"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    if request.param == "local":
        return LocalLogs(tmp_path / "logs", 1000), LocalFiles(tmp_path / "artifacts")
    client = request.getfixturevalue("s3")
    bucket = Bucket("kept", f"{tmp_path.name}/", client.meta.endpoint_url)
    return S3Logs(bucket, 1000), S3Files(bucket)


def leave(store: Any, stores: tuple[Any, Any], tmp_path: Path, attempt: int) -> None:
    """A log and an artifact of this attempt."""
    logs, files = stores
    logs.append(attempt, 0, b"log")
    (tmp_path / "file").write_bytes(b"file")
    files.put(attempt, "a", tmp_path / "file")
    row = store.one(Attempt, attempt)
    job_id = store.one(Task, row.task_id).job_id
    values = {"job_id": job_id, "task_id": row.task_id, "attempt_id": attempt, "path": "a", "size": 4, "sha256": "0" * 64}
    store.write(lambda tx: tx.connection.execute(insert(table(Artifact)).values(**values, stored_at=tx.now)) and None)


def test_old_logs_and_artifacts_go_and_what_lives_or_is_young_stays(
    store: Any, stores: tuple[Any, Any], tmp_path: Path
) -> None:
    logs, files = stores
    store.clock.now = utc_now()  # as the stores' own clocks
    node = store.node(store.pool(), NodeState.READY, slots=4)
    store.job(3)
    old, live, young = store.claim(node, 3)
    store.report(node, old)
    for attempt in (old, live, young):
        leave(store, stores, tmp_path, attempt)
    logs.append(999, 0, b"of an attempt that no row knows")
    (tmp_path / "uploads").mkdir()
    for name, age_s in (("7-a-b", 2 * DAY_S), ("8-a-b", 60)):
        (tmp_path / "uploads" / name).touch()
        os.utime(tmp_path / "uploads" / name, (store.clock.now.timestamp() - age_s,) * 2)
    keep = Retention(
        store.writer, store.clock, logs, files, tmp_path / "uploads", log_days=30, artifact_days=10
    )  # fmt: skip

    keep.step()
    assert [logs.size(attempt) for attempt in (old, live, young)] == [3, 3, 3]
    assert [path.name for path in (tmp_path / "uploads").iterdir()] == ["8-a-b"]

    store.clock.move(11 * DAY_S)
    keep.step()
    assert logs.size(old) == 3, "logs have more time"
    store.clock.move(20 * DAY_S)
    store.report(node, young)
    for _ in range(2):
        keep.step()
    assert [logs.size(attempt) for attempt in (old, live, young, 999)] == [0, 3, 3, 0]
    assert [row.attempt_id for row in store.rows(Artifact)] == [live, young]
    assert b"".join(files.read(live, "a")) == b"file"
    told = [row.reason for row in store.rows(Event) if "were removed" in row.reason]
    assert told == [
        f"artifacts of 1 attempt(s), {old} to {old}, were removed: artifact_retention_days = 10",
        f"logs of 2 attempt(s), {old} to 999, were removed: log_retention_days = 30",
    ]
