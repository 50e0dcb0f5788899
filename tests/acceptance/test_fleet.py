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
