"""What the demo shows while it runs: each change of state with its reason, a line each, as it is committed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import IO, Any

import httpx
import orjson
from rich.console import Console
from rich.text import Text

from orchestrator.demo.stage import plain_client

COLOURS = {
    "queued": "yellow", "requested": "yellow", "launching": "yellow", "booting": "cyan", "ready": "green",
    "running": "bright_blue", "succeeded": "bold green", "failed": "bold red", "lost": "bold red",
    "draining": "magenta", "terminating": "magenta", "terminated": "dim",
}  # fmt: skip
SHOWN = ("job", "task", "node", "deployment", "pool")


class Show:
    """Follows the master's event stream on a thread; the names of jobs and tasks are learned as they appear."""

    def __init__(self, url: str, token: str, out: IO[str]) -> None:
        self._api = plain_client(f"{url}/api/v1", token)
        self._console = Console(file=out, highlight=False, soft_wrap=True)
        self._tasks: dict[int, str] = {}
        self._jobs: dict[int, str] = {}
        self._last = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="show", daemon=True)

    def start(self) -> None:
        """Show what comes from now on."""
        newest = self._get("/events", {"limit": 1})["items"]
        self._last = newest[0]["id"] if newest else 0
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()

    def say(self, text: str = "", style: str = "") -> None:
        self._console.print(text, style=style, markup=False)

    def _follow(self) -> None:
        """The stream tells that something happened; what is read from the history, so that nothing is missed."""
        while not self._ending.is_set():
            with suppress(httpx.TransportError, httpx.HTTPStatusError):
                self._catch_up()
                with self._api.stream("GET", "/events/stream") as stream:
                    for line in stream.iter_lines():
                        if self._ending.is_set():
                            return
                        if line.startswith("data: "):
                            self._show(orjson.loads(line[6:]))
                        elif line == ": connected":
                            self._catch_up()
            self._ending.wait(0.3)  # the master is away; it is asked again

    def _catch_up(self) -> None:
        while events := self._get("/events", {"after": self._last, "limit": 1000})["items"]:
            for event in events:
                self._show(event)

    def _show(self, event: Mapping[str, Any]) -> None:
        if event["id"] <= self._last:
            return
        self._last = event["id"]
        if event["subject"] not in SHOWN:
            return
        at = datetime.fromisoformat(event["at"]).astimezone()
        line = Text(f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}  ", style="dim")
        line.append(f"{self._name(event):<27}", style="bold")
        if event["to_state"]:
            if event["from_state"]:
                line.append(f"{event['from_state']} → ", style="dim")
            line.append(event["to_state"], style=COLOURS.get(event["to_state"], ""))
            line.append("  ")
        line.append(event["reason"])
        self._console.print(line)

    def _name(self, event: Mapping[str, Any]) -> str:
        subject, id_ = event["subject"], event["subject_id"]
        if subject == "node":
            return f"node {id_}"
        if subject == "pool":
            return f"pool {id_}"
        job = self._job(event["job_id"])
        if subject == "task":
            return f"{job} {self._task(event['job_id'], id_)}"
        return job

    def _job(self, job_id: int | None) -> str:
        if job_id is None:
            return "job"
        if job_id not in self._jobs:
            self._jobs[job_id] = f"job {job_id} ({self._get(f'/jobs/{job_id}', {})['client']})"
        return self._jobs[job_id]

    def _task(self, job_id: int, task_id: int) -> str:
        if task_id not in self._tasks:
            items = self._get(f"/jobs/{job_id}/tasks", {"limit": 1000})["items"]
            self._tasks |= {task["id"]: task["name"] for task in items}
        return self._tasks.get(task_id, str(task_id))

    def _get(self, path: str, params: Mapping[str, Any]) -> Any:
        return self._api.get(path, params=dict(params)).raise_for_status().json()
