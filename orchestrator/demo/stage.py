"""The stage: a local cloud and a master as processes of their own, which end with us whatever happens to us."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from providers.localcloud import LocalCloud, start

PR_SET_PDEATHSIG = 1
START_S = 30.0


class StageFailed(Exception):
    """Something did not come up; the text says what and where to look."""


@dataclass
class Stage:
    """What runs: the cloud, the master and how to speak to it."""

    cloud: LocalCloud
    folder: Path
    url: str
    config: Path
    data_dir: Path
    master: subprocess.Popen[bytes] = field(init=False)

    def start_master(self) -> None:
        """Start the master and wait until it is ready. Raises StageFailed."""
        command = [sys.executable, "-m", "orchestrator", "serve", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.master = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_die_with_parent())
        end = time.monotonic() + START_S
        with plain_client(self.url) as client:
            while time.monotonic() < end and self.master.poll() is None:
                with suppress(httpx.TransportError):
                    if client.get("/readyz").status_code == 200:
                        return
                time.sleep(0.05)
        tail = self.log.read_text(errors="replace")[-1500:]
        raise StageFailed(f"the master did not come up; its log {self.log} ends with:\n{tail}")

    @property
    def log(self) -> Path:
        return self.data_dir / "master.log"

    @property
    def token(self) -> str:
        return (self.data_dir / "admin.token").read_text()

    def api(self) -> httpx.Client:
        return plain_client(f"{self.url}/api/v1", self.token)

    def login_link(self) -> str:
        """An address that logs a person in, once."""
        with self.api() as api:
            return str(api.post("/users/admin/link").raise_for_status().json()["link"])

    def machines_left(self) -> int:
        """Machines that exist, whoever's they are, by asking the cloud and not our table."""
        import boto3

        ec2 = boto3.client(
            "ec2",
            region_name="us-east-1",
            endpoint_url=self.cloud.endpoint_url,
            aws_access_key_id="local",
            aws_secret_access_key="local",  # noqa: S106 - the local cloud takes any
        )
        pages = ec2.get_paginator("describe_instances").paginate()
        shown = [machine for page in pages for group in page["Reservations"] for machine in group["Instances"]]
        return sum(machine["State"]["Name"] != "terminated" for machine in shown)


def plain_client(base_url: str, token: str = "") -> httpx.Client:
    """A client for plain HTTP on this host: without the third of a second that reading all authorities takes."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=base_url, headers=headers, timeout=30, verify=False, trust_env=False)  # noqa: S501


@contextmanager
def stage(
    folder: Path, data_dir: Path, port: int = 0, *, boot_delay_s: float = 0.5, stop_delay_s: float = 0.3, settings: str = ""
) -> Iterator[Stage]:
    """Everything up, and down again at the end: the master first, so that it can still speak to its cloud.

    `settings` are further lines for the top of the master's settings file (TOML).
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    port = port or free_port(0)
    log = (data_dir / "cloud.log").open("ab")
    with log, start(folder / "cloud", stderr=log, boot_delay_s=boot_delay_s, stop_delay_s=stop_delay_s) as cloud:
        config = data_dir / "demo.toml"
        url = f"http://127.0.0.1:{port}"
        config.write_text(_settings(port, data_dir, cloud.endpoint_url, settings))
        here = Stage(cloud, folder, url, config, data_dir)
        here.start_master()
        try:
            yield here
        finally:
            here.master.send_signal(signal.SIGTERM)
            try:
                here.master.wait(10)
            except subprocess.TimeoutExpired:
                here.master.kill()


def free_port(wanted: int) -> int:
    """This port if it is free, else any that is: below those which the system gives to outgoing calls, for one of these may
    take it in the moment in which a master that died is started again."""
    others = random.sample(range(20_000, 32_000), 20)
    for port in (wanted, *others) if wanted else others:
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise StageFailed("no port is free on 127.0.0.1")


def _settings(port: int, data_dir: Path, endpoint_url: str, more: str) -> str:
    return (
        f"# Written by the demo: a master on the local cloud.\n"
        f'port = {port}\ndata_dir = "{data_dir}"\n{more}\n'
        f'\n[clouds.local]\nprovider = "ec2"\nregion = "us-east-1"\nendpoint_url = "{endpoint_url}"\n'
        f'access_key_id = "local"\nsecret_access_key = "local"\n'
    )


def _die_with_parent() -> Callable[[], None] | None:
    """On Linux the kernel ends the child when we end, even by kill -9."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask
