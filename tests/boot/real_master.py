"""A real master, `orchestrator serve` on SQLite, and a local cloud whose machines never boot: the test boots them."""

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import boto3
import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from guest_network import MASTER_HOST

from orchestrator.demo.stage import Stage, free_port
from providers.localcloud import start

POOL = {"name": "local", "cloud": "local", "max_nodes": 1, "launch": {"image": "ami-local", "instance_type": "t3.micro"}}
_KEYS = {"region_name": "us-east-1", "aws_access_key_id": "local", "aws_secret_access_key": "local"}
_T = TypeVar("_T")


@dataclass
class RealMaster:
    """A master and what a test asks of it."""

    stage: Stage
    port: int
    ca_pin: str
    api: httpx.Client

    def create_pool(self, **values: object) -> None:
        self.api.post("/pools", json={**POOL, **values}).raise_for_status()

    def submit(self, run: str) -> int:
        """A job that wants one machine with its own token."""
        infrastructure = {"pool": POOL["name"], "count": 1}
        job = {"name": "boot", "client": "acme", "token": "boot-$JOB_ID", "infrastructure": infrastructure, "run": run}
        return int(self.api.post("/jobs", json=job).raise_for_status().json()["id"])

    def node(self, state: str, within_s: float = 60) -> dict[str, Any]:
        """The one node there is, once it is in this state."""

        def look() -> dict[str, Any] | None:
            nodes = self.api.get("/nodes").raise_for_status().json()["items"]
            return nodes[0] if [node["state"] for node in nodes] == [state] else None

        return _wait_for(look, within_s, f"no node became {state}")

    def ended(self, job_id: int, within_s: float = 120) -> tuple[str, str]:
        """The job's last state and the log of its one task."""

        def look() -> str | None:
            state = self.api.get(f"/jobs/{job_id}").raise_for_status().json()["state"]
            return None if state in ("queued", "running") else state

        state = _wait_for(look, within_s, f"job {job_id} did not end")
        return state, self.api.get(f"/jobs/{job_id}/logs").raise_for_status().text

    def user_data(self, node: dict[str, Any]) -> bytes:
        """What the cloud was given for this node's machine, asked of the cloud."""
        ec2 = boto3.client("ec2", endpoint_url=self.stage.cloud.endpoint_url, **_KEYS)
        shown = ec2.describe_instance_attribute(InstanceId=node["instance_id"], Attribute="userData")
        return base64.b64decode(shown["UserData"]["Value"])

    def die(self) -> None:
        """For good, and without a word to anybody."""
        self.stage.master.kill()
        self.stage.master.wait()


@contextmanager
def real_master(folder: Path, scheme: str = "http") -> Iterator[RealMaster]:
    """A RealMaster on 127.0.0.1 that guests reach at MASTER_HOST; `https` with a certificate that nobody vouches for."""
    data, port = folder / "data", free_port(0)
    data.mkdir(parents=True)
    settings = f'port = {port}\ndata_dir = "{data}"\nmaster_url = "{scheme}://{MASTER_HOST}:{port}"\n'
    ca_pin = ""
    if scheme == "https":
        ca_pin = _self_signed(folder)
        settings += f'tls_cert = "{folder / "cert.pem"}"\ntls_key = "{folder / "key.pem"}"\n'
    with (folder / "cloud.log").open("wb") as log, start(folder / "cloud", stderr=log, boot_delay_s=0.1) as cloud:
        cloud.faults({"no_boot": True})
        settings += f'[clouds.local]\nregion = "us-east-1"\nendpoint_url = "{cloud.endpoint_url}"\n'
        settings += 'access_key_id = "local"\nsecret_access_key = "local"\n'
        config = folder / "orchestrator.toml"
        config.write_text(settings)
        stage = Stage(cloud, folder, f"{scheme}://127.0.0.1:{port}", config, data)
        stage.start_master()
        try:
            with stage.api() as api:
                yield RealMaster(stage, port, ca_pin, api)
        except BaseException:
            print("the master's log:\n" + stage.log.read_text(errors="replace"))
            raise
        finally:
            stage.master.kill()
            stage.master.wait()


def _wait_for(look: Callable[[], _T | None], within_s: float, otherwise: str) -> _T:
    """What `look` finds; fails with `otherwise` when it finds nothing in this time."""
    end = time.monotonic() + within_s
    while (found := look()) is None:
        assert time.monotonic() < end, f"{otherwise} within {within_s:.0f} s"
        time.sleep(0.1)
    return found


def _self_signed(folder: Path) -> str:
    """Writes cert.pem and key.pem; returns the certificate's SHA-256."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a master of one's own")])
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    now = datetime.now(UTC)
    certificate = built.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*private))
    return certificate.fingerprint(hashes.SHA256()).hex()
