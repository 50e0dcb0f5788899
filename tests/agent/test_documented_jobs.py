"""The examples of docs/jobs.md that say what they do: done by a real agent at a real master."""

from __future__ import annotations

import re
import shutil
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
def start(home: RealMaster, pyz: Path) -> Iterator[Callable[[], None]]:
    """Boots the machine with the agent."""
    boxes: list[AgentBox] = []

    def boot() -> None:
        boxes.append(home.machine(pyz)[1])
        boxes[0].start()

    yield boot
    for box in boxes:
        box.close()


@pytest.fixture
def run(home: RealMaster, start: Callable[[], None]) -> Run:
    """Submit an example by its name, let it run to its end; its tasks by name."""

    def to_its_end(name: str) -> dict[str, Any]:
        job = home.store.submit(documented(name))
        start()

        def states() -> list[str]:
            return home.store.states(Task, job_id=job)

        until(lambda: not set(states()) & set(TASK_OPEN), 30, lambda: home.store.rows(Task, job_id=job))
        return {row.name: row for row in home.store.rows(Task, job_id=job)}

    return to_its_end


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


@pytest.mark.parametrize("example", ["progress-in-sh", "progress-in-python", "progress-in-r"])
def test_progress_is_reported(home: RealMaster, run: Run, example: str) -> None:
    if example == "progress-in-r" and shutil.which("Rscript") is None:
        pytest.skip("R is not installed here")
    (task,) = run(example).values()
    assert (task.state, task.progress, task.progress_note) == ("succeeded", 0.8, "part 4 of 4")


def test_progress_is_known_while_it_runs_and_forgotten_by_the_next_try(
    home: RealMaster, start: Callable[[], None], tmp_path: Path
) -> None:
    start()
    run = f"""
        [ "$ORCHESTRATOR_ATTEMPT" = 1 ] || {{ until [ -e {tmp_path}/go ]; do sleep 0.02; done; exit 0; }}
        echo '{{"progress": 0.25, "note": "a quarter"}}' > "$ORCHESTRATOR_CONTROL"
        until [ -e {tmp_path}/fail ]; do sleep 0.02; done; exit 1"""
    job = home.store.submit({"name": "job", "client": "acme", "run": run, "retry": {"attempts": 2}})
    until(lambda: home.task(job).progress == 0.25, 30)
    assert (home.task(job).state, home.task(job).progress_note) == ("running", "a quarter")
    (tmp_path / "fail").touch()
    until(lambda: home.task(job).attempts == 2, 30)
    assert (home.task(job).progress, home.task(job).progress_note) == (None, None)
    (tmp_path / "go").touch()
    assert home.finished(job).state == "succeeded"


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
