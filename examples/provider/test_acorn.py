"""Acorn's provider proves itself: a lab, which is a cloud that one can look behind, and the suite of the contract."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from acorn import AcornProvider
from acorn_cloud import Cloud, serving

from providers.base import TAG_INSTALLATION
from providers.contract.lab import Lab
from providers.contract.suite import *  # noqa: F403

CODES = {
    "throttled": "slow_down",
    "refused": "bad_key",
    "expired": "expired_key",
    "no capacity": "no_room",
    "quota": "over_quota",
}


class AcornLab(Lab):
    image = "oak-12"
    instance_type = "small"
    absent_ids = ("m-999998", "m-999999")
    template = {"site": "north"}
    wrong_settings = {
        "image": {"image": "yew-1"},
        "type": {"instance_type": "huge"},
        "site": {"template": {"site": "the moon"}},
    }
    boots_guests = False
    retry_after_s = 7

    def __init__(self, cloud: Cloud, url: str) -> None:
        self._cloud, self._url = cloud, url

    def provider(self, installation: str, *, timeout_s: float = 10) -> AcornProvider:
        return AcornProvider(installation=installation, url=self._url, key="a key", timeout_s=timeout_s)

    def strangers(self) -> set[str]:
        return {self._cloud.start({TAG_INSTALLATION: "somebody else's"}), self._cloud.start({})}

    def alive(self, ids: set[str]) -> set[str]:
        return {id_ for id_ in ids if self._cloud.state(id_) not in ("ending", "ended")}

    def launched(self, installation: str) -> set[str]:
        machines = self._cloud.machines.values()
        return {seen["id"] for seen in machines if seen["tags"].get(TAG_INSTALLATION) == installation}

    def user_data(self, instance_id: str) -> bytes:
        return base64.b64decode(self._cloud.machines[instance_id]["user_data"])

    def power_off(self, instance_id: str) -> None:
        self._cloud.machines[instance_id]["state"] = "stopped"

    def calls(self) -> int:
        return self._cloud.calls

    def fault(self, verb: str, what: str, *, after: int = 0) -> None:
        if what == "dies":
            self._cloud.dies = True
        else:
            self._cloud.faults.append((verb, CODES.get(what, what), after))

    def slow(self, verb: str, delay_s: float) -> None:
        self._cloud.delays[verb] = delay_s

    def hide_new(self, age_s: float) -> None:
        self._cloud.hidden_s = age_s

    def short_pages(self, length: int) -> None:
        self._cloud.page = length

    def scarce(self, count: int) -> None:
        self._cloud.room = count

    def impair(self, instance_id: str) -> None:
        self._cloud.machines[instance_id]["impaired"] = "its host does not answer"

    def reclaim(self, instance_id: str) -> None:
        self._cloud.machines[instance_id] |= {"state": "stopped", "reclaimed": True, "fault": "taken back"}

    def heal(self) -> None:
        self._cloud.heal()


@pytest.fixture(scope="session")
def cloud() -> Iterator[Lab]:
    acorn = Cloud()
    with serving(acorn) as url:
        yield AcornLab(acorn, url)
