"""The demo with its master killed at random moments: `make kill-demo TIMES=200 SEED=1`. Prints one line of JSON.

The demo's own jobs come again and again, and a stream of small ones beside them, while the master is killed with `kill -9`
and started again. At the end moto is asked what is left, and each job's outcome is looked at: counted once, or not. With
`--agents SHARE` some of the kills strike an agent as well; then a command may have been begun again, and only then.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from saboteur import Service, Stream, every
from theatre import OVER, Director, lines, until

from orchestrator.demo.run import POOL, check_reports, main_jobs
from orchestrator.demo.stage import Stage, plain_client, stage

ENDED_WITHIN_S = 1800.0
PATIENT = {"boot_timeout_s": 600, "lease_s": 600}  # machines that find no master must not give up: it is away half the time


class Rounds(threading.Thread):
    """Submits the demo's jobs, waits until they have ended, and begins anew."""

    def __init__(self, here: Stage) -> None:
        super().__init__(daemon=True)
        self._here = here
        self.ending = threading.Event()
        self.results: list[Path] = []
        self.job_ids: list[int] = []

    def run(self) -> None:
        director = Director(self._here)
        while not self.ending.is_set():
            results = self._here.folder / f"round-{len(self.results)}"
            self.results.append(results)
            jobs = [patient(job) for job in main_jobs(results)]
            ids = [director.submit(job, key=f"{results.name}-{number}") for number, job in enumerate(jobs)]
            self.job_ids += ids
            until(lambda ids=ids: all(director.job(id_)["state"] in OVER for id_ in ids), ENDED_WITHIN_S)


def patient(job: dict[str, Any]) -> dict[str, Any]:
    """The same job, which no bad luck with machines makes fail."""
    return {**job, "retry": {**job.get("retry", {}), "infrastructure_attempts": 20}}


def main() -> int:
    parser = argparse.ArgumentParser(prog="kill_demo.py", description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=200, help="how often the master is killed")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--agents", type=float, default=0.0, help="the share of kills that strike an agent too")
    parser.add_argument("--longest-s", type=float, default=2.0, help="the longest life of a master that starts in a second")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-kill-demo-"))
    began = time.monotonic()
    try:
        with stage(folder, folder / "data") as here:
            figures = _run(here, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures |= {"seed": options.seed, "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps({"benchmark": "kill-demo", **figures}), flush=True)
    return 0 if figures["passed"] else 1


def _run(here: Stage, options: argparse.Namespace) -> dict[str, Any]:
    director = Director(here)
    director.post("/pools", {**POOL, **PATIENT})
    marks = here.folder / "marks"
    marks.mkdir()
    rounds = Rounds(here)
    with Service(here):
        with Stream(here, marks) as stream:
            rounds.start()
            kills = _kill(here, options)
            rounds.ending.set()
            rounds.join(ENDED_WITHIN_S)
        return _figures(here, director, stream, rounds) | kills


def _kill(here: Stage, options: argparse.Namespace) -> dict[str, int]:
    moments = random.Random(options.seed)
    agents = 0
    for number in range(options.times):
        began = time.monotonic()
        _until_ready(here)
        start_s = time.monotonic() - began
        time.sleep(moments.uniform(0.0, options.longest_s) * max(1.0, start_s))  # away half the time on a slow host, too
        if moments.random() < options.agents and (pids := _agents(here.folder)):
            with suppress(ProcessLookupError):
                os.kill(moments.choice(pids), signal.SIGKILL)
                agents += 1
        here.master.kill()
        here.master.wait()
        if number % 20 == 19:
            print(f"killed {number + 1} times", file=sys.stderr, flush=True)
    _until_ready(here)
    return {"kills": options.times, "agents_killed": agents}


def _until_ready(here: Stage) -> None:
    def ready() -> bool:
        with plain_client(here.url) as client, suppress(Exception):
            return client.get("/readyz").status_code == 200
        return False

    until(ready, 60)


def _agents(folder: Path) -> list[int]:
    """Agents of this cloud's machines; not the shells that start them again."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            if any(w.endswith(b"agent.pyz") and os.fsencode(folder) in w for w in words) and b"-c" not in words:
                found.append(int(entry.parent.name))
    return found


def _figures(here: Stage, director: Director, stream: Stream, rounds: Rounds) -> dict[str, Any]:
    ids = [*stream.jobs.values(), *rounds.job_ids]
    jobs = [director.finished(id_, ENDED_WITHIN_S) for id_ in ids]
    director.all_gone(120)
    once = sum(_counted_once(director, job) for job in jobs)
    begun = Counter(lines(here.folder / "marks" / "begun"))
    attempts = {name: director.tasks(id_)[name]["attempts"] for name, id_ in stream.jobs.items()}
    explained = sum(1 <= begun[name] <= attempts[name] for name in stream.jobs)
    wrong = [problem for results in rounds.results for problem in check_reports(results)]
    accepted = len(every(director, "/jobs"))
    nodes = every(director, "/nodes")
    launched = [node["instance_id"] for node in nodes if node["instance_id"]]
    figures = {
        "jobs": len(ids),
        "jobs_accepted": accepted,
        "jobs_succeeded": sum(job["state"] == "succeeded" for job in jobs),
        "jobs_counted_once": once,
        "commands": len(stream.jobs),
        "commands_run_once": sum(begun[name] == 1 for name in stream.jobs),
        "commands_run_as_often_as_attempted": explained,
        "demo_rounds": len(rounds.results),
        "reports_wrong": len(wrong),
        "machines": len({machine["InstanceId"] for machine in director.machines()}),
        "machines_of_a_node": len(set(launched)),
        "machines_left": here.machines_left(),
        "audit_agrees": director.audit()["agrees"],
        "nodes_ended": dict(Counter(node["end_reason"] for node in nodes)),
    }
    right = len(ids) == accepted == figures["jobs_succeeded"] == once and explained == len(stream.jobs) and not wrong
    machines = figures["machines"] == len(launched) == len(set(launched)) and figures["machines_left"] == 0
    for problem in wrong:
        print(problem, file=sys.stderr)
    return {"passed": right and machines and figures["audit_agrees"], **figures}


def _counted_once(director: Director, job: dict[str, Any]) -> bool:
    """One event ends the job, and of each task that succeeded one attempt was accepted."""
    ends = [e for e in director.events(job_id=job["id"]) if e["subject"] == "job" and e["to_state"] in OVER]
    attempts = director.get(f"/jobs/{job['id']}/attempts")["items"]
    accepted = Counter(attempt["task_id"] for attempt in attempts if attempt["state"] == "succeeded")
    done = [task for task in director.tasks(job["id"]).values() if task["state"] == "succeeded"]
    return len(ends) == 1 and accepted == dict.fromkeys((task["id"] for task in done), 1)


if __name__ == "__main__":
    sys.exit(main())
