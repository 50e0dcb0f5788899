"""One real OpenStack for all tests of a run; the newest micro-version, and the oldest that we speak."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane, control_plane
from real_lab import real_nova_lab

from providers.contract.fixtures import lab, tenant
from providers.contract.lab import Lab

__all__ = ["cloud", "lab", "tenant"]


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    env = os.environ.get("OPENSTACK_ENV")
    assert env, "tests/openstack/run brings the services: make test-openstack"
    with control_plane(Path(env), tmp_path_factory.mktemp("openstack")) as running:
        yield running


@pytest.fixture(scope="session", params=[None, "2.51"], ids=["newest", "2.51"])
def cloud(request: pytest.FixtureRequest, plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with real_nova_lab(plane, tmp_path_factory.mktemp("clouds"), request.param) as lab:
        yield lab
