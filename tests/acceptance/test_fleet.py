"""A pool of several types on a real stage: the job runs on what EC2 has room for, and everything goes again."""

from __future__ import annotations

from pathlib import Path

from theatre import Director, until

from orchestrator.demo.stage import stage


def test_a_job_runs_on_the_type_that_can_be_had(tmp_path: Path) -> None:
    with stage(tmp_path / "stage", tmp_path / "data", settings="look_s = 2") as here:
        director = Director(here)
        here.cloud.faults({"shortage": "InsufficientInstanceCapacity", "where": {"InstanceType": "t3.micro"}})
        launch = {"image": "ami-local", "instance_type": "t3.micro", "instance_types": ["t3.micro", "t3.small"]}
        director.pool(launch=launch)
        job_id = director.submit(
            {
                "name": "wide",
                "client": "acme",
                "token": "wide-$JOB_ID",
                "infrastructure": {"pool": "local", "count": 2},
                "run": "echo here",
            }
        )
        assert director.finished(job_id)["state"] == "succeeded"
        assert here.cloud.calls()["CreateFleet"] == 1
        assert "RunInstances" not in here.cloud.calls()
        until(lambda: director.alive() == 0)


def test_a_spot_machine_that_is_taken_back_gets_no_more_work_and_its_job_goes_on_elsewhere(tmp_path: Path) -> None:
    """The whole way: the cloud's metadata service, the agent that watches it, the master that drains, the job's next try."""
    with stage(tmp_path / "stage", tmp_path / "data", settings="look_s = 2") as here:
        director = Director(here)
        launch = {"image": "ami-local", "instance_type": "t3.micro", "market": "spot"}
        director.pool(launch=launch)
        job_id = director.submit(
            {
                "name": "spot",
                "client": "acme",
                "token": "spot-$JOB_ID",
                "infrastructure": {"pool": "local", "count": 1},
                "run": f"echo begun; until [ -e {tmp_path}/go ]; do sleep 0.1; done",
            }
        )
        until(lambda: "begun" in director.log(job_id, "spot"))
        (first,) = here.cloud.machines()
        here.cloud.reclaim(first, notice_s=8)
        until(lambda: [node["end_reason"] for node in director.nodes() if node["instance_id"] == first] == ["reclaimed"])
        (tmp_path / "go").touch()
        assert director.finished(job_id)["state"] == "succeeded"
        until(lambda: director.alive() == 0)
