"""The main job on real processes: machines come for it by token, run it and go; also when the master dies meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from theatre import Director, lines, until

from orchestrator.demo.stage import stage

QUICK = "look_s = 2"  # the periodic look only heals; here it is to be seen healing


@pytest.fixture
def settings(database_url: str) -> str:
    """Settings of a master on each kind of database."""
    return f'{QUICK}\ndatabase_url = "{database_url}"'


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """Where commands write down that they ran."""
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def test_two_clients_jobs_by_token(tmp_path: Path, marks: Path) -> None:
    job = {
        "name": "report",
        "token": "daily-$JOB_ID",
        "infrastructure": {"pool": "local", "count": 2},
        "params": {"MARKS": str(marks)},
        "tasks": [
            # The two halves wait for each other: they are on two machines at the same time.
            {"name": "left", "run": 'echo "left of $ORCHESTRATOR_TOKEN"; touch "$MARKS/$JOB_ID.left"; '
             'until [ -e "$MARKS/$JOB_ID.right" ]; do sleep 0.02; done; until [ -e "$MARKS/go" ]; do sleep 0.02; done'},
            {"name": "right", "run": 'touch "$MARKS/$JOB_ID.right"; until [ -e "$MARKS/$JOB_ID.left" ]; do sleep 0.02; done'},
            {"name": "merge", "needs": ["left", "right"], "run": 'echo merged by $ORCHESTRATOR_NODE_ID; echo err >&2'},
        ],
    }  # fmt: skip
    with stage(tmp_path / "stage", tmp_path / "data", settings=QUICK) as here:
        director = Director(here)
        director.pool(max_nodes=4)
        jobs = {director.submit({**job, "client": client}): client for client in ("acme", "globex")}
        for job_id, client in jobs.items():
            token = f"{client}/daily-{job_id}"
            assert director.job(job_id)["token"] == token
            until(lambda job_id=job_id: "left" in director.log(job_id, "left"))
            assert director.log(job_id, "left") == f"left of {token}\n", "readable while its task runs"
            assert director.tasks(job_id)["left"]["state"] == "running"
        audit = director.audit()
        assert audit["agrees"] and audit["alive"] == audit["accounted"] == director.alive() == 4
        (marks / "go").touch()
        for job_id in jobs:
            assert director.finished(job_id)["state"] == "succeeded"
        director.all_gone()
        director.each_machine_once()
        nodes = {node["id"]: node for node in director.nodes()}
        for job_id, client in jobs.items():
            tasks = director.tasks(job_id)
            assert {nodes[task["node_id"]]["token"] for task in tasks.values()} == {f"{client}/daily-{job_id}"}
            assert tasks["left"]["node_id"] != tasks["right"]["node_id"]
            assert all(task["attempts"] == 1 for task in tasks.values())
            assert director.log(job_id, "merge") == f"merged by {tasks['merge']['node_id']}\nerr\n", (
                "and after all has gone"
            )
        assert len(nodes) == 4 and here.cloud.calls()["RunInstances"] == 2
        assert {node["end_reason"] for node in nodes.values()} == {"job_done"}


def test_a_master_killed_in_the_middle_of_a_job_and_started_again(settings: str, tmp_path: Path, marks: Path) -> None:
    job = {
        "name": "long",
        "client": "acme",
        "token": "long-$JOB_ID",
        "infrastructure": {"pool": "local", "count": 2},
        "tasks": [
            {"name": name, "run": f"echo {name} >> {marks}/ran; echo begun; "
             f"until [ -e {marks}/go-{name} ]; do sleep 0.02; done; echo done"}
            for name in ("one", "two")
        ],
    }  # fmt: skip
    with stage(tmp_path / "stage", tmp_path / "data", settings=settings) as here:
        director = Director(here)
        director.pool()
        job_id = director.submit(job)
        for name in ("one", "two"):
            until(lambda name=name: director.log(job_id, name) == "begun\n")
        before = {node["instance_id"] for node in director.nodes()}
        director.kill9()
        (marks / "go-one").touch()  # it ends while there is no master; the other one after the new one has come
        here.start_master()
        until(lambda: director.tasks(job_id)["one"]["state"] == "succeeded")
        assert director.tasks(job_id)["two"]["state"] == "running"
        (marks / "go-two").touch()
        assert director.finished(job_id)["state"] == "succeeded"
        director.all_gone()
        assert sorted(lines(marks / "ran")) == ["one", "two"], "each command ran exactly once"
        assert all(task["attempts"] == 1 for task in director.tasks(job_id).values())
        for name in ("one", "two"):
            assert director.log(job_id, name) == "begun\ndone\n"
        assert {node["instance_id"] for node in director.nodes()} == before and len(before) == 2
        assert here.cloud.calls()["RunInstances"] == 1
        director.each_machine_once()


def test_a_master_killed_at_any_moment_loses_no_job_and_doubles_no_machine(
    settings: str, tmp_path: Path, marks: Path
) -> None:
    jobs, restarts, together = (20, 6, 4) if "sqlite" in settings else (8, 2, 4)
    moments = random.Random(20)
    job = {
        "client": "acme",
        "token": "short-$JOB_ID",
        "infrastructure": {"pool": "local", "count": 1},
        "run": f'echo "$ORCHESTRATOR_JOB $ORCHESTRATOR_ATTEMPT_ID" >> {marks}/ran; sleep 0.2; echo "$ORCHESTRATOR_JOB is done"',
    }
    with stage(tmp_path / "stage", tmp_path / "data", boot_delay_s=0.2, stop_delay_s=0.1, settings=settings) as here:
        director = Director(here)
        director.pool(max_nodes=together, boot_timeout_s=300)  # machines that find no master take their time
        submitted: dict[str, int] = {}

        def submit() -> None:
            """As a client does that hears no answer: with its key, again and again."""
            mine = Director(here)
            for number in range(jobs):
                name = f"job-{number}"
                submitted[name] = mine.submit({**job, "name": name}, key=name)
                time.sleep(0.1)

        client = threading.Thread(target=submit)
        client.start()
        for _ in range(restarts):
            time.sleep(moments.uniform(0.05, 1.2))
            director.kill9()
            here.start_master()
        client.join(40)
        assert len(submitted) == jobs == len(set(submitted.values()))
        for job_id in submitted.values():
            found = director.finished(job_id, 60)
            assert found["state"] == "succeeded", (found, director.events(job_id=job_id))
        director.all_gone()
        director.each_machine_once()
        ran = Counter(line.split()[0] for line in lines(marks / "ran"))
        assert ran == dict.fromkeys(submitted, 1), "each job's command ran exactly once"
        assert len(director.get("/jobs", limit=1000)["items"]) == jobs, "each was accepted exactly once"
        for name, job_id in submitted.items():
            assert director.log(job_id, name) == f"{name} is done\n"
        odd = [node for node in director.nodes() if node["instance_id"] and node["end_reason"] != "job_done"]
        assert not odd, director.history(odd[0])
