"""User data and bootstrap.sh, run for real under a root prefix as the local cloud runs them."""

import hashlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import zipapp
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.fleet.bootstrap import BootstrapParams, UserDataTooLarge, cloudinit_dir, render_user_data

AGENT_JSON = "/etc/elastic-orchestrator/agent.json"
AGENT_PYZ = "opt/elastic-orchestrator/agent.pyz"
BOOTSTRAP = "/opt/elastic-orchestrator/bootstrap.sh"
PARAMS = BootstrapParams(
    master_url="https://master.example:8443",
    ca_pin="ab" * 32,
    enrolment_secret="once-only",
    agent_sha256="cd" * 32,
    agent="download",
    boot_timeout_s=600,
    lease_s=900,
    limit=16384,
)


def files_of(user_data: bytes) -> dict[str, dict[str, str]]:
    return {file["path"]: file for file in yaml.safe_load(user_data)["write_files"]}


def config_of(user_data: bytes) -> dict[str, object]:
    config: dict[str, object] = json.loads(files_of(user_data)[AGENT_JSON]["content"])
    return config


# What is rendered


def test_user_data_is_small_cloud_config_and_always_the_same() -> None:
    user_data = render_user_data(PARAMS)
    assert user_data.startswith(b"#cloud-config\n")
    assert len(user_data) < 7 * 1024
    assert user_data == render_user_data(replace(PARAMS))
    assert yaml.safe_load(user_data)["runcmd"] == [["sh", BOOTSTRAP, "power-off"]]


def test_files_arrive_whole_and_only_root_reads_the_secret() -> None:
    user_data = render_user_data(PARAMS)
    files = files_of(user_data)
    assert files[BOOTSTRAP]["content"] == (cloudinit_dir() / "bootstrap.sh").read_text()
    assert {path: file["permissions"] for path, file in files.items()} == {AGENT_JSON: "0600", BOOTSTRAP: "0755"}
    assert user_data.count(b"once-only") == 1
    assert config_of(user_data) == {
        "master_url": "https://master.example:8443",
        "ca_pin": "ab" * 32,
        "enrolment_secret": "once-only",
        "agent": "download",
        "agent_sha256": "cd" * 32,
        "boot_timeout_s": 600,
        "lease_s": 900,
        "at_end": "power_off",
    }


def test_only_a_machine_that_may_be_taken_back_watches_for_it() -> None:
    assert config_of(render_user_data(replace(PARAMS, watch_interruption=True)))["watch_interruption"] is True
    assert "watch_interruption" not in config_of(render_user_data(PARAMS))


@settings(max_examples=30, deadline=None)
@given(st.text())
def test_any_value_arrives_as_itself(hostile: str) -> None:
    assert config_of(render_user_data(replace(PARAMS, enrolment_secret=hostile)))["enrolment_secret"] == hostile


@pytest.mark.parametrize(
    "hostile",
    [
        '"\nruncmd: [[reboot]]\n',
        "': # }",
        "$bootstrap_sh ${x}",
        "\x7f\x00\u2028\ud800",
        "日本 😀",
        "\\u0022",
        "| \n  - x",
    ],
)
def test_values_made_to_break_out_stay_inside(hostile: str) -> None:
    document = render_user_data(replace(PARAMS, enrolment_secret=hostile))
    assert config_of(document)["enrolment_secret"] == hostile
    assert set(yaml.safe_load(document)) == {"write_files", "runcmd"}


def test_more_than_the_cloud_takes_is_refused() -> None:
    size = len(render_user_data(PARAMS))
    assert len(render_user_data(replace(PARAMS, limit=size))) == size
    with pytest.raises(UserDataTooLarge, match=f"{size} bytes.*takes {size - 1}: shorten"):
        render_user_data(replace(PARAMS, limit=size - 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"master_url": "master:8443"}, "https://HOST"),
        ({"master_url": "http://master"}, "needs an https"),
        ({"ca_pin": "AB" * 32}, "64 lower-case hex"),
        ({"agent_sha256": ""}, "refuse any other agent"),
        ({"boot_timeout_s": 0}, "at least one second"),
    ],
)
def test_values_with_which_no_machine_could_call_home_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PARAMS, **change)  # type: ignore[arg-type]


# What the machine does with it


@dataclass
class Master:
    """Serves one agent over HTTP or HTTPS and counts how often it was fetched, and by whom."""

    url: str
    pin: str = ""
    agent: bytes = b""
    downloads: int = 0
    status: int = 200
    told: list[dict[str, str]] = field(default_factory=list)
    fetched_by: list[tuple[str | None, str | None]] = field(default_factory=list)
    hears: bool = True
    silence: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Master]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/agent/v1/agent.pyz"
            master.downloads += found
            master.fetched_by.append((self.headers["Authorization"], self.headers["X-Instance-Id"]))
            self.send_response(master.status if found else 404)
            self.end_headers()
            self.wfile.write(master.agent)
            master.status = 200  # a fault is for one answer

        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if master.hears and self.path == "/agent/v1/boot":
                master.told.append(message)
            elif not master.hears:
                master.silence.wait(30)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            pass  # a client that refuses the certificate hangs up

    with Server(("127.0.0.1", 0), Handler) as server:
        master = Master(f"http://127.0.0.1:{server.server_port}")
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            der = ssl.PEM_cert_to_DER_cert(certificate.read_text().split("\n\n")[0])
            master.url, master.pin = master.url.replace("http:", "https:"), hashlib.sha256(der).hexdigest()
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield master
        master.silence.set()
        server.shutdown()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for a name that nobody calls the master by, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "some-master")])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    signed = built.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "master.pem"
    path.write_bytes(signed.public_bytes(pem) + b"\n" + private)
    return path


@dataclass
class Machine:
    """One root prefix, to which user data is applied as a cloud's first boot does it."""

    root: Path

    def boot(self, master: Master, *, shell: tuple[str, ...] = ("sh",), **changes: object) -> str:
        """Apply the user data for an agent of `master`; what the console shows."""
        params = replace(
            PARAMS, master_url=master.url, ca_pin=master.pin, agent_sha256=sha256(master.agent), boot_timeout_s=10
        )
        user_data = render_user_data(replace(params, **changes))  # type: ignore[arg-type]
        for path, file in files_of(user_data).items():
            target = self.root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file["content"])
        return self.run_bootstrap(shell)

    def run_bootstrap(self, shell: tuple[str, ...] = ("sh",), at_failure: str = "power-off") -> str:
        argv = [*shell, str(self.root) + BOOTSTRAP, at_failure]
        environment = {**os.environ, "ORCHESTRATOR_ROOT": str(self.root)}
        done = subprocess.run(argv, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.stdout

    @property
    def is_off(self) -> bool:
        return (self.root / "is-off").exists()

    @property
    def agent_starts(self) -> list[list[str]]:
        """The arguments of each start of the fake agent."""
        marker = self.root / "agent-starts"
        return [json.loads(line) for line in marker.read_text().splitlines()] if marker.exists() else []

    @property
    def daemon_pid(self) -> int:
        return int((self.root / "run/elastic-orchestrator-agent.pid").read_text())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    root = tmp_path / "a machine's root"
    (root / "sbin").mkdir(parents=True)
    poweroff = root / "sbin/poweroff"
    poweroff.write_text('#!/bin/sh\n: > "${0%/sbin/poweroff}/is-off"\n')
    poweroff.chmod(0o755)
    yield Machine(root)
    if (root / "run/elastic-orchestrator-agent.pid").exists():
        with suppress(ProcessLookupError):
            os.killpg(Machine(root).daemon_pid, signal.SIGKILL)


def fake_agent(folder: Path, then: str = "sys.exit(0)") -> bytes:
    """An agent.pyz that notes its arguments under --root, then does as told (`starts` counts its starts)."""
    source = folder / "source"
    source.mkdir(exist_ok=True)
    (source / "__main__.py").write_text(
        "import json, pathlib, sys, time\n"
        "marker = pathlib.Path(sys.argv[sys.argv.index('--root') + 1], 'agent-starts')\n"
        "with marker.open('a') as file: file.write(json.dumps(sys.argv) + '\\n')\n"
        "starts = len(marker.read_text().splitlines())\n" + then
    )
    zipapp.create_archive(source, folder / "agent.pyz")
    return (folder / "agent.pyz").read_bytes()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def eventually(holds: Callable[[], object], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def daemon_has_ended(machine: Machine) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return not Path(f"/proc/{machine.daemon_pid}/cmdline").read_bytes()  # empty: ended, waiting to be reaped
    return True


@pytest.mark.parametrize("shell", [("sh",), ("busybox", "sh"), ("bash", "--posix")], ids=" ".join)
def test_a_good_agent_is_started_with_its_config_and_root(machine: Machine, tmp_path: Path, shell: tuple[str, ...]) -> None:
    if not shutil.which(shell[0]):
        pytest.skip(f"no {shell[0]} here")
    with serving() as master:
        master.agent = fake_agent(tmp_path)
        console = machine.boot(master, shell=shell)
    eventually(lambda: machine.agent_starts)
    root = str(machine.root)
    assert machine.agent_starts == [[f"{root}/{AGENT_PYZ}", "--config", root + AGENT_JSON, "--root", root]]
    assert console == ""
    assert not machine.is_off
    eventually(lambda: daemon_has_ended(machine))  # status 0: not started again


def test_the_master_is_told_how_far_the_boot_has_come(machine: Machine, tmp_path: Path) -> None:
    here = machine.root / "var/lib/cloud/data/instance-id"
    here.parent.mkdir(parents=True)
    here.write_text("i-0123\n")
    with serving() as master:
        master.agent = fake_agent(tmp_path)
        master.status = 503  # the second try of the download leaves the first call all the time it needs
        machine.boot(master)
        assert master.told == [{"secret": "once-only", "instance_id": "i-0123", "phase": "cloud-init began"}]
        assert set(master.fetched_by) == {("Bearer once-only", "i-0123")}


def test_a_master_that_does_not_answer_it_holds_up_no_boot(machine: Machine, tmp_path: Path) -> None:
    with serving() as master:
        master.agent, master.hears = fake_agent(tmp_path), False
        assert machine.boot(master) == ""
        assert not master.silence.is_set()
    eventually(lambda: machine.agent_starts)


def test_the_pin_stands_for_the_authority_and_the_name(machine: Machine, tmp_path: Path, certificate: Path) -> None:
    with serving(certificate) as master:
        master.agent = fake_agent(tmp_path)
        assert master.pin
        assert machine.boot(master) == ""
    eventually(lambda: machine.agent_starts)


@pytest.mark.parametrize(("pin", "why"), [("00" * 32, "refused: .* expected was the pin 0000"), ("", "CERTIFICATE_VERIFY")])
def test_another_certificate_is_refused(machine: Machine, tmp_path: Path, certificate: Path, pin: str, why: str) -> None:
    with serving(certificate) as master:
        master.agent = fake_agent(tmp_path)
        console = machine.boot(master, ca_pin=pin, boot_timeout_s=1)
        assert master.downloads == 0
    assert_refused(machine, console, why)


def test_another_agent_is_refused_and_never_run(machine: Machine, tmp_path: Path) -> None:
    with serving() as master:
        master.agent = fake_agent(tmp_path)
        console = machine.boot(master, agent_sha256="00" * 32, boot_timeout_s=1)
    assert_refused(machine, console, f"refused: agent.pyz has SHA-256 {sha256(master.agent)}, expected was 0000")


def test_without_a_master_the_machine_powers_off(machine: Machine) -> None:
    with serving() as master:
        pass
    console = machine.boot(master, boot_timeout_s=1)
    assert_refused(machine, console, f"cannot get the agent from {master.url}: .*refused.*; next try in")


def assert_refused(machine: Machine, console: str, why: str) -> None:
    assert re.search(why, console)
    assert "no agent on this machine; powering off" in console
    assert machine.is_off
    assert machine.agent_starts == []
    assert not (machine.root / AGENT_PYZ).exists()


def test_a_master_that_comes_late_is_tried_again(machine: Machine, tmp_path: Path) -> None:
    with serving() as master:
        master.agent = fake_agent(tmp_path)
        master.status = 503
        console = machine.boot(master)
        assert master.downloads == 2
    assert "answered 503 Service Unavailable; next try in" in console
    eventually(lambda: machine.agent_starts)
    assert not machine.is_off


def test_an_agent_that_fails_is_started_again_until_it_ends_well(machine: Machine, tmp_path: Path) -> None:
    with serving() as master:
        master.agent = fake_agent(tmp_path, then="print('start', starts); sys.exit(3 if starts < 2 else 0)")
        machine.boot(master)
    eventually(lambda: daemon_has_ended(machine))
    assert (machine.root / "var/log/elastic-orchestrator-agent.log").read_text() == "start 1\nstart 2\n"


def test_running_bootstrap_again_changes_nothing(machine: Machine, tmp_path: Path) -> None:
    with serving() as master:
        master.agent = fake_agent(tmp_path, then="time.sleep(600)")
        machine.boot(master)
        eventually(lambda: machine.agent_starts)
        before = machine.daemon_pid
        assert machine.run_bootstrap() == ""
        assert (machine.daemon_pid, master.downloads) == (before, 1)
    assert len(machine.agent_starts) == 1


def test_a_preinstalled_agent_is_started_as_it_is(machine: Machine, tmp_path: Path) -> None:
    with serving() as master:
        (machine.root / AGENT_PYZ).parent.mkdir(parents=True)
        (machine.root / AGENT_PYZ).write_bytes(fake_agent(tmp_path))
        machine.boot(master, agent="preinstalled", agent_sha256="")
        assert master.downloads == 0
    eventually(lambda: machine.agent_starts)


def test_a_missing_preinstalled_agent_is_told_at_once(machine: Machine) -> None:
    with serving() as master:
        console = machine.boot(master, agent="preinstalled")
    assert_refused(machine, console, "agent.pyz is not in this image: build it in")


def test_an_image_without_python_is_told(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = shutil.which("sh")
    assert shell
    monkeypatch.setenv("PATH", str(tmp_path))
    with serving() as master:
        console = machine.boot(master, shell=(shell,))
    assert_refused(machine, console, "there is no python3: use an image that has Python 3.8 or newer")


def test_the_script_has_no_bashisms() -> None:
    script = cloudinit_dir() / "bootstrap.sh"
    subprocess.run(["sh", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True, stdout=sys.stderr)
