"""`orchestrator secrets …`: the keys of secret parameters, on the master's own host."""

from __future__ import annotations

import typer

from orchestrator.cli.session import ConfigFile, load_settings
from orchestrator.cli.upkeep import on_the_database

app = typer.Typer(no_args_is_help=True, help="The keys that secret parameters are encrypted with.")


@app.command("rotate")
@on_the_database
def rotate(config: ConfigFile = None) -> None:
    """Make a new key and encrypt every secret with it, whether or not the master runs."""
    from orchestrator.jobs.rotation import rotate
    from orchestrator.jobs.secrets import Vault
    from orchestrator.store.engine import open_engine

    settings = load_settings(config)
    engine = open_engine(settings.database)
    done = rotate(engine, Vault(settings.secrets_file))
    engine.dispose()
    counted = f"{done.clients} secret(s) of clients and {done.jobs} of jobs"
    print(f"{counted} are encrypted with the new key in {settings.secrets_file}")


@app.callback()
def _more_than_one() -> None:
    """A group of its own, however few commands it has."""
