"""The lab of the Nova provider: the small OpenStack of this folder, over HTTP."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from openstack_cloud import Cloud
from openstack_http import APPLICATION_CREDENTIAL, Fault, OpenStackServer, serving

from providers.base import TAG_INSTALLATION
from providers.contract.lab import Lab, unable
from providers.nova import NovaProvider

TEMPLATE = {"networks": ["private"]}
QUOTA_TEXT = "Quota exceeded for instances: Requested 2, but already used 10 of 10 instances"


class NovaLab(Lab):
    image = "debian-12"
    instance_type = "m1.small"
    template = TEMPLATE
    absent_ids = ("00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b")
    late_refusals = frozenset({"no capacity"})
    keeps_launch_ids = False
    retry_after_s = 7
    wrong_settings = {
        "image": {"image": "nowhere"},
        "flavor": {"instance_type": "m1.tiny"},
        "network": {"template": {"networks": ["bare"]}},
        "security group": {"template": {**TEMPLATE, "security_groups": ["none"]}},
        "server group": {"template": {**TEMPLATE, "server_group": "none"}},
        "key": {"template": {**TEMPLATE, "key_name": "none"}},
        "zone": {"template": {**TEMPLATE, "availability_zone": "none"}},
    }
    calls_of = {
        "check": "GET /compute/v2.1/servers/detail",
        "launch": "POST /compute/v2.1/servers",
        "instances": "GET /compute/v2.1/servers/detail",
        "terminate": "DELETE /compute/v2.1/servers/.*",
        "console": "POST /compute/v2.1/servers/.*/action",
    }
    _faults: dict[str, dict[str, Any]] = {
        "lost reply": {"drop": "reply"},
        "lost request": {"drop": "request"},
        "quota": {"status": 403, "text": QUOTA_TEXT},
        "throttled": {"status": 429, "headers": {"Retry-After": "7"}},
        "refused": {"status": 401, "times": 2},  # the SDK takes a new token, and tries once more
        "expired": {"status": 401},
        "broken": {"status": 500},
    }

    def __init__(self, server: OpenStackServer) -> None:
        self.server = server
        self.cloud = server.cloud
        self._providers: dict[float, NovaProvider] = {}

    def provider(self, installation: str, *, timeout_s: float = 10) -> NovaProvider:
        if timeout_s not in self._providers:
            self._providers[timeout_s] = NovaProvider(installation="", cloud="small", timeout_s=timeout_s)
        provider = copy.copy(self._providers[timeout_s])  # one token for all
        provider._installation = installation
        return provider

    def strangers(self) -> set[str]:
        return {self._start({TAG_INSTALLATION: f"other-{uuid.uuid4().hex}"}), self._start({})}

    def _start(self, metadata: dict[str, str]) -> str:
        body = {"name": "stranger", "metadata": metadata, "networks": [{"uuid": self.cloud.networks[0]["id"]}]}
        body |= {"imageRef": self.cloud.images[0]["id"], "flavorRef": self.cloud.flavors[1]["id"]}
        return self.cloud.create({"server": body}, (2, 51)).id

    def alive(self, ids: set[str]) -> set[str]:
        return {id_ for id_ in ids if self.cloud.servers[id_].deleted_at is None}

    def launched(self, installation: str) -> set[str]:
        servers = list(self.cloud.servers.values())
        return {server.id for server in servers if server.metadata.get(TAG_INSTALLATION) == installation}

    def user_data(self, instance_id: str) -> bytes:
        return self.cloud.servers[instance_id].user_data

    def power_off(self, instance_id: str) -> None:
        self.cloud.servers[instance_id].off = True

    def impair(self, instance_id: str) -> None:
        self.cloud.servers[instance_id].power_state = 0

    def calls(self) -> int:
        return sum("identity" not in call for call in self.server.calls)

    def may_cost(self, verb: str, machines: int) -> int:
        """Nova has no call that ends several servers."""
        listing = 1 + machines // 500
        looks_and_ids = 2 * listing + 6
        return {"launch": looks_and_ids + 1 + machines // 50, "terminate": machines}.get(verb, listing)

    def fault(self, verb: str, what: str, *, after: int = 0) -> None:
        if what in ("no capacity", "dies"):
            self.cloud.full, self.cloud.fault = 1, "No valid host was found. " if what == "no capacity" else "Build aborted"
            return
        if what not in self._faults:
            unable(f"let {verb} fail by {what}")
        self.server.faults.append(Fault(self.calls_of[verb], skip=after, **self._faults[what]))
        if what == "expired":
            self.server.faults.append(Fault("POST /identity/v3/auth/tokens", status=401))

    def slow(self, verb: str, delay_s: float) -> None:
        self.server.faults.append(Fault(self.calls_of[verb], delay_s=delay_s))

    def hide_new(self, age_s: float) -> None:
        self.cloud.hide_new_s = age_s

    def short_pages(self, length: int) -> None:
        self.cloud.page = length

    def scarce(self, count: int) -> None:
        self.cloud.room = count

    def heal(self) -> None:
        self.server.faults.clear()
        self.cloud.heal()


@contextmanager
def nova_lab(folder: Path) -> Iterator[NovaLab]:
    with serving(Cloud()) as server, pytest.MonkeyPatch.context() as patch:
        (folder / "clouds.yaml").write_text(json.dumps({"clouds": {"small": account(server.url)}}))
        patch.setenv("OS_CLIENT_CONFIG_FILE", str(folder / "clouds.yaml"))
        yield NovaLab(server)


def account(url: str) -> dict[str, Any]:
    """An entry of clouds.yaml."""
    credential = {f"application_credential_{key}": value for key, value in APPLICATION_CREDENTIAL.items()}
    auth = {"auth_url": f"{url}/identity/v3", **credential}
    return {"auth_type": "v3applicationcredential", "auth": auth, "region_name": "here"}
