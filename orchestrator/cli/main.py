"""The `orchestrator` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
ConfigFile = Annotated[Path | None, typer.Option("--config", help="settings file; default: orchestrator.toml here")]


@app.callback()
def _root() -> None:
    """Elastic Orchestrator: batch jobs that rent virtual machines only while there is work."""


@app.command()
def serve(config: ConfigFile = None) -> None:
    """Run the master."""
    from orchestrator.cli import serve as command
    from orchestrator.settings import load

    command.run(load(config))


def main() -> None:
    app()
