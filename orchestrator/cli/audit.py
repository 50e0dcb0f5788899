"""`orchestrator audit`: every machine in the clouds against every row."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.render import table
from orchestrator.cli.session import Session, say

COLUMNS = ("cloud", "machine", "the cloud says", "node", "we say", "trouble")


def audit(
    session: Session,
    fix: Annotated[bool, typer.Option("--fix", help="first end what is nobody's, and rows whose machine is gone")] = False,
) -> None:
    """Ask every cloud now, and compare each machine with its row. Exit status: 0 where both agree, 1 where not."""
    found = session.api.post("audit/fix") if fix else session.api.get("audit")

    def text() -> None:
        rows = [
            (item["cloud"], item["machine"], item["cloud_says"], item["node"], item["we_say"], item["trouble"])
            for item in found["findings"]
        ]
        table(COLUMNS, rows, "No machine in any cloud, and no row that says so.")
        print(f"{found['alive']} machine(s) in the clouds, {found['accounted']} accounted for")

    session.show(found, text)
    for cloud, why in found["unreachable"].items():
        say(f"trouble: cloud {cloud} does not answer, its machines are not known: {why}")
    for item in found["findings"]:
        if item["trouble"]:
            what = f"machine {item['machine']}" if item["machine"] else f"node {item['node']}"
            say(f"trouble: {what} in cloud {item['cloud']}: {item['trouble']}")
    if not found["agrees"]:
        raise typer.Exit(1)
