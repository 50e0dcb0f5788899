"""A master's fleet, stepped by hand under virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.fleet import deadlines, planner
from orchestrator.fleet.enrolment import Enrol, Enrolled, Refused, enrol
from orchestrator.fleet.explain import explain_job
from orchestrator.fleet.launcher import Launcher
from orchestrator.fleet.reaper import Reaper
from orchestrator.fleet.secrets import enrolment_secret
from orchestrator.fleet.watcher import Watcher
from orchestrator.model.tables import Node
from orchestrator.simulation.world import Died
from orchestrator.store.installation import installation_id
from providers.base import Provider
from providers.fake import FakeCloud
from providers.static import StaticProvider

if TYPE_CHECKING:
    from conftest import Store

KEY = b"k" * 32
VISIBILITY_S = 60.0
ORPHAN_GRACE_S = 60.0


class InlineThreads:
    """Carries a launch out at once, on the caller's thread."""

    def submit(self, work: Callable[..., None], *arguments: Any) -> None:
        work(*arguments)

    def shutdown(self, **_: Any) -> None:
        return


class FakeClouds:
    """The clouds by name, as `orchestrator.clouds.Clouds` gives them."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._providers = dict(providers)

    def names(self) -> list[str]:
        return sorted(self._providers)

    def renting(self) -> list[str]:
        return [name for name in self.names() if self._providers[name].rents]

    def joined(self) -> list[str]:
        return [name for name in self.names() if not self._providers[name].rents]

    def get(self, name: str) -> Provider:
        return self._providers[name]


class Fleet:
    """One master's fleet on a store and a toy cloud. `restart` is a new process on the same database."""

    def __init__(self, store: Store, cloud: FakeCloud) -> None:
        self.store = store
        self.cloud = cloud
        self.installation = store.write(installation_id)
        own = StaticProvider(installation=self.installation)
        self.clouds = FakeClouds({"toy": cloud.provider(self.installation), "own": own})
        self.restart()

    def restart(self) -> None:
        """What a new master has: nothing in memory."""
        self.launcher = Launcher(
            self.store.writer,
            self.clouds,  # type: ignore[arg-type]
            self.installation,
            self._user_data,
            VISIBILITY_S,
            executor=InlineThreads(),  # type: ignore[arg-type]
        )
        self.watcher = Watcher(
            self.store.writer,
            self.clouds,  # type: ignore[arg-type]
            self.store.clock,
            installation=self.installation,
            visibility_s=VISIBILITY_S,
            orphan_grace_s=ORPHAN_GRACE_S,
        )
        self.reaper = Reaper(self.store.writer, self.clouds)  # type: ignore[arg-type]
        self.listening_since = self.store.clock()

    def _user_data(self, launch_id: int, pool: Mapping[str, Any], limit: int) -> bytes:
        return f"{launch_id} {pool['boot_timeout_s']} {limit}".encode()

    # steps

    def plan(self) -> None:
        self.store.write(planner.plan)

    def launch(self) -> float | None:
        """One step of the launcher; a master that dies in it is started anew."""
        try:
            return self.launcher.step()
        except Died:
            self.restart()
            return None

    def watch(self) -> None:
        self.watcher.step()

    def reap(self) -> None:
        self.reaper.step()

    def deadlines(self, heard: Mapping[int, datetime] | None = None) -> None:
        self.store.write(lambda tx: deadlines.keep(tx, heard or {}, self.listening_since))

    def round(self, seconds: float = 0.0) -> None:
        """Time passes, then every step is made once."""
        self.store.clock.move(seconds)
        self.plan()
        self.launch()
        self.watch()
        self.deadlines()
        self.reap()

    # agents

    def secret(self, node_id: int) -> str:
        return enrolment_secret(KEY, self.installation, self.store.one(Node, node_id).launch_id)

    def enrol(self, node_id: int, **changes: str) -> Enrolled | Refused:
        """The machine of this node calls home for the first time."""
        said = {
            "secret": self.secret(node_id),
            "instance_id": self.store.one(Node, node_id).instance_id or "i-none",
            "credential": f"credential-of-node-{node_id}",
            "agent_version": "1",
        }
        request = Enrol(**{**said, **changes})
        return self.store.write(lambda tx: enrol(tx, request, key=KEY, installation=self.installation))

    # looking

    def nodes(self, *states: str) -> list[int]:
        return [row.id for row in self.store.rows(Node) if not states or row.state in states]

    def states(self) -> list[str]:
        return self.store.states(Node)

    def explained(self, job_id: int) -> str:
        with self.store.engine.connect() as connection:
            told = explain_job(connection, job_id, self.store.clock())
        assert told is not None
        return " ".join([*told.sentences, told.next])


@pytest.fixture
def cloud(store: Store) -> FakeCloud:
    return FakeCloud(store.clock)


@pytest.fixture
def fleet(store: Store, cloud: FakeCloud) -> Fleet:
    return Fleet(store, cloud)


@pytest.fixture
def pool(store: Store, fleet: Fleet) -> int:
    """At most 5 machines; boot 600 s, heartbeat 90 s, drain 300 s."""
    return store.pool(max_nodes=5)


@pytest.fixture
def ask(store: Store, pool: int) -> Callable[..., int]:
    """Submit a job that asks for so many machines."""

    def submit(count: int = 1, tasks: int = 1, token: str = "t-$JOB_ID", **values: Any) -> int:
        infrastructure = {"pool": "main", "count": count, "token": token}
        return store.job(tasks, infrastructure=infrastructure, **values)

    return submit
