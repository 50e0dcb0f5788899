"""A provider that is not ours, built and installed as anyone's package: it proves itself, and the master rents by it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx import HTTPStatusError
from theatre import Director, until

from orchestrator.demo.stage import stage

EXAMPLE = Path(__file__).parents[2] / "examples" / "provider"
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages with the example in it."""
    folder = tmp_path_factory.mktemp("example")
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(EXAMPLE)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("acorn_provider-*.whl")
    site = folder / "site"
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True)
    return site


def test_the_example_passes_the_contract(site: Path, tmp_path: Path) -> None:
    for name in ("test_acorn.py", "acorn_cloud.py"):  # without acorn.py: the installed one is meant
        shutil.copy(EXAMPLE / name, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--rootdir", ".", "test_acorn.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout
    assert [
        line for line in done.stdout.splitlines() if line.startswith("SKIPPED") and "run no user data" not in line
    ] == []


@pytest.fixture
def acorn_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the cloud answers."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import acorn_cloud

    with acorn_cloud.serving(acorn_cloud.Cloud()) as url:
        yield url


def test_the_master_rents_by_its_name_in_the_settings(
    site: Path, acorn_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(site))
    settings = f'look_s = 1\nclouds.oak = {{provider = "acorn", url = "{acorn_url}", key = "k"}}'
    launch = {"image": "oak-12", "instance_type": "small", "site": "north"}
    with stage(tmp_path / "stage", tmp_path / "data", settings=settings) as here:
        director = Director(here)
        director.pool(name="oaks", cloud="oak", min_nodes=2, launch=launch)
        with pytest.raises(HTTPStatusError, match="422"):
            director.pool(name="wrong", cloud="oak", launch={**launch, "siet": "north"})

        def machines(state: str) -> set[str]:
            return {node["instance_id"] for node in director.nodes() if node["state"] == state}

        until(lambda: machines("booting") == {"m-000000", "m-000001"})
        audit = director.audit()
        assert (audit["agrees"], audit["alive"]) == (True, 2)
        for node in director.nodes():
            director.post(f"/nodes/{node['id']}/terminate")
        until(lambda: machines("terminated") >= {"m-000000", "m-000001"})
