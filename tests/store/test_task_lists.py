"""Lists of tasks: a page at a time, by name and state, and counted by the names in the job file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.model.tables import Task
from orchestrator.store import queries

if TYPE_CHECKING:
    from conftest import Store


def test_a_large_job_is_counted_and_paged(store: Store) -> None:
    tasks = [
        {"name": "step1", "run": "true"},
        {"name": "s_x", "run": "true", "array": 12},
        {"name": "sax", "run": "true", "array": "8-10", "needs": ["step1"]},
        {"name": "end.2", "run": "true", "needs": ["s_x"]},
    ]
    job = store.submit({"name": "j", "client": "acme", "tasks": tasks})
    store.job()
    node = store.node(store.pool())
    store.run_one(node)
    store.run_one(node, exit_code=1)
    store.claim(node)
    store.force(Task, store.rows(Task, name="s_x[1]")[0].id, progress=0.5)
    with store.engine.connect() as connection:
        assert queries.summary_of_tasks(connection, job) == [
            {"name": "step1", "tasks": 1, "states": {"succeeded": 1}, "progress": 1.0},
            {"name": "s_x", "tasks": 12, "states": {"failed": 1, "running": 1, "queued": 10}, "progress": 1.5 / 12},
            {"name": "sax", "tasks": 3, "states": {"queued": 3}, "progress": 0.0},
            {"name": "end.2", "tasks": 1, "states": {"skipped": 1}, "progress": 1.0},
        ]
        of_array = queries.list_tasks(connection, job, 100, name="s_x")
        assert len(of_array) == 12, "and none of sax, though _ is any letter to LIKE"
        assert [row["name"] for row in queries.list_tasks(connection, job, 100, name="s_x[3]")] == ["s_x[3]"]
        assert [row["name"] for row in queries.list_tasks(connection, job, 100, state="failed")] == ["s_x[0]"]
        first = queries.list_tasks(connection, job, 3, state="queued")
        rest = queries.list_tasks(connection, job, 100, after=first[-1]["id"], state="queued")
        assert len({row["id"] for row in first + rest}) == 13
        assert of_array[0]["node_id"] == of_array[1]["node_id"] == node and of_array[2]["node_id"] is None
