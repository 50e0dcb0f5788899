"""The CloudStack provider against the server of these tests, over HTTP."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import managementserver.errors as refusals
import pytest
from managementserver import USER, Cloud, Fault, Server, Times, serve
from managementserver.cloud import Machine
from managementserver.commands import NETWORK, OFFERINGS, TEMPLATE

from providers.base import TAG_INSTALLATION
from providers.cloudstack import CloudStackProvider
from providers.cloudstack.connection import Calls
from providers.contract.lab import Lab, unable

if TYPE_CHECKING:
    from conftest import MovableClock

PROFILE = "[core]\nprofile = test\n\n[test]\nurl = {url}\napikey = {key}\nsecretkey = {secret}\n"


def write_profile(folder: Path, server: Server, key: str = USER.api_key, secret: str = USER.secret_key) -> str:
    """A CloudMonkey file with the account's keys; its path."""
    path = folder / "cmk-config"
    path.write_text(PROFILE.format(url=server.url, key=key, secret=secret))
    return str(path)


class CloudStackLab(Lab):
    """A user's account, without the right to expunge."""

    image = TEMPLATE["name"]
    instance_type = "Small Instance"
    template = {"zone": "sim1", "networks": [NETWORK["name"]]}
    absent_ids = ("0c4a2c26-3c3c-4e3e-8f0a-9a2d5a1b0001", "0c4a2c26-3c3c-4e3e-8f0a-9a2d5a1b0002")
    wrong_settings = {
        "zone": {"template": {"zone": "mars"}},
        "size": {"instance_type": "Gigantic"},
        "image": {"image": "no such template"},
        "network": {"template": {"zone": "sim1", "networks": ["n99"]}},
        "key": {"template": {**template, "key_name": "nobody"}},
    }
    late_refusals = frozenset({"no capacity"})
    keeps_launch_ids = False
    boots_guests = False
    retry_after_s = 0.843
    _verbs = {
        "check": "listVirtualMachines",
        "launch": "deployVirtualMachine",
        "instances": "listVirtualMachines",
        "terminate": "destroyVirtualMachine",
    }
    _faults: dict[str, dict[str, Any]] = {
        "lost reply": {"drop": "reply"},
        "lost request": {"drop": "request"},
        "throttled": {
            "error": refusals.ApiError(
                429, "The given user has reached his/her account api limit, please retry after [843] ms."
            )
        },
        "refused": {"error": refusals.unauthenticated()},
        "expired": {"error": refusals.unauthenticated()},
        "broken": {"error": refusals.ApiError(530, "Internal error executing command", 4250)},
    }

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.profile = write_profile(folder, server)

    def provider(self, installation: str, *, timeout_s: float = 10) -> CloudStackProvider:
        return CloudStackProvider(
            installation=installation, config_file=self.profile, timeout_s=timeout_s, deploy_timeout_s=timeout_s
        )

    def strangers(self) -> set[str]:
        theirs = {f"details[0].{TAG_INSTALLATION}": "other"}
        return {self._start(**theirs), self._start()}

    def _start(self, **more: str) -> str:
        small = next(each["id"] for each in OFFERINGS.values() if each["name"] == self.instance_type)
        asked = {"serviceofferingid": small, "templateid": TEMPLATE["id"], "networkids": NETWORK["id"], **more}
        return str(self.server.commands.run("deployVirtualMachine", asked, USER, "POST")["id"])

    def machine(self, id_: str) -> Machine:
        self.server.cloud.catch_up()
        return self.server.cloud.machines[id_]

    def alive(self, ids: set[str]) -> set[str]:
        return {each for each in ids if (vm := self.machine(each)).counts and not _is_ending(vm)}

    def launched(self, installation: str) -> set[str]:
        return {vm.id for vm in self.server.cloud.machines.values() if vm.made_with.get(TAG_INSTALLATION) == installation}

    def calls(self) -> int:
        return self.server.calls.total()

    def may_cost(self, verb: str, machines: int) -> int:
        """A machine is a call; names, the right to expunge, and the jobs that are looked at once come on top."""
        return machines + 4 if verb in ("launch", "terminate") else super().may_cost(verb, machines)

    def user_data(self, instance_id: str) -> bytes:
        return base64.b64decode(self.machine(instance_id).user_data or "")

    def power_off(self, instance_id: str) -> None:
        self._settle(lambda cloud: cloud.machines[instance_id].state == "Running")
        with self.server.cloud.lock:
            self.server.cloud.move(self.machine(instance_id), "Stopped")

    def _settle(self, settled: Callable[[Cloud], bool]) -> None:
        """Let the cloud's own time go on until then."""
        deadline = time.monotonic() + self.within_s
        while not settled(self.server.cloud):
            assert time.monotonic() < deadline
            time.sleep(0.01)
            self.server.cloud.catch_up()

    def fault(self, verb: str, what: str, *, after: int = 0) -> None:
        cloud = self.server.cloud
        if what == "no capacity":
            cloud.room = 0
        elif what == "quota":
            cloud.limits["user_vm"] = 0
        elif what == "dies":
            cloud.broken_hypervisor = True
        elif verb not in self._verbs:
            unable(f"let {verb} fail: there is no call of it")
        else:
            self.server.faults.append(Fault(self._verbs[verb], skip=after, **self._faults[what]))

    def slow(self, verb: str, delay_s: float) -> None:
        if verb not in self._verbs:
            unable(f"make {verb} slow: there is no call of it")
        self.server.faults.append(Fault(self._verbs[verb], delay_s=delay_s))

    def hide_new(self, age_s: float) -> None:
        self.server.commands.hide_new_s = age_s

    def short_pages(self, length: int) -> None:
        self.server.cloud.settings.largest_page = length

    def scarce(self, count: int) -> None:
        self._settle(lambda cloud: not any(vm.jobs for vm in cloud.machines.values()))
        self.server.cloud.room = count

    def heal(self) -> None:
        cloud = self.server.cloud
        self.server.heal()
        self.server.commands.hide_new_s = 0
        cloud.settings.largest_page = 500
        cloud.room, cloud.broken_hypervisor = None, False
        cloud.limits.clear()


def _is_ending(vm: Machine) -> bool:
    return any("DestroyVM" in job.cmd for job in vm.jobs)


@contextmanager
def cloudstack_lab(folder: Path) -> Iterator[CloudStackLab]:
    times = Times(plan=0.05, start=0.05, stop=0.02, destroy=0.02, expunge=0.02)
    with serve(Cloud(lambda: datetime.now(UTC), times)) as server:
        yield CloudStackLab(server, folder)


# Fixtures of the tests that move the cloud's time by hand.


@pytest.fixture
def cloud(clock: MovableClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudStackLab]:
    """A cloud whose time the test moves, and by whose time the calls are signed."""
    monkeypatch.setattr(Calls.__init__, "__defaults__", (clock,))
    with serve(Cloud(clock, Times(plan=2, start=2, stop=1, destroy=1, expunge=1))) as server:
        yield CloudStackLab(server, tmp_path)


@pytest.fixture
def lab(cloud: CloudStackLab) -> CloudStackLab:
    return cloud
