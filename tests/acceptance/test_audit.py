"""The audit agrees with the cloud's own listing at every moment of a run of 200 jobs on 20 nodes."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from theatre import Director, until

from orchestrator.demo.stage import Stage, stage

CLIENTS = ("acme", "globex", "initech", "umbrella")
JOBS, NODES = 200, 20


@dataclass
class Auditor:
    """Audits again and again on a thread, the cloud's listing before and after each time."""

    here: Stage
    audits: list[tuple[int, dict[str, Any], int]] = field(default_factory=list)
    error: BaseException | None = None
    _ending: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Auditor:
        self._thread = threading.Thread(target=self._run, name="auditor")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(30)

    def _run(self) -> None:
        try:
            director = Director(self.here)
            after = director.alive()
            while not self._ending.wait(0.05):
                before, audit = after, director.audit()
                after = director.alive()
                self.audits.append((before, audit, after))
        except BaseException as error:  # told by the test's own thread
            self.error = error


def test_200_jobs_on_20_nodes_under_audit(tmp_path: Path) -> None:
    def fleet(client: str) -> dict[str, Any]:
        """Four machines kept for a client while its own last job runs, which ends when the test says so."""
        infrastructure = {"pool": "local", "count": 4}
        run = f"until [ -e {tmp_path}/over ]; do sleep 0.1; done"
        return {"name": "keep", "client": client, "token": "shared", "infrastructure": infrastructure, "run": run}

    with stage(tmp_path / "stage", tmp_path / "data", boot_delay_s=0.3, stop_delay_s=0.2, settings="look_s = 5") as here:
        director = Director(here)
        director.pool(max_nodes=NODES, slots=2, boot_timeout_s=120)
        with Auditor(here) as auditor:
            keepers = [director.submit(fleet(client)) for client in CLIENTS]
            jobs = []
            for number in range(JOBS):
                job = {"name": f"job-{number}", "client": CLIENTS[number % 4], "run": f"sleep 0.{1 + number % 5}"}
                own = number % 10 == 0  # every tenth has a machine of its own, which comes and goes
                asked = {"token": "own-$JOB_ID", "infrastructure": {"pool": "local", "count": 1}} if own else {}
                jobs.append(director.submit({**job, "token": "shared", **asked}))

            def left() -> list[int]:
                over = {job["id"]: job["state"] for job in director.get("/jobs", limit=1000)["items"]}
                return [job_id for job_id in jobs if over[job_id] not in ("succeeded", "failed", "cancelled")]

            until(lambda: not left(), 100, lambda: f"{len(left())} jobs are left; nodes: {director.nodes()}")
            (tmp_path / "over").touch()
            for job_id in keepers:
                director.finished(job_id)
            director.all_gone()
            last = len(auditor.audits)
            until(lambda: len(auditor.audits) >= last + 2)
        assert auditor.error is None, auditor.error
        states = Counter(job["state"] for job in director.get("/jobs", limit=1000)["items"])
        assert states == {"succeeded": JOBS + len(keepers)}
        director.each_machine_once()
        assert len(director.machines()) == 4 * 4 + JOBS // 10

    for _, audit, _ in auditor.audits:
        assert audit["agrees"], [finding for finding in audit["findings"] if finding["trouble"]]
        assert audit["accounted"] == audit["alive"] <= NODES
    # Where nothing came or went between the two listings, the audit says the same number as they do.
    still = [(before, audit["alive"]) for before, audit, after in auditor.audits if before == after]
    exact = sum(before == alive for before, alive in still)
    assert exact >= 0.9 * len(still), still
    for before, audit, after in auditor.audits:
        # One may come while another goes: the number may lie outside the two by as many as changed meanwhile.
        assert min(before, after) - 4 <= audit["alive"] <= max(before, after) + 4
    assert len(auditor.audits) > 20
    assert max(audit["alive"] for _, audit, _ in auditor.audits) >= 18
    assert auditor.audits[-1][1]["alive"] == auditor.audits[-1][2] == 0


def test_an_audit_finds_what_is_nobody_s_and_what_is_gone(tmp_path: Path) -> None:
    """It is not agreeing by being blind: a machine behind the master's back, one ended behind it, a silent cloud."""
    with stage(tmp_path / "stage", tmp_path / "data", settings="look_s = 60\norphan_grace_s = 3600") as here:
        director = Director(here)
        director.pool(min_nodes=1)
        until(lambda: [node["state"] for node in director.nodes()] == ["ready"])
        # The watcher looks each second while something changes, and then rests for `look_s`.
        until(lambda: director.audit()["agrees"])
        (machine,) = director.machines()
        own_tags = [tag for tag in machine["Tags"] if not tag["Key"].startswith("aws:")]
        tags = [{"ResourceType": "instance", "Tags": own_tags}]
        strange = director._ec2.run_instances(
            ImageId="ami-local", InstanceType="t3.micro", MinCount=1, MaxCount=1, TagSpecifications=tags
        )["Instances"][0]["InstanceId"]
        audit = director.audit()
        assert not audit["agrees"] and (audit["alive"], audit["accounted"]) == (2, 1)
        (trouble,) = [finding for finding in audit["findings"] if finding["trouble"]]
        assert trouble["machine"] == strange and "orphan" in trouble["trouble"]
        director._ec2.terminate_instances(InstanceIds=[strange])
        until(lambda: director.audit()["agrees"])
        here.cloud.faults({"action": "DescribeInstances", "error": "UnauthorizedOperation", "status": 403})
        silent = director.audit()
        assert not silent["agrees"] and list(silent["unreachable"]) == ["local"]
        here.cloud.clear_faults()
        until(lambda: director.audit()["agrees"])
