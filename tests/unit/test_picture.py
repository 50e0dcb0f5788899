"""The picture that waiting draws, from a moment of a job, on a terminal of known size."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.live import Live

from orchestrator.cli.progress import Picture
from orchestrator.cli.waiting import Snapshot

JOB: dict[str, Any] = {
    "id": 7,
    "name": "nightly",
    "state": "running",
    "reason": "its first task runs",
    "waiting": None,
    "tasks": 4,
    "open_tasks": 3,
    "submitted_at": "2026-03-02T08:00:00+00:00",
    "finished_at": None,
}


def drawn(now: Snapshot) -> list[str]:
    """The last picture's lines."""
    out = io.StringIO()
    console = Console(file=out, width=100, height=40, force_terminal=False, color_system=None)
    with Live(console=console, auto_refresh=False) as live:
        Picture(live).update(now)
    return out.getvalue().splitlines()


def test_tasks_machines_reports_and_reasons() -> None:
    reports = [
        {"name": "load", "progress": 0.4, "progress_note": "4 of 10 files\x1b[2J"},
        {"name": "sum", "progress": 0.0, "progress_note": None},
    ]
    sentences = ["Task last: is waiting: needs load", "x" * 300]
    now = Snapshot(JOB, {"succeeded": 1, "running": 2, "waiting": 1}, reports, {"ready": 1, "booting": 1}, sentences)
    lines = drawn(now)
    assert "job 7 nightly" in lines[0] and "1/4" in lines[0]
    assert lines[1] == "  tasks: 1 succeeded · 2 running · 1 waiting"
    assert lines[2] == "  nodes: 1 ready · 1 booting"
    assert "load" in lines[3] and "40% 4 of 10 files\N{REPLACEMENT CHARACTER}[2J" in lines[3]
    assert "sum" in lines[4] and "0%" in lines[4]
    assert lines[5] == "  Task last: is waiting: needs load"
    assert len(lines[6]) < 100 and lines[6].endswith("…"), "one line each"
