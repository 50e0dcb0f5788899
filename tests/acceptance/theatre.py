"""What the acceptance tests do on a stage: a real master, a real local cloud, machines with real agents."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import httpx

from orchestrator.demo.stage import Stage
from providers.base import TAG_INSTALLATION, TAG_LAUNCH

Json = dict[str, Any]
POOL = {
    "name": "local",
    "cloud": "local",
    "max_nodes": 4,
    "slots": 1,
    "launch": {"image": "ami-local", "instance_type": "t3.micro"},
    "boot_timeout_s": 60,
    "heartbeat_timeout_s": 30,
    "lease_s": 60,
}
OVER = ("succeeded", "failed", "cancelled")


def until(wanted: Callable[[], object], within_s: float = 40.0, why: Callable[[], object] = lambda: "") -> Any:
    """What `wanted` gives once it is something."""
    deadline = time.monotonic() + within_s
    while not (value := wanted()):
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)
    return value


class Director:
    """Speaks to the stage's master by its API, and to the cloud past it. A master that is away is asked again."""

    def __init__(self, here: Stage) -> None:
        self.here = here
        self._api = here.api()
        self._ec2 = boto3.client(
            "ec2",
            region_name="us-east-1",
            endpoint_url=here.cloud.endpoint_url,
            aws_access_key_id="local",
            aws_secret_access_key="local",
        )

    # the master

    def get(self, path: str, **params: Any) -> Any:
        return self._ask(lambda: self._api.get(path, params=params)).json()

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self._ask(lambda: self._api.post(path, json=body, headers=headers)).json()

    def _ask(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        deadline = time.monotonic() + 120
        while True:
            try:
                answer = call()
                answer.raise_for_status()
                return answer
            except httpx.TransportError:
                told = self.here.log.read_text(errors="replace")[-1500:]
                assert time.monotonic() < deadline, f"the master does not come back; its log ends with:\n{told}"
                time.sleep(0.05)

    def pool(self, **more: Any) -> None:
        self.post("/pools", {**POOL, **more})

    def submit(self, job: Mapping[str, Any], key: str | None = None) -> int:
        headers = {"Idempotency-Key": key} if key else {}
        return int(self.post("/jobs", dict(job), **headers)["id"])

    def job(self, job_id: int) -> Json:
        found: Json = self.get(f"/jobs/{job_id}")
        return found

    def tasks(self, job_id: int) -> dict[str, Json]:
        return {task["name"]: task for task in self.get(f"/jobs/{job_id}/tasks")["items"]}

    def log(self, job_id: int, task: str) -> str:
        return self._ask(lambda: self._api.get(f"/jobs/{job_id}/logs", params={"task": task})).text

    def finished(self, job_id: int, within_s: float = 40.0) -> Json:
        until(lambda: self.job(job_id)["state"] in OVER, within_s, lambda: self.get(f"/jobs/{job_id}/explain"))
        return self.job(job_id)

    def nodes(self) -> list[Json]:
        found: list[Json] = self.get("/nodes", limit=1000)["items"]
        return found

    def events(self, **params: Any) -> list[Json]:
        found: list[Json] = self.get("/events", limit=1000, **params)["items"]
        return found

    def audit(self) -> Json:
        found: Json = self.get("/audit")
        return found

    # the cloud, past the master

    def machines(self) -> list[Json]:
        """Every machine the cloud shows, ended ones too."""
        pages = self._ec2.get_paginator("describe_instances").paginate()
        return [machine for page in pages for group in page["Reservations"] for machine in group["Instances"]]

    def alive(self) -> int:
        return sum(machine["State"]["Name"] != "terminated" for machine in self.machines())

    def all_gone(self, within_s: float = 40.0) -> None:
        """The cloud shows no machine, and every row says so, and so does the audit."""
        until(lambda: self.alive() == 0, within_s, lambda: self.nodes())
        until(lambda: all(node["state"] == "terminated" for node in self.nodes()), within_s, lambda: self.nodes())
        audit = self.audit()
        assert (audit["agrees"], audit["alive"], audit["findings"]) == (True, 0, []), audit
        processes = [machine for machine in self.here.cloud.machines().values() if machine["pids"]]
        assert not processes

    def each_machine_once(self) -> None:
        """Every machine that ever was is one node's and of that node's launch; no launch had more than it asked for."""
        machines = {machine["InstanceId"]: machine for machine in self.machines()}
        nodes = {node["instance_id"]: node for node in self.nodes() if node["instance_id"]}
        assert set(machines) == set(nodes), "machines of no node, or nodes of no machine"
        launches = Counter(node["launch_id"] for node in nodes.values())
        shown = Counter()
        for id_, machine in machines.items():
            tags = {tag["Key"]: tag["Value"] for tag in machine["Tags"]}
            assert tags[TAG_LAUNCH] == f"{tags[TAG_INSTALLATION]}-{nodes[id_]['launch_id']}"
            shown[nodes[id_]["launch_id"]] += 1
        assert shown == launches

    def history(self, node: Json) -> str:
        """What is known of a node, for whoever reads of a failure: its row, its events, what its machine said."""
        events = [
            f"{event['at']} {event['to_state']} {event['reason']}" for event in reversed(self.events(node_id=node["id"]))
        ]
        said = []
        for log in ("console.log", "elastic-orchestrator-agent.log"):
            path = self.here.folder / "cloud" / str(node["instance_id"]) / "var/log" / log
            said += [f"--- {log}", path.read_text() if path.exists() else "not there"]
        return "\n".join([str(node), *events, *said])

    def kill9(self) -> None:
        self.here.master.kill()
        self.here.master.wait()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
