"""`orchestrator demo`: the main job on a local cloud, no account needed."""

from __future__ import annotations

import signal
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="keep the master and the local cloud running, for playing")] = False,
    output: Annotated[Output, typer.Option("--output", help="json: the summary as the last line")] = Output.TEXT,
    data_dir: Annotated[Path, typer.Option(help="with --keep: the master's data folder")] = Path("orchestrator-data"),
    port: Annotated[int, typer.Option(help="with --keep: the master's port, if it is free")] = 8642,
) -> None:
    """Two clients' jobs bring up machines on a local cloud, run there, and leave nothing behind."""
    missing = [name for name in ("moto", "flask", "flask_cors") if find_spec(name) is None]
    if missing:
        told = f"error: the local cloud needs {', '.join(missing)}; pip install 'elastic-orchestrator[local]'"
        typer.echo(told, err=True)
        raise typer.Exit(2)
    from orchestrator.demo import run

    for end in (signal.SIGINT, signal.SIGTERM):  # a service manager's end is as orderly as Ctrl-C
        signal.signal(end, signal.default_int_handler)
    raise typer.Exit(run.keep(data_dir, port) if keep else run.demo(as_json=output is Output.JSON))
