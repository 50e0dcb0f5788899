"""Submit → start on a warm, idle agent: from just before the request to the process' start on the node, one at a time."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
from collections.abc import Callable
from datetime import datetime
from urllib.parse import urlsplit

from benchmarks.lab import Lab, lab, percentile, report

JOBS = 300
P50_MS, P99_MS = 3.0, 15.0


def main() -> int:
    with lab() as here:
        here.pool("bench", max_nodes=1, slots=2, min_nodes=1)
        here.ready_nodes(1)
        for i in range(20):
            here.finished(here.submit(name=f"warm-{i}", run="true"))
        waits_ms = []
        submit = _plain_submit(here)
        for i in range(JOBS):
            asked_at = time.time()
            job_id = submit(f"one-{i}")
            time.sleep(0.05)  # asking how it is would be work for the master while it is timed
            here.finished(job_id)
            attempt = here.api.get(f"/jobs/{job_id}/attempts").json()["items"][0]
            waits_ms.append((datetime.fromisoformat(attempt["started_at"]).timestamp() - asked_at) * 1000)
    p50, p99 = percentile(waits_ms, 0.5), percentile(waits_ms, 0.99)
    passed = p50 <= P50_MS and p99 <= P99_MS
    return report("latency", passed, jobs=JOBS, p50_ms=p50, p99_ms=p99, p50_ms_most=P50_MS, p99_ms_most=P99_MS)


def _plain_submit(here: Lab) -> Callable[[str], int]:
    """One packet on one connection: a client library's own time is not the product's."""
    url = urlsplit(here.stage.url)
    connection = socket.create_connection((url.hostname or "", url.port or 80))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {here.stage.token}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: "

    def submit(name: str) -> int:
        body = json.dumps({"name": name, "client": "bench", "run": "true"})
        connection.sendall(f"{head}{len(body)}\r\n\r\n{body}".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return int(json.loads(answer.read())["id"])

    return submit


if __name__ == "__main__":
    sys.exit(main())
