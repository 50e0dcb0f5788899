"""Who kills the master and its agents at named points while jobs flow, and who starts the master again each time."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from theatre import Director, lines, until

from orchestrator.demo.stage import Stage, StageFailed

TOGETHER = 4


class Saboteur:
    """Arms fault points in the folder that the master and its agents were given in ORCHESTRATOR_FAULTS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def arm(self, point: str, action: str = "kill") -> None:
        fresh = self.folder.with_name("arming")
        fresh.write_text(action)
        fresh.replace(self.folder / point)

    def armed(self, point: str) -> bool:
        return (self.folder / point).exists()


class Service:
    """Starts the stage's master again whenever it has died, as a service manager does. Counts how often.

    The master it started last ends with it: the kernel watches the thread that started a process.
    """

    def __init__(self, here: Stage) -> None:
        self._here = here
        self._ending = threading.Event()
        self.restarts = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Service:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(40)

    def _run(self) -> None:
        while not self._ending.wait(0.01):
            if self._here.master.poll() is not None:
                self.restarts += 1
                with suppress(StageFailed):  # struck again while it started
                    self._here.start_master()


class Stream:
    """A client that keeps a few jobs open at a time, each with a token and so a machine of its own."""

    def __init__(self, here: Stage, marks: Path) -> None:
        self._here = here
        self._marks = marks
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.jobs: dict[str, int] = {}

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the client got no answer"

    def _run(self) -> None:
        director = Director(self._here)
        while not self._ending.is_set():
            name = f"job-{len(self.jobs)}"
            self.jobs[name] = director.submit(self._job(name), key=name)  # asked again until answered, by its key
            until(lambda: self._open(director) < TOGETHER or self._ending.is_set(), 600)

    def _open(self, director: Director) -> int:
        newest = director.get("/jobs", limit=2 * TOGETHER)["items"]
        return sum(job["state"] in ("queued", "running") for job in newest)

    def _job(self, name: str) -> Mapping[str, Any]:
        marks = self._marks
        return {
            "name": name,
            "client": "acme",
            "token": "sweep-$JOB_ID",
            "infrastructure": {"pool": "local", "count": 1},
            "retry": {"infrastructure_attempts": 20},
            "run": f'echo {name} >> {marks}/begun; sleep 0.15; echo {name} | tee left >> {marks}/ended; echo "{name} is done"',
            "artifacts": ["left"],
        }

    def all_succeeded_once(self, director: Director) -> None:
        """Every job that was accepted succeeded, by one attempt; no other job is there; nothing is left of them."""
        for name, job_id in self.jobs.items():
            job = director.finished(job_id, 60)
            assert job["state"] == "succeeded", (job, director.events(job_id=job_id))
            assert director.log(job_id, name).splitlines()[-1:] == [f"{name} is done"]
            (left,) = director.get(f"/jobs/{job_id}/artifacts")["items"]
            assert (left["path"], left["sha256"]) == ("left", hashlib.sha256(f"{name}\n".encode()).hexdigest())
            attempts = director.get(f"/jobs/{job_id}/attempts")["items"]
            assert Counter(attempt["state"] for attempt in attempts)["succeeded"] == 1, attempts
        assert len(set(self.jobs.values())) == len(self.jobs) == len(every(director, "/jobs"))
        director.all_gone(60)
        director.each_machine_once()

    def executions(self) -> Counter[str]:
        """How often the command of each job came to its end."""
        return Counter(lines(self._marks / "ended"))


def every(director: Director, path: str) -> list[Any]:
    """All items of a listing, page by page."""
    items: list[Any] = []
    before = None
    while True:
        page = director.get(path, limit=500, **({"before": before} if before else {}))
        items += page["items"]
        if (before := page["next"]) is None:
            return items
