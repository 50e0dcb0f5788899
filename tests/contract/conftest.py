"""One cloud of each kind for all the tests of a worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from labs import LABS, Ec2Lab

from providers.contract.fixtures import lab, tenant
from providers.contract.lab import Lab

__all__ = ["cloud", "lab", "tenant"]


@pytest.fixture(scope="session", params=sorted(LABS))
def cloud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with LABS[request.param](tmp_path_factory.mktemp(request.param)) as lab:
        yield lab


@pytest.fixture
def ec2(lab: Ec2Lab) -> Any:
    """The SDK itself, to look behind the provider."""
    return lab.sdk
