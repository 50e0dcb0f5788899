"""The `orchestrator` command.

A new one is one line here: `app.command(NAME)(function)`, or `command(app, NAME)(function)` where it calls the master.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from orchestrator.cli import clients, clouds, jobs, nodes, notify, pools, secrets, shares, templates, tokens, users
from orchestrator.cli.audit import audit
from orchestrator.cli.demo import demo
from orchestrator.cli.doctor import doctor
from orchestrator.cli.events import audit_log, events
from orchestrator.cli.session import ConfigFile, command, load_settings
from orchestrator.cli.simulate import simulate
from orchestrator.cli.submit import submit
from orchestrator.cli.upkeep import backup, migrate, on_the_database, restore


class Tls(StrEnum):
    SELF_SIGNED = "self-signed"


STATUS = (
    "Exit status: 0 done, 1 the audit or the doctor found trouble, or a trial message did not arrive, 2 refused or used "
    "wrongly, 4 no master answers, 130 Ctrl-C. Of a job that was waited for: `orchestrator submit --help`."
)
# Help without rich: it is drawn three times as fast, and is plain in a pipe.
app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, epilog=STATUS
)


@app.callback()
def _root() -> None:
    """Elastic Orchestrator: batch jobs that rent virtual machines only while there is work."""


@app.command()
@on_the_database
def serve(
    config: ConfigFile = None,
    tls: Annotated[Tls | None, typer.Option(help="make a certificate and serve HTTPS with it")] = None,
) -> None:
    """Run the master."""
    settings = load_settings(config, tls=tls)
    from orchestrator.cli import serve as server

    server.run(settings)


app.command("demo")(demo)
app.command("simulate")(simulate)
command(app, "submit")(submit)
app.add_typer(jobs.app, name="job")
command(jobs.app, "notifications")(notify.job_notifications)
app.add_typer(templates.app, name="template")
app.add_typer(clients.app, name="client")
command(clients.app, "notify")(notify.client_notify)
app.add_typer(pools.app, name="pool")
app.add_typer(nodes.app, name="node")
app.add_typer(clouds.app, name="cloud")
command(clients.app, "weight")(shares.weight)
command(clients.app, "priority")(shares.priority)
app.add_typer(notify.app, name="notify")
app.add_typer(users.app, name="user")
app.add_typer(tokens.app, name="token")
command(app, "doctor")(doctor)
command(app, "audit")(audit)
app.add_typer(secrets.app, name="secrets")
app.command("backup")(backup)
app.command("restore")(restore)
app.command("migrate")(migrate)
command(app, "events")(events)
command(app, "audit-log")(audit_log)


def main() -> None:
    app()
