"""Templates, clients and secrets as a person has them: the real command against a real master."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from test_cli import Cli, cli  # noqa: F401 - a fixture

NIGHTLY = """\
name: {name}
client: {client}
# Comments are kept with the version.
params:
  REGION: {region}
  DAY: {{required: true, description: the day to load}}
run: echo "$REGION $DAY $PASSWORD"
"""


def write(cli: Cli, name: str, region: str = "eu", client: str = "acme") -> str:  # noqa: F811
    path = cli.folder / f"{name}.yaml"
    path.write_text(NIGHTLY.format(name=name, client=client, region=region))
    return str(path)


def test_a_template_from_its_first_commit_to_its_end(cli: Cli) -> None:  # noqa: F811
    file = write(cli, "nightly")
    assert "version 1 of template nightly" in cli.run("template", "commit", file, "-m", "first").stdout
    assert "says the same already: nothing was committed" in cli.run("template", "commit", file, "-m", "again").stdout
    cli.run("template", "commit", write(cli, "nightly", region="us"), "-m", "moved")
    assert "-  REGION: eu\n+  REGION: us\n" in cli.run("template", "diff", "nightly").stdout
    cli.run("template", "rollback", "nightly", "1")
    found = cli.json("template", "show", "nightly")
    assert (found["number"], [each["note"] for each in found["versions"]]) == (1, ["moved", "first"])
    assert cli.run("template", "show", "nightly", "--version", "1").stdout == NIGHTLY.format(
        name="nightly", client="acme", region="eu"
    )

    refused = cli.run("template", "launch", "nightly", status=2).stderr
    assert "params.DAY: is required and nobody gives it; launch with --param DAY=…" in refused
    done = cli.run("template", "launch", "nightly", "--param", "DAY=monday", "--wait", "--idempotency-key", "once")
    job = done.stdout.split()[0]
    again = cli.run("template", "launch", "nightly", "--param", "DAY=monday", "--idempotency-key", "once")
    assert again.stdout.strip() == job
    assert cli.run("job", "logs", job).stdout == "eu monday \n"
    shown = cli.run("job", "show", job).stdout
    assert "nightly, version 1" in shown and found["sha256"] in shown
    assert [line.split() for line in shown.splitlines()[-2:]] == [["DAY", "monday", "launch"], ["REGION", "eu", "template"]]

    cli.run("template", "delete", "nightly")
    assert "there is no template nightly" in cli.run("template", "launch", "nightly", status=2).stderr
    assert cli.json("job", "show", job)["template"] == "nightly"


def test_what_is_invalid_is_not_committed_and_told_by_its_line(cli: Cli) -> None:  # noqa: F811
    path = Path(write(cli, "broken"))
    path.write_text(path.read_text().replace("run:", "retry: {attempts: 0}\nrum:"))
    told = cli.run("template", "commit", str(path), "-m", "x", status=2).stderr.splitlines()
    assert [line.split(": ")[:2] for line in told] == [
        [f"{path}:1", "tasks"],
        [f"{path}:7", "retry.attempts"],
        [f"{path}:8", "rum"],
    ]
    assert told[2].endswith("unknown field; remove it or mend its spelling")
    assert cli.run("submit", str(path), "--param", "DAY=x", status=2).stderr.splitlines() == told
    assert "there is no template broken" in cli.run("template", "show", "broken", status=2).stderr


def test_a_client_s_secret_is_set_used_masked_and_encrypted_anew(cli: Cli) -> None:  # noqa: F811
    client = "discreet"
    cli.run("client", "params", "set", client, "REGION", "of the client")
    told = cli.run("client", "params", "set", client, "PASSWORD", "-", "--secret", stdin="correct horse\n").stdout
    assert told == f"secret parameter PASSWORD of client {client} is set\n"
    assert cli.run("client", "params", "get", client, "PASSWORD").stdout == "***\n"
    assert cli.json("client", "params", "get", client)["precedence"] == ["client", "template", "launch"]
    assert client in cli.run("client", "list").stdout
    cli.run("template", "commit", write(cli, "discreet-load", client=client), "-m", "first")

    def launched() -> str:
        job = cli.run("template", "launch", "discreet-load", "--param", "DAY=monday", "--wait").stdout.split()[0]
        sources = {each["name"]: (each["value"], each["source"]) for each in cli.json("job", "show", job)["params"]}
        assert sources == {"PASSWORD": ("***", "client"), "REGION": ("eu", "template"), "DAY": ("monday", "launch")}
        return cli.run("job", "logs", job).stdout

    assert launched() == "eu monday *************\n"
    rotated = cli.run("secrets", "rotate", "--config", str(cli.stage.config), env=dict(os.environ)).stdout
    assert "1 secret(s) of clients and 1 of jobs are encrypted with the new key" in rotated
    assert launched() == "eu monday *************\n", "while the master runs"
    cli.run("client", "params", "unset", client, "PASSWORD")
    assert "has no parameter PASSWORD" in cli.run("client", "params", "unset", client, "PASSWORD", status=2).stderr


def test_a_short_secret_and_a_stranger_s_name_are_refused(cli: Cli) -> None:  # noqa: F811
    short = cli.run("client", "params", "set", "acme", "PIN", "123", "--secret", status=2).stderr
    assert "a secret has at least 4 characters" in short
    cli.run("client", "params", "set", "acme", "A B", "x", status=2)
    assert "there is no client nobody" in cli.run("client", "params", "get", "nobody", status=2).stderr
    cli.run("template", "commit", write(cli, "owned"), "-m", "first")
    taken: Any = cli.run("template", "commit", write(cli, "owned", client="globex"), "-m", "mine", status=2)
    assert "another client has a template named 'owned'" in taken.stderr
