"""The master is gone for good: every machine ends by itself, whatever it was at, and nothing is left to pay for."""

from __future__ import annotations

from pathlib import Path

from theatre import Director, until

from orchestrator.demo.stage import stage

LEASE_S = 10
BOOT_S = 12


def test_every_machine_ends_by_itself_when_its_master_is_gone_for_good(tmp_path: Path) -> None:
    go, cloud = tmp_path / "go", tmp_path / "stage" / "cloud"
    with stage(tmp_path / "stage", tmp_path / "data", settings="look_s = 2") as here:
        director = Director(here)
        director.pool(min_nodes=1, lease_s=LEASE_S, boot_timeout_s=BOOT_S)
        until(lambda: any(node["state"] == "ready" for node in director.nodes()))
        job_id = director.submit(
            {
                "name": "long",
                "client": "acme",
                "token": "long-$JOB_ID",
                "infrastructure": {"pool": "local", "count": 1},
                "run": f"echo begun; until [ -e {go} ]; do sleep 0.02; done; echo ran >> {tmp_path}/ran",
            }
        )
        until(lambda: director.log(job_id, "long") == "begun\n")
        idle, busy = (
            next(node for node in director.nodes() if (node["token"] is None) == without) for without in (True, False)
        )
        for node in (idle, busy):
            assert "boot: agent fetched" in [event["reason"] for event in director.events(node_id=node["id"])]
        director.post("/jobs", {"name": "next", "client": "acme", "token": "next-$JOB_ID", "run": "true",
                                "infrastructure": {"pool": "local", "count": 1}})  # fmt: skip
        booting = until(lambda: [node for node in director.nodes() if node["instance_id"] and node["state"] == "booting"])[
            0
        ]
        director.kill9()
        until(lambda: _console(cloud, booting))
        assert director.alive() == 3

        until(lambda: here.machines_left() == 1, 60, lambda: [_said(cloud, node) for node in (idle, booting)])
        assert f"no master answered for {LEASE_S} s and nothing runs here" in _said(cloud, idle)
        assert "powering off" in _console(cloud, booting) + _said(cloud, booting)
        assert not (tmp_path / "ran").exists(), "the third works on: what it runs is worth more than its lease"
        go.touch()
        until(lambda: here.machines_left() == 0, 60, lambda: _said(cloud, busy))
        assert (tmp_path / "ran").read_text() == "ran\n"
        here.start_master()  # only so that the stage can be struck as always


def _console(cloud: Path, node: dict[str, object]) -> str:
    return _text(cloud / str(node["instance_id"]) / "var/log/console.log")


def _said(cloud: Path, node: dict[str, object]) -> str:
    return _text(cloud / str(node["instance_id"]) / "var/log/elastic-orchestrator-agent.log")


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
