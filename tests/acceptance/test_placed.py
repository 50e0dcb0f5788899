"""Placement, shares and plans as a person has them: the real command, real agents on machines of a local cloud."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import LAUNCH, Cli

from orchestrator.demo.stage import stage


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with stage(tmp_path / "stage", tmp_path / "data", boot_delay_s=0.1, stop_delay_s=0.1) as running:
        yield Cli(running, tmp_path)


def write(cli: Cli, text: str) -> str:
    (cli.folder / "job.yaml").write_text(text)
    return "job.yaml"


def test_a_job_is_planned_then_placed(cli: Cli) -> None:
    cli.run("pool", "create", "plain", *LAUNCH, "--slots", "2")
    file = write(
        cli,
        """
        name: placed
        client: acme
        labels: [gpu]
        tasks:
          - {name: wide, run: "test $(nproc) -gt 0", slots: 2, memory: 16M}
          - {name: after, run: "true", needs: [wide]}
        infrastructure: {pool: plain, count: 1, token: t-$JOB_ID}
        """,
    )
    refused = cli.run("submit", file, "--dry-run", status=2)
    assert "pool change plain --label" in refused.stderr
    cli.run("pool", "change", "plain", "--label", "gpu", "--label", "ssd", "--price", "t3.micro=0.01", "--client", "acme")
    shown = cli.run("pool", "show", "plain").stdout
    assert "gpu, ssd" in shown
    assert "0.01 USD" in shown
    planned = cli.run("submit", file, "--dry-run").stdout
    assert "launch 1 × t3.micro with ami-local in cloud local" in planned
    assert "Cost: 0.01 USD an hour" in planned
    assert json.loads(cli.run("job", "list", "--output", "json").stdout)["items"] == []
    cli.run("submit", file, "--wait")
    [node] = json.loads(cli.run("node", "list", "--all", "--output", "json").stdout)["items"]
    assert node["memory_mb"] > 16  # its agent has said it
    stranger = write(cli, "{name: j, client: other, run: 'true', infrastructure: {pool: plain, count: 1, token: t}}")
    assert "--client other" in cli.run("submit", stranger, status=2).stderr
    cli.run("pool", "change", "plain", "--no-labels", "--all-clients", "--price", "t3.micro=")
    pool = json.loads(cli.run("pool", "show", "plain", "--output", "json").stdout)
    assert (pool["labels"], pool["clients"], pool["prices"]) == ([], [], {})


def test_dry_commands_and_shares(cli: Cli) -> None:
    cli.run("pool", "create", "floor", *LAUNCH, "--min-nodes", "1")
    file = write(cli, "{name: dry, client: acme, run: 'exit 9'}")
    cli.run("submit", file, "--dry-commands", "--wait")  # `exit 9` would have failed
    assert "weight 1, priority +0" in cli.run("client", "weight", "acme").stdout
    assert "weight 2.5" in cli.run("client", "weight", "acme", "2.5").stdout
    assert "weight 2.5, priority +7" in cli.run("client", "priority", "acme", "7").stdout
    assert "no client is named" in cli.run("client", "weight", "nobody", status=2).stderr
    job = json.loads(cli.run("submit", file, "--dry-commands", "--output", "json").stdout)["id"]
    shown = json.loads(cli.run("job", "show", str(job), "--output", "json").stdout)
    shown = shown.get("job", shown)
    assert (shown["priority"], shown["dry_run"]) == (7, True)
