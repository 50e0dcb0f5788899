"""The demo: two clients' token-tagged jobs bring up machines on a local cloud, run, and leave nothing behind."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import IO, Any

import httpx

from orchestrator.demo.show import Show
from orchestrator.demo.stage import Stage, StageFailed, free_port, stage
from orchestrator.demo.verify import differences, expected_report
from orchestrator.jobs.spec import read

PORT = 8642
WITHIN_S = 100.0
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
TRACES = {"acme": "nasa-ipsc-1993-10a.swf", "globex": "nasa-ipsc-1993-11a.swf"}


@dataclass(frozen=True, slots=True)
class Summary:
    """What the demo measured. `machines_left` is the cloud's own answer."""

    jobs_succeeded: int
    jobs_failed: int
    machines_launched: int
    machines_left: int
    machine_seconds_paid: float
    job_seconds: float


def demo(*, as_json: bool) -> int:
    """Run the main job once in a temporary folder. Returns the exit status: 0 if everything is as it should be."""
    # With JSON on standard output, people read the rest on standard error.
    out = sys.stderr if as_json else sys.stdout
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-demo-"))
    try:
        with stage(folder, folder / "data", free_port(PORT)) as here:
            summary, problems = _main_job(here, out)
    except StageFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ended by Ctrl-C; the local cloud and its machines went with the demo", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _tell(summary, problems, out)
    if as_json:
        print(json.dumps(asdict(summary)), flush=True)
    return 1 if problems else 0


def keep(data_dir: Path, port: int) -> int:
    """The same stage kept up until Ctrl-C; a master that dies is started again, as a service manager would."""
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-serve-"))
    try:
        with stage(folder, data_dir.resolve(), free_port(port)) as here:
            show = _begin(here, sys.stdout)
            submit_all(here, folder / "out")
            show.say("\nCtrl-C ends the master, the local cloud and its machines.\n", style="bold")
            while True:
                if (status := here.master.poll()) is not None:
                    show.say(f"the master died (status {status}); starting it again", style="bold red")
                    here.start_master()
                time.sleep(0.2)
    except StageFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nended; the local cloud and its machines went with it", flush=True)
        return 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _main_job(here: Stage, out: IO[str]) -> tuple[Summary, list[str]]:
    show = _begin(here, out)
    results = here.folder / "out"
    job_ids = submit_all(here, results)
    with here.api() as api:
        jobs = [_finished(api, job_id) for job_id in job_ids]
        nodes = _all_gone(api)
        problems = [
            f"job {job['id']} ({job['name']}) ended {job['state']}: {job['reason']}"
            for job in jobs
            if job["state"] != "succeeded"
        ]
        tasks = [task for job_id in job_ids for task in api.get(f"/jobs/{job_id}/tasks").json()["items"]]
        problems += [f"node {node['id']} is still {node['state']}" for node in nodes if node["state"] != "terminated"]
        if not (audit := api.get("/audit").json())["agrees"]:
            problems.append(f"the audit does not agree: {audit['findings']}")
    problems += check_reports(results)
    left = here.machines_left()
    problems += [f"{left} machine(s) are left in the cloud"] if left else []
    time.sleep(0.3)  # let the last lines be shown
    show.stop()
    succeeded = sum(job["state"] == "succeeded" for job in jobs)
    launched = [node for node in nodes if node["launched_at"]]
    return Summary(
        jobs_succeeded=succeeded,
        jobs_failed=len(jobs) - succeeded,
        machines_launched=len(launched),
        machines_left=left,
        machine_seconds_paid=round(sum(_seconds(node, "launched_at", "terminated_at") for node in launched), 3),
        job_seconds=round(sum(_seconds(task, "started_at", "finished_at") for task in tasks), 3),
    ), problems


def submit_all(here: Stage, results: Path) -> list[int]:
    """The demo's jobs, and the pool they are for where there is none yet."""
    with here.api() as api:
        if api.get("/pools/local").status_code == 404:
            api.post("/pools", json=POOL).raise_for_status()
        return [int(api.post("/jobs", json=job).raise_for_status().json()["id"]) for job in main_jobs(results)]


def main_jobs(results: Path) -> list[dict[str, Any]]:
    """The examples, for two clients: three jobs that want five machines of a pool that may have four."""
    examples = examples_dir()
    report = read((examples / "trace-report.yaml").read_text())
    hello = read((examples / "hello.yaml").read_text())
    jobs = []
    for client, trace in TRACES.items():
        (results / client).mkdir(parents=True, exist_ok=True)
        paths = {"TRACE": examples / "data" / trace, "OUT": results / client, "JOBS": examples / "jobs"}
        params = {name: str(path) for name, path in paths.items()}
        jobs.append({**report, "client": client, "token": f"{client}-$JOB_ID", "params": params})
    return [*jobs, hello]


def examples_dir() -> Path:
    """`examples/` of the checkout, or as the wheel carries it."""
    packaged = Path(str(resources.files("orchestrator"))) / "_examples"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "examples"


def _begin(here: Stage, out: IO[str]) -> Show:
    show = Show(here.url, here.token, out)
    show.say("Elastic Orchestrator on a local cloud (moto's EC2; its machines boot their real user data)", style="bold")
    show.say(f"  UI       {here.login_link()}")
    show.say(f"  API      {here.url}/docs")
    show.say(f"  token    {here.token}")
    show.say(f"  cloud    {here.cloud.endpoint_url}")
    show.say()
    show.start()
    return show


def _finished(api: httpx.Client, job_id: int) -> dict[str, Any]:
    end = time.monotonic() + WITHIN_S
    while True:
        job: dict[str, Any] = api.get(f"/jobs/{job_id}").raise_for_status().json()
        if job["state"] not in ("queued", "running") or time.monotonic() > end:
            return job
        time.sleep(0.1)


def _all_gone(api: httpx.Client) -> list[dict[str, Any]]:
    end = time.monotonic() + 30
    while True:
        nodes: list[dict[str, Any]] = api.get("/nodes").raise_for_status().json()["items"]
        if all(node["state"] == "terminated" for node in nodes) or time.monotonic() > end:
            return nodes
        time.sleep(0.1)


def check_reports(results: Path) -> list[str]:
    """A sentence for each of the demo's reports that is missing, and for each figure in them that is wrong."""
    problems = []
    for client, trace in TRACES.items():
        path = results / client / "report.json"
        if not path.exists():
            problems.append(f"{client}: no report was written")
            continue
        found = differences(json.loads(path.read_text()), expected_report(examples_dir() / "data" / trace))
        problems += [f"{client}: {difference}" for difference in found]
    return problems


def _tell(summary: Summary, problems: list[str], out: IO[str]) -> None:
    share = summary.job_seconds / summary.machine_seconds_paid if summary.machine_seconds_paid else 0.0
    lines = [
        "",
        f"  jobs done           {summary.jobs_succeeded} succeeded, {summary.jobs_failed} failed",
        f"  reports             {'agree' if not problems else 'see below'} with the same figures computed in SQL",
        f"  machines launched   {summary.machines_launched}",
        f"  machine-seconds     {summary.machine_seconds_paid:.1f} paid, {summary.job_seconds:.1f} of tasks ({share:.0%})",
        f"  machines left       {summary.machines_left} (asked of the cloud)",
        *(f"  PROBLEM             {problem}" for problem in problems),
        "",
    ]
    print("\n".join(lines), file=out, flush=True)


def _seconds(row: Mapping[str, Any], begin: str, end: str) -> float:
    if not row[begin] or not row[end]:
        return 0.0
    return (datetime.fromisoformat(row[end]) - datetime.fromisoformat(row[begin])).total_seconds()
