"""User data: what a new machine is given so that it gets its agent, verifies it and calls home; and the command that gives
the same to a machine that exists already."""

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template
from textwrap import indent
from typing import Literal
from urllib.parse import urlsplit


class UserDataTooLarge(ValueError):
    """The user data would be refused by the cloud; `size` and `limit` are in bytes, before base64."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the user data is {size} bytes, this cloud takes {limit}: shorten the master's URL, "
            "or raise the limit in the cloud's settings if it takes more"
        )
        self.size = size
        self.limit = limit


@dataclass(frozen=True)
class BootstrapParams:
    """Everything a machine is told at birth; the same values always render to the same bytes.

    `ca_pin` is the SHA-256 of the master's certificate (DER) in lower-case hex, or "" for http and for certificates
    of a public authority. A `preinstalled` agent is taken from the image as it is, whatever `agent_sha256` says.
    Raises ValueError for values with which no machine could ever call home.
    """

    master_url: str
    ca_pin: str
    enrolment_secret: str
    agent_sha256: str
    agent: Literal["download", "preinstalled"]
    boot_timeout_s: int
    lease_s: int
    limit: int
    """Bytes of user data that the cloud takes, before base64: 16384 on EC2."""
    watch_interruption: bool = False
    """Whether the cloud may take the machine back, and its agent should ask the metadata service about that."""

    def __post_init__(self) -> None:
        url = urlsplit(self.master_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"the master's URL {self.master_url!r} must be http://HOST[:PORT] or https://HOST[:PORT]")
        if self.ca_pin and url.scheme != "https":
            raise ValueError("a certificate pin needs an https master URL: change the URL or leave the pin out")
        if self.ca_pin and not _is_sha256(self.ca_pin):
            raise ValueError("the certificate pin must be 64 lower-case hex digits (SHA-256 of the DER certificate)")
        if self.agent == "download" and not _is_sha256(self.agent_sha256):
            raise ValueError("the agent's SHA-256 must be 64 lower-case hex digits: machines refuse any other agent")
        if self.boot_timeout_s < 1 or self.lease_s < 1:
            raise ValueError("boot_timeout_s and lease_s must be at least one second")


def render_user_data(params: BootstrapParams) -> bytes:
    """The cloud-config document for `params`; raises UserDataTooLarge above `params.limit` bytes."""
    here = cloudinit_dir()
    document = Template((here / "user-data.yaml").read_text("ascii")).substitute(
        # Printable ASCII as a JSON string is a YAML scalar that no value inside can end.
        agent_json=json.dumps(_as_file({**_agent_config(params), "at_end": "power_off"})),
        bootstrap_sh=indent((here / "bootstrap.sh").read_text("ascii"), " " * 6).strip(),
    )
    user_data = document.encode("ascii")
    if len(user_data) > params.limit:
        raise UserDataTooLarge(len(user_data), params.limit)
    return user_data


@cache
def enrol_script() -> bytes:
    """What a machine that exists already runs, with its settings on standard input."""
    here = cloudinit_dir()
    return (here / "enrol.sh").read_bytes() + (here / "bootstrap.sh").read_bytes()


def render_command(params: BootstrapParams, name: str = "") -> str:
    """The shell command that lets an existing machine enrol, under this name or that of its host.

    It needs curl and python3. The script is checked by its hash, and so are the agent and the master's certificate that
    it fetches from then on: nothing that the network says is believed.
    """
    settings = {**_agent_config(params), "at_end": "leave", "name": name}
    given = base64.b64encode(json.dumps(settings).encode()).decode()
    url = f"{params.master_url.rstrip('/')}/agent/v1/enrol.sh"
    digest = hashlib.sha256(enrol_script()).hexdigest()
    steps = (
        'set -e; f=$(mktemp); trap "rm -f $f" EXIT',
        f'curl -fsSk --noproxy "*" -o "$f" {shlex.quote(url)}',
        f'echo "{digest}  $f" | sha256sum -c - >&2',
        'sh "$f"',
    )
    return f"echo {given} | sh -c {shlex.quote('; '.join(steps))}"


def cloudinit_dir() -> Path:
    """The folder with the user-data template, bootstrap.sh and agent/; raises FileNotFoundError if it is nowhere."""
    packaged = Path(str(resources.files("orchestrator"))) / "_cloudinit"
    checkout = Path(__file__).resolve().parents[2] / "cloudinit"
    for folder in (packaged, checkout):
        if (folder / "bootstrap.sh").is_file():
            return folder
    raise FileNotFoundError(f"neither {packaged} nor {checkout} is there: install Elastic Orchestrator again")


def _agent_config(params: BootstrapParams) -> dict[str, object]:
    return {
        "master_url": params.master_url,
        "ca_pin": params.ca_pin,
        "enrolment_secret": params.enrolment_secret,
        "agent": params.agent,
        "agent_sha256": params.agent_sha256,
        "boot_timeout_s": params.boot_timeout_s,
        "lease_s": params.lease_s,
    } | ({"watch_interruption": True} if params.watch_interruption else {})


def _as_file(config: Mapping[str, object]) -> str:
    """JSON without the one control character that it leaves and YAML refuses."""
    return json.dumps(config).replace("\x7f", "\\u007f") + "\n"


def _is_sha256(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None
