"""What stands before the API: allowed hosts, a door of the agents' own, a certificate of our own."""

from __future__ import annotations

import json
import os
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient
from theatre import until

from orchestrator.api.auth import make_token
from orchestrator.api.http import build
from orchestrator.app import Master, certificate_pin
from orchestrator.demo.stage import free_port, plain_client
from orchestrator.people.certificate import LASTS, ensure
from orchestrator.settings import Settings

JOB = {"name": "j", "client": "acme", "run": "true"}
NOW = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, str]]:
    hosts = {"10.0.0.0": "none", "10.0.0.1": "signal", "10.0.0.2": "info", "10.0.0.3": "no_add", "10.0.0.4": "all"}
    master = Master(Settings(data_dir=tmp_path_factory.mktemp("doors"), allowed_hosts=hosts))
    token = master.writer.write(lambda tx: make_token(tx, "test"))
    with TestClient(build(master)) as client:
        yield client, token


@pytest.mark.parametrize(
    ("last", "agent", "health", "read", "log_in", "change", "add"),
    [
        (0, 403, 403, 403, 403, 403, 403),
        (1, 401, 200, 403, 403, 403, 403),
        (2, 401, 200, 200, 401, 403, 403),
        (3, 401, 200, 200, 401, 404, 403),
        (4, 401, 200, 200, 401, 404, 201),
        (5, 401, 200, 200, 401, 404, 201),
    ],
)
def test_each_level_allows_what_it_says(
    served: tuple[TestClient, str], last: int, agent: int, health: int, read: int, log_in: int, change: int, add: int
) -> None:
    started, token = served
    here = TestClient(started.app, headers={"Authorization": f"Bearer {token}"}, client=(f"10.0.0.{last}", 4000))
    assert here.post("/agent/v1/sync", json={}).status_code == agent
    assert here.get("/healthz").status_code == health
    assert here.get("/api/v1/jobs").status_code == read
    assert here.post("/api/v1/session", json={"name": "nobody", "password": "x"}).status_code == log_in
    assert here.post("/api/v1/jobs/999/cancel").status_code == change
    assert here.post("/api/v1/jobs", json=JOB).status_code == add
    made = here.post("/api/v1/tokens", json={"name": f"t{last}", "role": "viewer"})
    assert made.status_code == add, "whatever is new, not jobs alone"


def test_a_certificate_is_kept_until_its_last_month(tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    assert ensure(certificate, key, ["master.test", "10.0.0.7"], NOW)
    first = certificate.read_bytes()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (certificate, key)] == [0o600, 0o600]
    assert not ensure(certificate, key, [], NOW + LASTS - timedelta(days=31))
    assert certificate.read_bytes() == first
    assert ensure(certificate, key, [], NOW + LASTS - timedelta(days=29))
    assert certificate.read_bytes() != first
    certificate.write_bytes(first)
    assert ensure(certificate, key, [], NOW), "a crash left the certificate of another key"
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)


@contextmanager
def serving(folder: Path, settings: str, *options: str) -> Iterator[Path]:
    """A master as a process of its own; its output."""
    config, said = folder / "orchestrator.toml", folder / "said"
    config.write_text(f'data_dir = "{folder / "data"}"\n{settings}\n')
    with said.open("wb") as out:
        command = [sys.executable, "-m", "orchestrator", "serve", "--config", str(config), *options]
        master = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield said
    finally:
        master.send_signal(signal.SIGTERM)
        assert master.wait(20) in (0, -signal.SIGTERM)


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
    command = [sys.executable, "-m", "orchestrator", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_agents_have_a_door_of_their_own_and_the_command_line_trusts_our_certificate(tmp_path: Path) -> None:
    people, agents = free_port(0), free_port(0)
    settings = f"port = {people}\nagents_port = {agents}"
    with serving(tmp_path, settings, "--tls", "self-signed") as said:
        certificate = tmp_path / "data" / "tls.pem"
        until(lambda: "Elastic Orchestrator at" in said.read_text(), why=said.read_text)
        with httpx.Client(verify=ssl.create_default_context(cafile=str(certificate)), trust_env=False) as client:
            at_people, at_agents = f"https://127.0.0.1:{people}", f"https://localhost:{agents}"

            def up() -> bool:
                try:
                    return client.get(f"{at_people}/readyz").status_code == 200
                except httpx.TransportError:
                    return False

            until(up, why=said.read_text)
            assert client.post(f"{at_agents}/agent/v1/sync", json={}).status_code == 401
            assert client.get(f"{at_agents}/healthz").status_code == 200
            assert client.post(f"{at_people}/agent/v1/sync", json={}).status_code == 404
            for path in ("/", "/api/v1/jobs", "/openapi.json", "/static/main.js"):
                assert client.get(f"{at_agents}{path}").status_code == 404, path
        text = said.read_text()
        pin = certificate_pin(Settings(tls_cert=certificate))
        assert f"pin {pin}" in text
        assert "First login: admin, password " in text

        config = tmp_path / "orchestrator.toml"
        # On the master's host: the settings tell address, token and certificate.
        config.write_text(config.read_text() + 'tls = "self-signed"\n')
        made = cli("token", "create", "remote", "--role", "viewer", "--config", str(config))
        assert made.returncode == 0, made.stderr
        elsewhere = ("--url", at_people, "--token", made.stdout.strip(), "--config", str(tmp_path / "none.toml"))
        assert cli("job", "list", *elsewhere, "--ca-file", str(certificate)).returncode == 0
        assert cli("job", "list", *elsewhere, "--pin", pin).returncode == 0
        assert cli("job", "list", *elsewhere, "--pin", "0" * 64).returncode == 2
        assert cli("job", "list", "--url", at_people, "--token", made.stdout.strip()).returncode == 4
        refused = cli("user", "list", *elsewhere, "--pin", pin)
        assert (refused.returncode, "this takes admin" in refused.stderr) == (2, True), refused.stderr

        added = cli("user", "add", "ada", "--role", "operator", "--client", "acme", "--config", str(config))
        assert added.returncode == 0, added.stderr
        assert cli("user", "role", "ada", "viewer", "--all-clients", "--config", str(config)).returncode == 0
        assert cli("user", "disable", "ada", "--config", str(config)).returncode == 0
        shown = json.loads(cli("user", "list", "--output", "json", "--config", str(config)).stdout)
        (ada,) = [user for user in shown["items"] if user["name"] == "ada"]
        assert (ada["role"], ada["client"], ada["disabled_at"] is not None) == ("viewer", None, True)
        assert cli("user", "link", "admin", "--config", str(config)).stdout.startswith(f"{at_people}/#link=eol_")
        log = cli("audit-log", "--config", str(config)).stdout
        assert "POST /api/v1/users: 201 (by token admin) from 127.0.0.1" in log
        assert "(by token remote)" in log
        assert cli("events", "--actor", "token admin", "--config", str(config)).returncode == 0
        assert cli("user", "delete", "ada", "--config", str(config)).returncode == 0
        assert cli("token", "revoke", "remote", "--config", str(config)).returncode == 0
        assert cli("job", "list", *elsewhere, "--pin", pin).returncode == 2


def test_a_stream_shows_its_client_s_events_alone_and_ends_with_its_token(tmp_path: Path) -> None:
    port = free_port(0)
    with serving(tmp_path, f"port = {port}") as said:
        until(lambda: "master started" in said.read_text(), why=said.read_text)
        admin = plain_client(f"http://127.0.0.1:{port}/api/v1", (tmp_path / "data" / "admin.token").read_text())

        def up() -> bool:
            try:
                return admin.get("/session").status_code == 200
            except httpx.TransportError:
                return False

        until(up, why=said.read_text)
        limited = admin.post("/tokens", json={"name": "acme", "role": "viewer", "client": "acme"}).json()["token"]
        with (
            plain_client(f"http://127.0.0.1:{port}/api/v1", limited) as acme,
            acme.stream("GET", "/events/stream") as lines,
        ):
            told = lines.iter_lines()
            assert next(told) == ": connected"
            admin.post("/jobs", json={**JOB, "client": "globex"}).raise_for_status()
            mine = admin.post("/jobs", json=JOB).raise_for_status().json()["id"]
            first = next(json.loads(line[6:]) for line in told if line.startswith("data: "))
            assert first["job_id"] == mine
            admin.delete("/tokens/acme").raise_for_status()
            admin.post("/jobs", json=JOB).raise_for_status()
            later = [json.loads(line[6:])["job_id"] for line in told if line.startswith("data: ")]
            assert set(later) <= {mine}, "nothing after the token was revoked"
