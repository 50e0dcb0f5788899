"""`kill -9` at every fault point of the master and of the agents, on real processes, while jobs flow."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from saboteur import Saboteur, Service, Stream
from theatre import Director, until

from orchestrator import faultpoints
from orchestrator.demo.stage import Stage, stage

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(3600)  # every strike waits for a master to start, which takes long on a busy host
PATIENT = {"boot_timeout_s": 600, "lease_s": 600, "heartbeat_timeout_s": 90}
"""On a busy host the master is away more than it is there. A machine whose lease ends meanwhile powers off, as it promised, and
a result that it could not hand over goes with it: that command runs again. The sweep is not about leases."""
QUICK = "look_s = 1\norphan_grace_s = 5"
AT_START = [point for point in faultpoints.POINTS if point.startswith(("start.", "loop.retention."))]
AT_A_FAILED_BOOT = [point for point in faultpoints.POINTS if point.startswith("provider.console.")]
AT_WORK = [point for point in faultpoints.POINTS if point not in (*AT_START, *AT_A_FAILED_BOOT)]
AGENTS = list(faultpoints.AGENT_POINTS)
WORST = [  # for every run of the tests; `make test-restart` strikes at all
    "submit.before_answer",
    "writer.after_commit",
    "provider.launch.before",
    "provider.launch.after",
    "enrol.before_answer",
    "sync.before_answer",
    "log.after_append",
    "artifact.before_answer",
    "provider.terminate.after",
]
WORST_OF_AGENTS = ["agent.enrol.after", "agent.journal.begin.after", "agent.spawn.after", "agent.call.after"]


@pytest.fixture
def saboteur(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Saboteur:
    monkeypatch.setenv(faultpoints.VARIABLE, str(tmp_path / "faults"))
    return Saboteur(tmp_path / "faults")


@pytest.fixture
def here(database_url: str, tmp_path: Path, saboteur: Saboteur) -> Iterator[Stage]:
    settings = f'{QUICK}\ndatabase_url = "{database_url}"'
    with stage(tmp_path / "stage", tmp_path / "data", boot_delay_s=0.1, stop_delay_s=0.1, settings=settings) as opened:
        yield opened


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def sweep(here: Stage, saboteur: Saboteur, marks: Path, points: list[str], action: str = "kill", **pool: Any) -> int:
    """Strike at one point after the other while jobs flow; then all must be well. Returns the deaths."""
    director = Director(here)
    director.pool(**{"max_nodes": 4, **PATIENT, **pool})
    with Service(here) as service:
        with Stream(here, marks) as stream:
            for point in points:
                saboteur.arm(point, action)
                until(lambda point=point: not saboteur.armed(point), 120, lambda point=point: f"{point} was not reached")
        stream.all_succeeded_once(director)
        each_second_run_has_its_cause(stream, director)
    return service.restarts


def check_the_master(here: Stage, saboteur: Saboteur, marks: Path, points: list[str]) -> None:
    deaths = sweep(here, saboteur, marks, points)
    assert deaths == len(points)


def check_the_agents(here: Stage, saboteur: Saboteur, marks: Path, points: list[str]) -> None:
    deaths = sweep(here, saboteur, marks, points)
    assert deaths == 0


def each_second_run_has_its_cause(stream: Stream, director: Director) -> None:
    """That each job's outcome counts once is seen to already. Its command ran once, too, unless an attempt was lost on a
    node that is on record as ended, and says why: what was fenced may have run. Nothing else runs a command again."""
    ran = stream.executions()
    for name, job_id in stream.jobs.items():
        attempts = director.get(f"/jobs/{job_id}/attempts")["items"]
        lost = [attempt for attempt in attempts if attempt["state"] in ("lost", "late")]
        assert 1 <= ran[name] <= 1 + len(lost), (name, ran[name], attempts, director.events(job_id=job_id))
        for attempt in lost:
            assert attempt["reason"], attempt
            print(f"{name}: attempt {attempt['id']} is {attempt['state']}: {attempt['reason']}")  # for whoever reads along


def test_the_master_killed_at_the_worst_moments(here: Stage, saboteur: Saboteur, marks: Path) -> None:
    sample = WORST if "sqlite" in here.config.read_text() else WORST[1::3]
    check_the_master(here, saboteur, marks, sample)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_agent_killed_at_the_worst_moments(here: Stage, saboteur: Saboteur, marks: Path) -> None:
    check_the_agents(here, saboteur, marks, WORST_OF_AGENTS)


@pytest.mark.restart
def test_the_master_killed_at_every_point(here: Stage, saboteur: Saboteur, marks: Path) -> None:
    check_the_master(here, saboteur, marks, AT_WORK)


@pytest.mark.restart
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_master_killed_while_it_reads_the_console_of_a_failed_boot(
    here: Stage, saboteur: Saboteur, marks: Path
) -> None:
    here.cloud.faults({"no_boot": True, "times": 6})
    deaths = sweep(here, saboteur, marks, AT_A_FAILED_BOOT, boot_timeout_s=20, breaker_failures=100)
    assert deaths == len(AT_A_FAILED_BOOT)


@pytest.mark.restart
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_agent_killed_at_every_point(here: Stage, saboteur: Saboteur, marks: Path) -> None:
    check_the_agents(here, saboteur, marks, AGENTS)


@pytest.mark.restart
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_defect_at_any_point_of_the_fleet_heals(here: Stage, saboteur: Saboteur, marks: Path) -> None:
    """Not death but an exception nobody foresaw: the step is repeated, the launch looked up before it is asked again."""
    points = [point for point in AT_WORK if point.startswith(("provider.", "loop."))]
    deaths = sweep(here, saboteur, marks, points, action="raise")
    assert deaths == 0


def test_the_master_killed_while_it_starts(tmp_path: Path, saboteur: Saboteur) -> None:
    """A start that was cut short is made good by the next one, at whatever point."""
    environment = {**os.environ, "ORCHESTRATOR_DATA_DIR": str(tmp_path / "data"), "ORCHESTRATOR_PORT": "0"}
    command = [sys.executable, "-m", "orchestrator", "serve"]
    for point in AT_START:
        saboteur.arm(point)
        done = subprocess.run(command, env=environment, cwd=tmp_path, timeout=60, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not saboteur.armed(point)
    assert (tmp_path / "data" / "admin.token").read_text().startswith("eo_")


def test_every_point_in_the_code_is_listed_and_struck() -> None:
    found = {point for folder in ("orchestrator", "cloudinit/agent") for point in points_in(ROOT / folder)}
    found |= {f"provider.{verb}.{when}" for verb in faultpoints.VERBS for when in ("before", "after")}
    found |= {f"loop.{name}.{when}" for name in faultpoints.LOOPS for when in ("before", "after")}
    found |= {
        f"agent.journal.{entry}.{when}" for entry in ("order", "begin", "end", "gone") for when in ("before", "after")
    }
    assert found == {*faultpoints.POINTS, *faultpoints.AGENT_POINTS}
    assert found == {*AT_START, *AT_WORK, *AT_A_FAILED_BOOT, *AGENTS}, "each is struck by a test above"
    assert {*WORST, *WORST_OF_AGENTS} <= found


def test_every_verb_that_the_fleet_asks_of_a_cloud_has_its_points() -> None:
    source = "".join(path.read_text() for path in (ROOT / "orchestrator" / "fleet").glob("*.py"))
    verbs = {"launch", "instances", "terminate", "impaired", "console"}
    assert {verb for verb in verbs if re.search(rf"\.{verb}\(", source)} == set(faultpoints.VERBS)


def points_in(folder: Path) -> Iterator[str]:
    """What `reach` is called with by name; families, whose names are put together, are left to the caller."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reach":
                (name,) = node.args
                if isinstance(name, ast.Constant):
                    yield name.value
