"""The examples of docs/jobs.md that say what they do: done by a real agent at a real master."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_master import AgentBox, until
from real_master import RealMaster, real_master

from orchestrator.model.states import TASK_OPEN
from orchestrator.model.tables import Attempt, Job, Task

pytestmark = pytest.mark.parametrize("store", ["sqlite"], indirect=True)
DOCS = Path(__file__).resolve().parents[2] / "docs"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def home(store: Any, tmp_path: Path) -> Iterator[RealMaster]:
    with real_master(store, tmp_path) as master:
        yield master


@pytest.fixture
def run(home: RealMaster, pyz: Path) -> Iterator[Run]:
    """Submit an example by its name, let it run to its end; its tasks by name."""
    boxes: list[AgentBox] = []

    def to_its_end(name: str) -> dict[str, Any]:
        job = home.store.submit(documented(name))
        if not boxes:
            boxes.append(home.machine(pyz)[1])
            boxes[0].start()

        def states() -> list[str]:
            return home.store.states(Task, job_id=job)

        until(lambda: not set(states()) & set(TASK_OPEN), 30, lambda: home.store.rows(Task, job_id=job))
        return {row.name: row for row in home.store.rows(Task, job_id=job)}

    yield to_its_end
    for box in boxes:
        box.close()


def documented(name: str) -> str:
    blocks = re.findall(r"```yaml\n(.*?)```", (DOCS / "jobs.md").read_text(), re.DOTALL)
    (document,) = [block for block in blocks if block.startswith(f"name: {name}\n")]
    return document


def logs(home: RealMaster, task: Any) -> list[str]:
    return [home.logs.read(attempt.id).decode() for attempt in home.store.rows(Attempt, task_id=task.id)]


def test_a_job_resumes_where_it_was(home: RealMaster, run: Run) -> None:
    (task,) = run("import-in-pieces").values()
    assert (task.state, task.attempts, task.job_failures) == ("succeeded", 3, 2)
    assert logs(home, task) == ["from 0\n", "from 1\n", "from 2\n"]


def test_outputs_reach_the_next_task(home: RealMaster, run: Run) -> None:
    tasks = run("count-and-tell")
    assert home.store.states(Job) == ["succeeded"]
    assert logs(home, tasks["tell"]) == ["12 rows of several\nlines\n"]


def test_conditions_decide_by_what_became_of_the_others(home: RealMaster, run: Run) -> None:
    tasks = run("load-or-mend")
    assert {name: task.state for name, task in tasks.items()} == {
        "load": "failed", "mend": "succeeded", "report": "skipped", "send": "skipped", "clean-up": "succeeded",
    }  # fmt: skip
    assert tasks["report"].skipped_because == tasks["send"].skipped_because == "condition"
    assert home.store.states(Job) == ["failed"]


def test_an_array_and_a_matrix_are_many_tasks(home: RealMaster, run: Run) -> None:
    tasks = run("shards")
    assert {task.state for task in tasks.values()} == {"succeeded"}
    assert logs(home, tasks["shard[2]"]) == ["shard 2 of 3\n"]
    builds = [logs(home, tasks[f"build[{i}]"]) for i in range(3)]
    assert builds == [["debian 3.11\n"], ["debian 3.12\n"], ["alpine 3.12\n"]]
    assert len(tasks) == 8
