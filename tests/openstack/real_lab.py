"""The lab of the Nova provider on the real services: the same as on the small ones, but for how the cloud is looked behind."""

from __future__ import annotations

import base64
import copy
import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from control_plane import REGION, ControlPlane
from nova_lab import TEMPLATE, NovaLab
from openstack_http import Fault

from providers.base import TAG_INSTALLATION
from providers.contract.lab import Lab, unable
from providers.nova import NovaProvider

FAULTY = ("nova", "keystone")


class RealNovaLab(NovaLab):
    """One project of the cloud, spoken to in one micro-version."""

    absent_ids = ("00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b")
    wrong_settings = {subject: NovaLab.wrong_settings[subject] for subject in ("image", "flavor", "network", "key", "zone")}
    patience_s = 4.0
    within_s = 90.0
    many = 20
    crowd = 20
    calls_of = {verb: call.replace("/compute", "") for verb, call in NovaLab.calls_of.items()}

    def __init__(self, plane: ControlPlane, project: str) -> None:
        self.plane = plane
        self.project = project
        self.project_id = plane.project_id(project)
        self._providers: dict[float, NovaProvider] = {}
        self._strangers: set[str] = set()

    def provider(self, installation: str, *, timeout_s: float = 60) -> NovaProvider:
        timeout_s = timeout_s if timeout_s == self.patience_s else 60
        if timeout_s not in self._providers:
            self._providers[timeout_s] = NovaProvider(installation="", cloud=self.project, timeout_s=60)
            self._providers[timeout_s].check()  # the token is taken with patience
            self._providers[timeout_s]._api.session.timeout = timeout_s
        provider = copy.copy(self._providers[timeout_s])
        provider._installation = installation
        return provider

    def strangers(self) -> set[str]:
        mark = {TAG_INSTALLATION: f"other-{uuid.uuid4().hex}"}
        made = {self._start(mark), self._start({})}
        self._strangers |= made
        return made

    def _start(self, metadata: dict[str, str]) -> str:
        provider = self.provider("")
        networks = [{"uuid": provider._names.id("network", name)} for name in TEMPLATE["networks"]]
        body = {"name": "stranger", "metadata": metadata, "networks": networks}
        body |= {"imageRef": provider._names.id("image", self.image)}
        body |= {"flavorRef": provider._names.id("flavor", self.instance_type)}
        return str(provider._api.post("/servers", {"server": body})["server"]["id"])

    def _servers(self) -> dict[str, Any]:
        """By the administrator's word."""
        found = self.plane.call("nova", "GET", f"/v2.1/servers/detail?all_tenants=1&project_id={self.project_id}")
        return {server["id"]: server for server in found["servers"]}

    def alive(self, ids: set[str]) -> set[str]:
        return {id_ for id_, server in self._servers().items() if server["OS-EXT-STS:task_state"] != "deleting"} & ids

    def launched(self, installation: str) -> set[str]:
        servers = self._servers().items()
        return {id_ for id_, server in servers if server["metadata"].get(TAG_INSTALLATION) == installation}

    def user_data(self, instance_id: str) -> bytes:
        server = self.plane.call("nova", "GET", f"/v2.1/servers/{instance_id}")["server"]
        return base64.b64decode(server["OS-EXT-SRV-ATTR:user_data"])

    def power_off(self, instance_id: str) -> None:
        self._order(power_off=instance_id)

    def impair(self, instance_id: str) -> None:
        deadline = time.monotonic() + self.within_s
        while self._servers()[instance_id]["status"] != "ACTIVE":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        self._order(lose=instance_id)

    def calls(self) -> int:
        """Nova's alone: it calls the others itself."""
        return int(httpx.get(f"{self.plane.url('nova')}/_front", timeout=30).json()["calls"])

    def fault(self, verb: str, what: str, *, after: int = 0) -> None:
        if what in ("no capacity", "dies"):
            self._order(spoil="launch-", failure=what)
            return
        if what not in self._faults:
            unable(f"let {verb} fail by {what}")
        self._spoil("nova", Fault(self.calls_of[verb], skip=after, **self._faults[what]))
        if what == "expired":
            self._spoil("keystone", Fault("POST /v3/auth/tokens", status=401))

    def slow(self, verb: str, delay_s: float) -> None:
        self._spoil("nova", Fault(self.calls_of[verb], delay_s=delay_s))

    def hide_new(self, age_s: float) -> None:
        unable("hide new machines: Nova shows them at once")

    def short_pages(self, length: int) -> None:
        self._order(page=length)

    def scarce(self, count: int) -> None:
        """Once all is calm: a server that goes is counted until it has gone, and at some moments nothing tells that it goes."""
        deadline = time.monotonic() + self.within_s
        servers, calm = self._servers(), 0
        while calm < 10:
            assert time.monotonic() < deadline
            time.sleep(0.2)
            before, servers = servers, self._servers()
            settled = servers.keys() == before.keys() and not any(map(_is_changing, servers.values()))
            calm = calm + 1 if settled and self._counted() == len(servers) else 0
        self._set_quota(len(servers) + count)

    def heal(self) -> None:
        for service in FAULTY:
            httpx.delete(f"{self.plane.url(service)}/_front", timeout=30)
        self._order(spoil="", failure="")
        self._order(page=1000)
        self._set_quota(-1)
        self.provider("").terminate(self._strangers)
        self._strangers.clear()

    def _spoil(self, service: str, fault: Fault) -> None:
        httpx.post(f"{self.plane.url(service)}/_front", json=asdict(fault), timeout=30).raise_for_status()

    def _order(self, **order: Any) -> None:
        httpx.post(f"{self.plane.url('nova')}/_nova", json=order, timeout=60).raise_for_status()

    def _counted(self) -> int:
        quotas = self.plane.call("nova", "GET", f"/v2.1/os-quota-sets/{self.project_id}/detail")
        return int(quotas["quota_set"]["instances"]["in_use"])

    def _set_quota(self, instances: int) -> None:
        wanted = {"quota_set": {"instances": instances, "cores": -1, "ram": -1}}
        self.plane.call("nova", "PUT", f"/v2.1/os-quota-sets/{self.project_id}", wanted)


def _is_changing(server: Any) -> bool:
    return server["status"] in ("BUILD", "DELETED") or server["OS-EXT-STS:task_state"] is not None


@contextmanager
def real_nova_lab(plane: ControlPlane, folder: Path, microversion: str | None) -> Iterator[Lab]:
    """A lab in a project of its own; `None` is the newest micro-version."""
    project = f"speaks-{microversion or 'newest'}"
    entry = {"auth_type": "v3applicationcredential", "auth": plane.member(project, documented_rules())}
    entry |= {"region_name": REGION}
    if microversion:
        entry |= {"compute_default_microversion": microversion}
    (folder / "clouds.yaml").write_text(json.dumps({"clouds": {project: entry}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OS_CLIENT_CONFIG_FILE", str(folder / "clouds.yaml"))
        lab = RealNovaLab(plane, project)
        for timeout_s in (lab.patience_s, 60):
            lab.provider("", timeout_s=timeout_s)  # signed in, before a test spoils it
        lab.heal()
        yield lab


def documented_rules() -> list[dict[str, str]]:
    """The least that docs/openstack.md says the master needs: here it has nothing more."""
    document = Path(__file__).resolve().parents[2] / "docs" / "openstack.md"
    (block,) = re.findall(r"```json\n(.*?)```", document.read_text(), re.DOTALL)
    rules: list[dict[str, str]] = json.loads(block)
    return rules
