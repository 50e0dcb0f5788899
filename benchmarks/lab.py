"""A local cloud and a real master for a benchmark, each a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from providers import localcloud


@dataclass
class Lab:
    """A running master with its API client and its cloud."""

    api: httpx.Client
    cloud: localcloud.LocalCloud
    master: subprocess.Popen[bytes]
    folder: Path

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
                if any(a.endswith(b"agent.pyz") and str(self.folder).encode() in a for a in command) and b"-c" not in command:
                    found.append(int(entry.name))
        return found


@contextmanager
def lab() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="eo-bench-"))
    try:
        with localcloud.start(folder / "cloud", boot_delay_s=0.1, stop_delay_s=0.1) as cloud:
            port = _free_port()
            config = folder / "orchestrator.toml"
            config.write_text(
                f'port = {port}\ndata_dir = "{folder / "data"}"\n[clouds.local]\nprovider = "ec2"\n'
                f'endpoint_url = "{cloud.endpoint_url}"\naccess_key_id = "local"\nsecret_access_key = "local"\n'
            )
            command = [sys.executable, "-m", "orchestrator", "serve", "--config", str(config)]
            master = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(folder / "master.log").open("wb"))
            try:
                url = f"http://127.0.0.1:{port}"
                until(lambda: _answers(url), "the master")
                token = (folder / "data" / "admin.token").read_text()
                with httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=60) as api:
                    yield Lab(api, cloud, master, folder)
            finally:
                master.send_signal(signal.SIGTERM)
                master.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
