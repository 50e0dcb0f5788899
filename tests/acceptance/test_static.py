"""Machines that exist already: a person pastes a command, the machine serves, leaves when told so, and always stays up."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from test_cli import Cli
from test_tls import tls_stage
from theatre import Director, until

from orchestrator.demo.stage import Stage, stage

OWN = {"name": "own", "cloud": "own", "boot_timeout_s": 60, "lease_s": 60}
CLOUD = 'look_s = 2\nclouds.own.provider = "static"'


class Box:
    """A machine that somebody has: a folder, joined by an ordinary user. Its power button would leave a mark."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "sbin").mkdir(parents=True)
        (root / "sbin/poweroff").write_text(f"#!/bin/sh\ntouch '{root}/is-off'\n")
        (root / "sbin/poweroff").chmod(0o755)

    def paste(self, command: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.root), "ORCHESTRATOR_ROOT": str(self.root)}
        return subprocess.run(["sh", "-c", command], env=environment, text=True, capture_output=True)

    @property
    def is_off(self) -> bool:
        return (self.root / "is-off").exists()

    @property
    def has_agent(self) -> bool:
        """Whether an agent runs, or anything of one is left that could start again."""
        places = [self.root / place / "elastic-orchestrator" for place in ("etc", "opt", "var/lib")]
        return any(place.exists() for place in [*places, self.pid])

    @property
    def pid(self) -> Path:
        return self.root / "run/elastic-orchestrator-agent.pid"

    def close(self) -> None:
        with suppress(FileNotFoundError, ProcessLookupError):
            os.killpg(int(self.pid.read_text()), signal.SIGKILL)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path / "stage", tmp_path / "data", settings=CLOUD) as running:
        yield running


@pytest.fixture
def director(here: Stage) -> Director:
    director = Director(here)
    director.post("/pools", OWN)
    return director


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "a box of ours")
    yield made
    made.close()


def enrolment(director: Director, **asked: Any) -> dict[str, Any]:
    found: dict[str, Any] = director.post("/pools/own/enrolments", asked)
    return found


def state(director: Director, node: int) -> str:
    return str(director.get(f"/nodes/{node}")["state"])


def test_from_a_bare_machine_to_a_job_and_out_again(director: Director, box: Box) -> None:
    job = director.submit({"name": "hello", "client": "acme", "tasks": [{"name": "hi", "run": "echo hello"}]})
    for _ in range(2):  # the same machine may come again
        (node,) = (found := enrolment(director, name="box"))["nodes"]
        pasted = box.paste(found["command"])
        assert pasted.returncode == 0, pasted.stderr
        until(lambda node=node: state(director, node) == "ready")
        assert director.get(f"/nodes/{node}")["instance_id"].startswith("box-")
        assert director.finished(job)["state"] == "succeeded"
        again = box.paste(enrolment(director)["command"])
        assert again.returncode == 1
        assert "an agent is here already" in again.stderr
        director.post(f"/nodes/{node}/terminate")
        until(lambda node=node: state(director, node) == "terminated")
        until(lambda: not box.has_agent)
    assert not box.is_off
    assert director.log(job, "hi") == "hello\n"
    assert director.audit()["agrees"]
    assert director.here.cloud.calls().get("TerminateInstances", 0) == 0


def test_a_node_that_is_ended_at_once_leaves_no_task_running_there(director: Director, box: Box, tmp_path: Path) -> None:
    task = {"name": "t", "run": f"echo $$ > {tmp_path}/pid; trap '' TERM; while :; do sleep 0.1; done"}
    director.submit({"name": "long", "client": "acme", "tasks": [task]})
    (node,) = (found := enrolment(director))["nodes"]
    box.paste(found["command"])
    pid = int(until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    director.post(f"/nodes/{node}/terminate?now=true")
    until(lambda: not box.has_agent)
    assert not Path(f"/proc/{pid}").exists()
    assert not box.is_off


def test_a_script_that_was_changed_on_its_way_is_not_run(director: Director, box: Box) -> None:
    command = enrolment(director)["command"]
    pasted = box.paste(re.sub(r"[0-9a-f]{64}  ", "0" * 64 + "  ", command))
    assert pasted.returncode != 0
    assert not box.has_agent


def test_an_agent_that_was_changed_on_its_way_is_not_run(director: Director, box: Box) -> None:
    pasted = box.paste(changed(enrolment(director)["command"], agent_sha256="0" * 64, boot_timeout_s=1))
    assert pasted.returncode != 0
    assert "refused: agent.pyz has SHA-256" in pasted.stdout
    assert "no agent on this machine\n" in pasted.stdout
    assert not (box.root / "etc/elastic-orchestrator/agent.json").exists(), "nor is the secret left there"
    assert not box.is_off


def changed(command: str, **settings: object) -> str:
    """The command with other settings in it."""
    given = command.split()[1]
    config = json.loads(base64.b64decode(given))
    return command.replace(given, base64.b64encode(json.dumps({**config, **settings}).encode()).decode())


def test_a_machine_that_is_refused_leaves(director: Director, box: Box, tmp_path: Path) -> None:
    found = enrolment(director)
    first, second = box, Box(tmp_path / "a second box")
    assert first.paste(found["command"]).returncode == 0
    until(lambda: state(director, found["nodes"][0]) == "ready")
    second.paste(found["command"])
    until(lambda: not second.has_agent)
    assert "no place is left" in (second.root / "var/log/elastic-orchestrator-agent.log").read_text()
    assert not second.is_off
    assert state(director, found["nodes"][0]) == "ready"


def test_the_command_pins_the_master_s_certificate(tmp_path: Path, box: Box) -> None:
    with tls_stage(tmp_path, 'clouds.own.provider = "static"') as here:
        director = Director(here)
        director.post("/pools", OWN)
        command = enrolment(director)["command"]
        pasted = box.paste(changed(command, ca_pin="0" * 64, boot_timeout_s=1))
        assert pasted.returncode != 0
        assert "expected was the pin 0000" in pasted.stdout
        found = enrolment(director)
        assert box.paste(found["command"]).returncode == 0
        until(lambda: state(director, found["nodes"][0]) == "ready")


def test_the_command_line_as_the_document_has_it(here: Stage, box: Box) -> None:
    cli = Cli(here, here.folder)
    made = cli.run("pool", "create", "own", "--cloud", "own", "--slots", "2")
    assert made.stdout == "pool own created: up to 10 machine(s) in cloud own\n"
    printed = cli.run("node", "enrol", "own", "--name", "box", "--for", "acme/night")
    assert printed.stdout.startswith("echo ") and printed.stdout.count("\n") == 1, "it can be handed to a shell as it is"
    assert "a secret that works once" in printed.stderr
    assert box.paste(printed.stdout).returncode == 0
    until(lambda: "ready" in cli.run("node", "list", "--pool", "own").stdout)
    refused = cli.run("node", "enrol", "own", "--count", "10", status=2)
    assert "room for 9 of its 10 node(s)" in refused.stderr
    cli.run("pool", "create", "no", "--cloud", "own", "--image", "ami-1", status=2)
    cli.run("pool", "create", "no", "--cloud", "local", status=2)
