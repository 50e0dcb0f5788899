"""A job of 10,000 tasks in one call, on both databases: how long it takes, what others wait meanwhile, how fast it is read.

Floors: 5 s for the submission, 0.5 s for the longest wait of a small job that is submitted meanwhile, 0.3 s for the slowest
page.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext

from benchmarks.lab import Lab, lab, percentile, postgresql, report

TASKS = 10_000
MOST_SUBMIT_S, MOST_WAIT_S, MOST_PAGE_S = 5.0, 0.5, 0.3


def main() -> int:
    return max(_on("sqlite"), _on("postgresql"))


def _on(database: str) -> int:
    with postgresql() if database == "postgresql" else nullcontext("") as settings, lab(settings) as here:
        quiet = [_timed(lambda: here.submit(name="small", run="true")) for _ in range(100)]
        waits: list[float] = []
        over = threading.Event()
        other = threading.Thread(target=_submit_until, args=(here, over, waits))
        other.start()
        time.sleep(0.2)
        units = [{"name": f"task-{i}", "run": "true", "env": {"N": str(i)}} for i in range(TASKS)]
        jobs: list[int] = []
        submit_s = _timed(lambda: jobs.append(here.submit(name="large", tasks=units)))
        over.set()
        other.join()
        pages = {name: _timed(lambda path=path: here.api.get(path).raise_for_status()) for name, path in _pages(jobs[0])}  # type: ignore[misc]
    slowest = max(pages.values())
    return report(
        "volume", submit_s <= MOST_SUBMIT_S and max(waits) <= MOST_WAIT_S and slowest <= MOST_PAGE_S,
        database=database, tasks=TASKS, submit_s=submit_s, tasks_per_s=TASKS / submit_s,
        small_quiet_p50_s=percentile(quiet, 0.5), small_meanwhile_p50_s=percentile(waits, 0.5),
        small_meanwhile_most_s=max(waits), pages_s={name: round(value, 4) for name, value in pages.items()},
        floors={"submit_s": MOST_SUBMIT_S, "small_meanwhile_most_s": MOST_WAIT_S, "page_s": MOST_PAGE_S},
    )  # fmt: skip


def _pages(job: int) -> list[tuple[str, str]]:
    return [
        ("jobs", "/jobs"),
        ("job", f"/jobs/{job}"),
        ("tasks", f"/jobs/{job}/tasks?limit=100"),
        ("tasks, the last", f"/jobs/{job}/tasks?limit=100&after={TASKS - 100}"),
        ("events", f"/events?job_id={job}&limit=100"),
        ("explain", f"/jobs/{job}/explain"),
    ]


def _submit_until(here: Lab, over: threading.Event, waits: list[float]) -> None:
    with here.stage.api() as api:
        while not over.is_set():
            began = time.perf_counter()
            api.post("/jobs", json={"client": "other", "name": "small", "run": "true"}).raise_for_status()
            waits.append(time.perf_counter() - began)
            time.sleep(0.005)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
