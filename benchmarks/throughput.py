"""No-op jobs through one real agent with 2 slots, against the rate at which one process spawns `true`.

Each job is a real process, its log captured, its outcome committed (SQLite, FULL). Floor: 0.6 × the spawn rate.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.lab import lab, report, until

JOBS = 4000
FLOOR = 0.6


def spawn_rate(seconds: float = 2.0) -> float:
    """`true` by subprocess, one after the other."""
    end, count = time.perf_counter() + seconds, 0
    begin = time.perf_counter()
    while time.perf_counter() < end:
        subprocess.run(["true"])
        count += 1
    return count / (time.perf_counter() - begin)


def main() -> int:
    baseline = spawn_rate()
    with lab() as here:
        here.pool("bench", max_nodes=1, slots=2)
        began = time.perf_counter()
        for i in range(JOBS):
            here.submit(name=f"noop-{i}", run="true")
        submit_s = time.perf_counter() - began
        first = here.job(1)
        assert first["state"] == "queued", first
        here.api.patch("/pools/bench", json={"min_nodes": 1}).raise_for_status()
        until(lambda: here.job(JOBS)["state"] == "succeeded", "the last job", within_s=300)
        until(lambda: not here.api.get("/jobs", params={"state": "running", "limit": 1}).json()["items"], "running jobs")
        jobs = _jobs(here)
        assert all(job["state"] == "succeeded" for job in jobs), "not all succeeded"
        from datetime import datetime

        starts = [datetime.fromisoformat(job["started_at"]).timestamp() for job in jobs]
        ends = [datetime.fromisoformat(job["finished_at"]).timestamp() for job in jobs]
        rate = JOBS / (max(ends) - min(starts))
    ratio = rate / baseline
    return report(
        "throughput", ratio >= FLOOR, jobs=JOBS, jobs_per_s=rate, spawns_per_s=baseline, ratio=ratio, floor=FLOOR,
        submits_per_s=JOBS / submit_s,
    )  # fmt: skip


def _jobs(here: object) -> list[dict[str, str]]:
    items: list[dict[str, str]] = []
    before = None
    while True:
        params = {"limit": 1000} | ({"before": before} if before else {})
        page = here.api.get("/jobs", params=params).json()  # type: ignore[attr-defined]
        items += page["items"]
        before = page["next"]
        if before is None:
            return items


if __name__ == "__main__":
    sys.exit(main())
