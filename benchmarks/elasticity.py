"""Submit → launch request, and last result → terminate request: how long a machine is late, and how long it is paid idle.

Both ends of each span are events: the request's is committed right before the cloud is called.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

from benchmarks.lab import Lab, lab, percentile, report, until

ROUNDS = 15
LAUNCH_MS, TERMINATE_MS = 100.0, 200.0


def main() -> int:
    launch_ms, terminate_ms = [], []
    with lab() as here:
        here.pool("bench", max_nodes=4)
        for i in range(ROUNDS):
            job_id = here.submit(
                name=f"round-{i}", run="true", token="bench-$JOB_ID", infrastructure={"pool": "bench", "count": 1}
            )
            here.finished(job_id)
            asked = until(lambda job_id=job_id: _spans(here, job_id), "the terminate request")
            launch_ms.append(asked["launch"])
            terminate_ms.append(asked["terminate"])
    figures = {
        "launch_p50_ms": percentile(launch_ms, 0.5),
        "launch_max_ms": max(launch_ms),
        "terminate_p50_ms": percentile(terminate_ms, 0.5),
        "terminate_max_ms": max(terminate_ms),
    }
    passed = figures["launch_p50_ms"] <= LAUNCH_MS and figures["terminate_p50_ms"] <= TERMINATE_MS
    return report("elasticity", passed, rounds=ROUNDS, **figures, launch_ms_most=LAUNCH_MS, terminate_ms_most=TERMINATE_MS)


def _spans(here: Lab, job_id: int) -> dict[str, float] | None:
    attempt = here.api.get(f"/jobs/{job_id}/attempts").json()["items"][0]
    job = _events(here, job_id=job_id, subject="job")
    node = _events(here, node_id=attempt["node_id"], subject="node")
    submitted = next(event for event in job if event["to_state"] == "queued")
    ended = next(event for event in job if event["to_state"] == "succeeded")
    launching = next(event for event in node if event["to_state"] == "launching")
    asking = next((event for event in node if event["reason"].startswith("asking the cloud to end")), None)
    if asking is None:
        return None
    return {"launch": _ms(submitted, launching), "terminate": _ms(ended, asking)}


def _events(here: Lab, subject: str, **link: int) -> list[dict[str, Any]]:
    items = here.api.get("/events", params={"limit": 1000, "after": 0, **link}).json()["items"]
    return [event for event in items if event["subject"] == subject]


def _ms(begin: dict[str, Any], end: dict[str, Any]) -> float:
    return (datetime.fromisoformat(end["at"]) - datetime.fromisoformat(begin["at"])).total_seconds() * 1000


if __name__ == "__main__":
    sys.exit(main())
