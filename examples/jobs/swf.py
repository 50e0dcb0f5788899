"""Reads a trace in the Standard Workload Format; writes results whole or not at all.

Python 3.8+, standard library only: the scripts beside this file run on rented machines that have nothing else.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple


class Job(NamedTuple):
    """One line of a trace."""

    local_s: int  # submit time on the site's wall clock, in seconds since 1970
    run_s: int
    processors: int

    @property
    def hour(self) -> int:
        return time.gmtime(self.local_s).tm_hour

    @property
    def date(self) -> str:
        return time.strftime("%Y-%m-%d", time.gmtime(self.local_s))


def read_trace(path: str) -> list[Job]:
    """Every job of the trace, in its order."""
    header: dict[str, str] = {}
    jobs: list[Job] = []
    with Path(path).open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(";"):
                key, _, value = line[1:].partition(":")
                header.setdefault(key.strip(), value.strip())
            elif line.strip():
                _job, submit_s, _wait, run_s, processors = (int(field) for field in line.split()[:5])
                if run_s < 0 or processors < 1:
                    raise SystemExit(f"{path}: the run time or the processors are unknown in: {line.strip()}")
                local_s = int(header["UnixStartTime"]) + int(header["TimeZone"]) + submit_s
                jobs.append(Job(local_s, run_s, processors))
    if not jobs:
        raise SystemExit(f"{path}: a trace without jobs")
    return jobs


def write_json(path: str, result: dict[str, Any]) -> None:
    """Put the result in place in one step, so that a try cut short leaves nothing half-written."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    part.replace(target)
    print(f"wrote {target.name}", flush=True)
