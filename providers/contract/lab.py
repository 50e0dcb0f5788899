"""A lab is a cloud one can look behind: what the contract suite needs to know of a cloud besides its provider."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import pytest

from providers.base import Instance, InstanceState, LaunchRequest, Provider


def unable(what: str) -> NoReturn:
    """Skip the test that asked this of a lab."""
    pytest.skip(f"this lab cannot {what}")


class Lab(ABC):
    """One cloud under test, shared by many tests; each takes an installation of its own.

    What is abstract every lab can do. All else a lab may leave as it is: the tests that need it are skipped then. The
    verbs of `fault`, `slow` and `may_cost` are the provider's: check, launch, instances, terminate, console, inspect,
    impaired.
    """

    image: str
    instance_type: str
    absent_ids: Sequence[str]
    """Two ids or more, well-formed, that no machine has."""

    template: Mapping[str, object] = {}
    """What a launch needs besides image and type."""
    wrong_settings: Mapping[str, Mapping[str, Any]] = {}
    """The subject of a finding → the one of `image`, `instance_type`, `template` that is wrong, which `inspect` finds."""
    late_refusals: frozenset[str] = frozenset()
    """Which of "no capacity" and "quota" the cloud tells only after it has accepted the launch."""
    keeps_launch_ids = True
    """Whether the cloud itself knows a launch id again, even while the first call of it is still on its way."""
    boots_guests = True
    """Whether user data are carried out, with `echo` to be seen on the console."""
    retry_after_s: float | None = None
    """The wait that the fault `throttled` names, where the cloud names one."""
    patience_s = 0.2
    """The time-out in tests of slowness: longer than a call takes that goes well."""
    within_s = 10.0
    """How long a machine may take to come up, or to go."""
    many = 60
    """How many machines a test of paging may start, as long as they do not boot."""
    crowd = 60
    """How many the test that counts calls may start."""

    @abstractmethod
    def provider(self, installation: str, *, timeout_s: float = 10) -> Provider:
        """A provider of this installation, by the same account as all others."""

    @abstractmethod
    def strangers(self) -> set[str]:
        """Start machines that are not ours, one with another installation's tag and one without any; their ids."""

    @abstractmethod
    def alive(self, ids: set[str]) -> set[str]:
        """Which of these machines are neither ended nor ending, by the cloud's own word."""

    @abstractmethod
    def launched(self, installation: str) -> set[str]:
        """Every machine ever made for this installation, ended ones as far as the cloud shows them."""

    @abstractmethod
    def calls(self) -> int:
        """How many calls the cloud has had."""

    @abstractmethod
    def heal(self) -> None:
        """All faults are over."""

    def may_cost(self, verb: str, machines: int) -> int:
        """How many calls one use of a verb may take for so many machines."""
        return 1 + machines // 500

    def user_data(self, instance_id: str) -> bytes:
        """The raw user data this machine got."""
        unable("read user data back")

    def power_off(self, instance_id: str) -> None:
        """Let the guest of a machine that is up power itself off."""
        unable("let a guest power itself off")

    def fault(self, verb: str, what: str, *, after: int = 0) -> None:
        """Let one call of a verb fail, the next one or the one after some.

        What: lost reply, lost request, throttled, refused (the credentials), expired (the credentials), broken; and for
        the next launch, with all calls it takes: no capacity, quota, dies (accepted, and then it fails by itself).
        """
        unable(f"let {verb} fail by {what}")

    def slow(self, verb: str, delay_s: float) -> None:
        """Let the next call of a verb wait before it does anything."""
        unable(f"make {verb} slow")

    def hide_new(self, age_s: float) -> None:
        """Let listings not show what is younger than this, as clouds do."""
        unable("hide new machines")

    def short_pages(self, length: int) -> None:
        """Let listings come in pages of this length."""
        unable("shorten the pages of a listing")

    def scarce(self, count: int) -> None:
        """Let the next launch give no more machines than this."""
        unable("have room for some machines of a launch only")

    def impair(self, instance_id: str) -> None:
        """Let a running machine fail the cloud's own status checks."""
        unable("impair a machine")

    def reclaim(self, instance_id: str) -> None:
        """Let the cloud take a machine back."""
        unable("take a machine back")

    def inert(self) -> None:
        """Let new machines not boot, where that makes many of them cheaper."""


class Tenant:
    """One installation in a lab: what a test acts with."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.installation = f"contract-{uuid.uuid4().hex[:12]}"
        self.provider = lab.provider(self.installation)

    @property
    def impatient(self) -> Provider:
        """The same, with a time-out that slow calls do not keep."""
        return self.lab.provider(self.installation, timeout_s=self.lab.patience_s)

    def request(self, count: int = 1, launch_id: str | None = None, **more: Any) -> LaunchRequest:
        values: dict[str, Any] = {
            "launch_id": launch_id or f"launch-{uuid.uuid4().hex}",
            "count": count,
            "image": self.lab.image,
            "instance_type": self.lab.instance_type,
            "user_data": b"#!/bin/sh\necho up\n",
            "tags": {"purpose": "contract"},
            "template": self.lab.template,
        }
        return LaunchRequest(**{**values, **more})

    def launched(self) -> set[str]:
        return self.lab.launched(self.installation)

    def wait_for(self, wanted: Callable[[list[Instance]], bool]) -> list[Instance]:
        """The first listing that is as wanted."""
        deadline = time.monotonic() + self.lab.within_s
        while not wanted(seen := self.provider.instances()):
            assert time.monotonic() < deadline, f"not in {self.lab.within_s} s: {seen}"
            time.sleep(0.03)
        return seen

    def wait_for_console(self, instance_id: str, words: str) -> None:
        """Until the machine has said this."""
        self.wait_for(lambda _: words in self.provider.console(instance_id))

    def wait_for_end(self, ids: Iterable[str]) -> None:
        """Until these are ended, or no longer listed, as the clouds have it."""
        ended = set(ids)
        self.wait_for(lambda seen: not any(each.id in ended and each.state.exists for each in seen))

    def leave(self) -> None:
        """End what is left."""
        self.provider.terminate([each.id for each in self.provider.instances() if each.state.exists])


def ids(instances: Iterable[Instance]) -> set[str]:
    return {instance.id for instance in instances}


def is_up(instance: Instance) -> bool:
    return instance.state is InstanceState.RUNNING
