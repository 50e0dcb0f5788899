"""The agent's modules as they stand in the zipapp, a scripted master, and machines with a real agent."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_master import SOURCES, AgentBox, FakeMaster

from orchestrator.agents.package import agent_package

MODULES = (
    "artifacts", "calls", "control", "engine", "interruption", "journal", "logtail", "machine", "outputs", "processes",
    "uplink",
)  # fmt: skip


@pytest.fixture(scope="session")
def agent() -> SimpleNamespace:
    """The modules by name. They are plain top-level names in the zipapp, so they leave `sys.modules` again."""
    sys.path.insert(0, str(SOURCES))
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(SOURCES))
        for path in SOURCES.glob("*.py"):
            if path.stem in sys.modules and path.stem != "__main__":
                del sys.modules[path.stem]


@pytest.fixture(scope="session")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agent") / "agent.pyz"
    path.write_bytes(agent_package().content)
    return path


@pytest.fixture
def master() -> Iterator[FakeMaster]:
    fake = FakeMaster()
    yield fake
    fake.close()


@pytest.fixture
def machine(master: FakeMaster, pyz: Path, tmp_path: Path) -> Iterator[AgentBox]:
    """A machine whose agent is not started yet."""
    box = AgentBox(tmp_path / "machine", pyz, master.url)
    yield box
    box.close()


@pytest.fixture
def machines(pyz: Path, tmp_path: Path) -> Iterator[Callable[[str], AgentBox]]:
    """Makes machines for a given master's URL."""
    made: list[AgentBox] = []

    def make(url: str) -> AgentBox:
        made.append(AgentBox(tmp_path / f"machine-{len(made)}", pyz, url))
        return made[-1]

    yield make
    for box in made:
        box.close()
