"""Clouds, consoles and the doctor as an operator has them: real command, real master, a local cloud that misbehaves."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from theatre import Director, until

from orchestrator.demo.stage import Stage, stage

PLAIN = {key: value for key, value in os.environ.items() if not key.startswith("ORCHESTRATOR_")}
NOWHERE = 'look_s = 2\n[clouds.nowhere]\nlimiter = "lost"\nendpoint_url = "http://127.0.0.1:9"\naccess_key_id = "x"\nsecret_access_key = "y"'


@dataclass
class Operator:
    here: Stage
    master: Director

    def run(self, *arguments: str, status: int = 0, remote: bool = True) -> subprocess.CompletedProcess[str]:
        """The command's result: to the running master by its URL and token, or by the settings file alone."""
        told = {"ORCHESTRATOR_URL": self.here.url, "ORCHESTRATOR_TOKEN": self.here.token} if remote else {}
        config = () if remote else ("--config", str(self.here.config))
        command = [sys.executable, "-m", "orchestrator", *arguments, *config]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=self.here.folder, env=PLAIN | told)
        assert done.returncode == status, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, **how: Any) -> Any:
        return json.loads(self.run(*arguments, "--output", "json", **how).stdout)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """A master with a machine that is kept up, and a second cloud that nobody answers for."""
    root = tmp_path_factory.mktemp("clouds")
    with stage(root / "stage", root / "data", boot_delay_s=0.1, stop_delay_s=0.1, settings=NOWHERE) as here:
        director = Director(here)
        director.pool(min_nodes=1)
        until(lambda: [node["state"] for node in director.nodes()] == ["ready"])
        yield Operator(here, director)


def verdicts(diagnosis: Any, about: str) -> dict[str, str]:
    return {item["subject"]: item["verdict"] for item in diagnosis["findings"] if item["about"] == about}


def test_what_a_pool_may_name_is_listed(operator: Operator) -> None:
    clouds = {cloud["name"]: cloud for cloud in operator.json("cloud", "list")["items"]}
    assert set(clouds) == {"local", "nowhere"}
    assert clouds["nowhere"]["limiter"] == "lost"
    assert clouds["local"]["usage"]["calls"]["launch"] == 1
    assert clouds["nowhere"]["usage"]["last_error"].startswith("instances: EC2 could not")
    assert "t3.micro" in operator.run("cloud", "sizes", "local").stdout
    assert "t3.micro" in {item["id"] for item in operator.master.get("/clouds/local/sizes")["items"]}
    assert operator.json("cloud", "locations", "local")["items"]
    assert "items" in operator.json("cloud", "images", "local")


def test_machines_are_listed_with_their_nodes_and_strangers_are_not(operator: Operator) -> None:
    stranger = operator.master._ec2.run_instances(ImageId="ami-local", InstanceType="t3.micro", MinCount=1, MaxCount=1)
    (node,) = operator.master.nodes()
    (machine,) = operator.json("cloud", "instances", "local")["items"]
    assert machine["id"] == node["instance_id"]
    assert (machine["node_id"], machine["node_state"], machine["pool"]) == (node["id"], "ready", "local")
    assert machine["state"] == "running"
    assert node["instance_id"] in operator.run("cloud", "instances", "local").stdout
    operator.master._ec2.terminate_instances(InstanceIds=[stranger["Instances"][0]["InstanceId"]])


def test_an_unknown_cloud_is_refused_and_a_silent_one_told(operator: Operator) -> None:
    with operator.here.api() as api:
        unknown = api.get("/clouds/azure/images")
        silent = api.get("/clouds/nowhere/instances")
    assert (unknown.status_code, unknown.headers["content-type"]) == (404, "application/problem+json")
    assert "there are: local, nowhere" in unknown.json()["detail"]
    assert (silent.status_code, silent.headers["retry-after"]) == (503, "5")
    assert "there are: local, nowhere" in operator.run("cloud", "images", "azure", status=2).stderr
    assert "could not" in operator.run("cloud", "instances", "nowhere", status=4).stderr


def test_a_cloud_that_refuses_or_throttles_is_a_problem_with_its_status(operator: Operator) -> None:
    cloud = operator.here.cloud
    with operator.here.api() as api:
        cloud.faults({"action": "DescribeInstanceTypes", "error": "UnauthorizedOperation", "status": 403})
        refused = api.get("/clouds/local/sizes")
        cloud.clear_faults()
        cloud.faults({"action": "DescribeInstanceTypes", "error": "RequestLimitExceeded", "status": 503, "times": 1})
        throttled = api.get("/clouds/local/sizes")
        cloud.clear_faults()
        held = api.get("/clouds/local/sizes")
        assert (refused.status_code, throttled.status_code, held.status_code) == (502, 503, 503)
        assert int(held.headers["retry-after"]) >= 1
        assert "held back" in held.json()["detail"]
        usage = {each["name"]: each["usage"] for each in api.get("/clouds").json()["items"]}["local"]
        assert usage["throttled_for_s"] is not None and usage["refused"] == 1
        throttling = verdicts(api.get("/doctor").json(), "cloud local")
        assert throttling["rate limit"] == "warning"
        until(lambda: api.get("/clouds/local/sizes").status_code == 200)


def test_the_console_is_the_kept_one_or_the_cloud_s(operator: Operator) -> None:
    (node,) = operator.master.nodes()
    path = f"/nodes/{node['id']}/console"
    live = until(lambda: operator.master.get(path)["text"] and operator.master.get(path))
    assert not live["kept"]
    with closing(sqlite3.connect(operator.here.data_dir / "orchestrator.db", isolation_level=None)) as database:
        database.execute("UPDATE node SET console = ? WHERE id = ?", ("it began\r\n\x1b[31mand hung\r\n", node["id"]))
    kept = operator.json("node", "console", str(node["id"]))
    assert kept == {"node_id": node["id"], "kept": True, "text": "it began\r\n\x1b[31mand hung\r\n"}
    shown = operator.run("node", "console", str(node["id"])).stdout
    assert shown.splitlines() == ["it began", "\N{REPLACEMENT CHARACTER}[31mand hung"]
    assert "there is no node 999" in operator.run("node", "console", "999", status=2).stderr


def test_the_doctor_says_the_same_from_the_master_and_from_the_settings(operator: Operator) -> None:
    there = operator.json("doctor", status=1)
    here = operator.json("doctor", status=1, remote=False)
    for diagnosis in (there, here):
        assert not diagnosis["healthy"]
        assert verdicts(diagnosis, "master") | {"disk": "ok"} == {
            "settings": "ok",
            "data_dir": "ok",
            "disk": "ok",
            "database": "ok",
            "master_url": "ok",
        }
        assert verdicts(diagnosis, "cloud local")["credentials"] == "ok"
        assert verdicts(diagnosis, "cloud local")["clock"] == "ok"
        assert verdicts(diagnosis, "cloud nowhere")["answers"] == "wrong"
        assert verdicts(diagnosis, "pool local")["machines"] == "ok"
        assert [key for item in diagnosis["findings"] for key in item] == ["about", "subject", "verdict", "told"] * len(
            diagnosis["findings"]
        )
    shown = operator.run("doctor", status=1).stdout
    assert "1 wrong" in shown


def test_the_master_tells_at_its_start_what_is_wrong(operator: Operator) -> None:
    def told() -> list[str]:
        return [event["reason"] for event in operator.master.events() if event["subject"] == "cloud"]

    until(lambda: any(reason.startswith("cloud nowhere, answers: EC2 could not") for reason in told()))


def test_the_doctor_sees_wrong_credentials_and_a_pool_that_cannot_launch(tmp_path: Path) -> None:
    """Exit status 0 while all is well, 1 with the reason when it is not, with and without a master."""
    with stage(tmp_path / "stage", tmp_path / "data") as here:
        operator = Operator(here, Director(here))
        assert operator.json("doctor")["healthy"]
        here.cloud.faults({"action": "DescribeInstances", "error": "AuthFailure", "status": 401})
        wrong = operator.json("doctor", status=1)
        assert verdicts(wrong, "cloud local")["credentials"] == "wrong"
        here.cloud.clear_faults()
        here.master.terminate()
        here.master.wait(20)
        alone = operator.json("doctor", remote=False)
        assert alone["healthy"] and verdicts(alone, "master")["master_url"] == "warning"
        assert "no master answers" in operator.run("doctor", status=4).stderr
