"""Notifications as people and programs have them: a real master, a real agent, a real receiver, the real command."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from receiver import Receiver
from theatre import Director, until

from orchestrator.demo.stage import Stage, stage


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("notifications")
    with stage(root / "stage", root / "data", boot_delay_s=0.1, stop_delay_s=0.1, settings="look_s = 1") as opened:
        Director(opened).pool(min_nodes=1)
        yield opened


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    opened = Receiver()
    yield opened
    opened.close()


def orchestrator(here: Stage, *words: str, status: int = 0) -> str:
    environment = {**os.environ, "ORCHESTRATOR_URL": here.url, "ORCHESTRATOR_TOKEN": here.token}
    command = [sys.executable, "-m", "orchestrator", *words]
    done = subprocess.run(command, env=environment, cwd=here.folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout + done.stderr


def test_a_jobs_end_reaches_its_receivers_and_is_shown(here: Stage, receiver: Receiver) -> None:
    director = Director(here)
    added = json.loads(
        orchestrator(here, "client", "notify", "acme", "add", f"{receiver.url}/its-secret", "--on", "failed", "-o", "json")
    )
    wish = {"webhook": f"{receiver.url}?own", "secret": "billing", "on": ["always"]}
    job = director.submit({"name": "breaks", "client": "acme", "run": "exit 7", "notify": [wish]})
    director.finished(job)

    until(lambda: len(receiver.got) == 2)
    secret = {
        True: orchestrator(here, "notify", "secret", "--client", "acme", "--name", "billing").strip(),
        False: orchestrator(here, "notify", "secret").strip(),
    }
    proofs = set()
    for got in receiver.got:
        headers, document = got.headers, got.document
        assert (document["event"], document["job"]["id"]) == ("job.failed", job)
        assert [task["exit_code"] for task in document["failed_tasks"]] == [7]
        text = f"{headers['X-Orchestrator-Timestamp']}.{document['id']}.".encode() + got.body
        named = {own: "sha256=" + hmac.new(key.encode(), text, hashlib.sha256).hexdigest() for own, key in secret.items()}
        proofs |= {own for own, proof in named.items() if proof == headers["X-Orchestrator-Signature"]}
    assert proofs == {True, False}, "one signed with the client's own secret, one with the installation's"

    def sent() -> Any:
        items = director.get(f"/jobs/{job}/notifications")["items"]
        return items if {item["state"] for item in items} == {"sent"} else None

    assert len(until(sent)) == 2
    told = orchestrator(here, "job", "notifications", str(job))
    assert told.count("sent") >= 2 and "answered 204" in told
    assert "its-secret" not in told + str(director.events(job_id=job)), "a webhook's path is its password"
    assert orchestrator(here, "client", "notify", "acme").count("127.0.0.1") == 1
    orchestrator(here, "client", "notify", "acme", "remove", str(added["number"]))
    assert "127.0.0.1" not in orchestrator(here, "client", "notify", "acme", "list")
    assert "no notification 99" in orchestrator(here, "client", "notify", "acme", "remove", "99", status=2)


def test_a_busy_receiver_and_a_killed_master_lose_nothing(here: Stage, receiver: Receiver) -> None:
    director = Director(here)
    receiver.answers = [(503, {"Retry-After": "1"})]
    job = director.submit({"name": "told-late", "client": "acme", "run": "true", "notify": [{"webhook": receiver.url}]})
    director.finished(job)
    until(lambda: receiver.got)
    director.kill9()
    receiver.answers = [(204, {})]
    here.start_master()
    until(lambda: director.get(f"/jobs/{job}/notifications")["items"][0]["state"] == "sent", within_s=150)
    assert len({got.document["id"] for got in receiver.got}) == 1


def test_a_trial_says_what_came_of_it(here: Stage, receiver: Receiver) -> None:
    assert "sent: 127.0.0.1 answered 204" in orchestrator(here, "notify", "test", receiver.url)
    assert receiver.got[0].document["event"] == "test"
    assert "metadata" in orchestrator(here, "notify", "test", "http://169.254.169.254/latest/", status=1)
    assert "smtp_host" in orchestrator(here, "notify", "test", "ops@example.org", status=1)
    assert "is not one e-mail address" in orchestrator(here, "notify", "test", "ops", status=2)


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text("name: j\nclient: acme\nrun: 'true'\nnotify:\n  - {email: ops@example.org, on: [failed]}\n")
    return path


def test_a_yaml_file_with_on_is_accepted_by_the_command(here: Stage, job_file: Path) -> None:
    job = orchestrator(here, "submit", str(job_file)).strip()
    Director(here).finished(int(job))
    assert Director(here).get(f"/jobs/{job}/notifications")["items"] == [], "it did not fail"
