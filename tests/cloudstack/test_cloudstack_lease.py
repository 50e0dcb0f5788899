"""A guest that powers itself off, its lease over, is Stopped on CloudStack and keeps its disk: what ends it then.

The master's own launcher, watcher and reaper, on a store and the management server, under one virtual time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from cloudstack_lab import CloudStackLab, cloud, lab

from orchestrator.fleet import planner
from orchestrator.fleet.launcher import Launcher
from orchestrator.fleet.reaper import Reaper
from orchestrator.fleet.watcher import Watcher
from orchestrator.model.tables import Node
from orchestrator.store.installation import installation_id
from providers.base import TAG_INSTALLATION, LaunchRequest
from providers.cloudstack import CloudStackProvider

if TYPE_CHECKING:
    from conftest import Store

__all__ = ["cloud", "lab"]


class Inline:
    """Carries a launch out at once, on the caller's thread."""

    def submit(self, work: Callable[..., None], *arguments: Any) -> None:
        work(*arguments)


class Master:
    """A new process: nothing in memory."""

    def __init__(self, store: Store, lab: CloudStackLab) -> None:
        self.store = store
        self.installation = store.write(installation_id)
        self.provider = lab.provider(self.installation)
        self.launcher = Launcher(store.writer, self, self.installation, lambda *_: b"#!/bin/sh\n", visibility_s=60)  # type: ignore[arg-type]
        self.launcher._threads = Inline()  # type: ignore[assignment]
        about = {"installation": self.installation, "visibility_s": 60, "orphan_grace_s": 60}
        self.watcher = Watcher(store.writer, self, store.clock, **about)  # type: ignore[arg-type]
        self.reaper = Reaper(store.writer, self)  # type: ignore[arg-type]

    def renting(self) -> list[str]:
        return ["cs"]

    def joined(self) -> list[str]:
        return []

    def get(self, _: str) -> CloudStackProvider:
        return self.provider

    def look(self) -> None:
        self.store.clock.move(10)
        self.watcher.step()
        self.reaper.step()


@pytest.fixture
def running(store: Store, lab: CloudStackLab) -> str:
    """The machine of a job, up, whose master is gone."""
    store.pool(cloud="cs", launch={"image": lab.image, "instance_type": lab.instance_type, **lab.template})
    store.job(infrastructure={"pool": "main", "count": 1, "token": "t-$JOB_ID"})
    first = Master(store, lab)
    store.write(planner.plan)
    first.launcher.step()
    (node,) = store.rows(Node)
    store.clock.move(10)
    first.watcher.step()
    assert store.states(Node) == ["booting"]
    return str(node.instance_id)


def test_master_that_comes_back_ends_the_machine(store: Store, lab: CloudStackLab, running: str) -> None:
    lab.power_off(running)
    master = Master(store, lab)
    master.look()
    assert store.states(Node) == ["terminating"]
    for _ in range(6):  # CloudStack shows what it destroyed no more: that counts once it must have been visible
        master.look()
    assert store.states(Node)[0] == "terminated"
    assert lab.machine(running).state == "Destroyed"


def test_master_of_an_older_database_ends_it_as_an_orphan(store: Store, lab: CloudStackLab) -> None:
    master = Master(store, lab)
    store.pool(cloud="cs")
    tags = {TAG_INSTALLATION: master.installation}
    request = LaunchRequest("of-a-lost-row", 1, lab.image, lab.instance_type, b"", tags, lab.template)
    (lost,) = master.provider.launch(request)
    store.clock.move(10)
    lab.power_off(lost.id)
    for _ in range(12):
        master.look()
    assert lab.machine(lost.id).state == "Destroyed"
