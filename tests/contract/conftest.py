"""One cloud for all the tests of a worker: what a test breaks in it is healed afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from labs import LABS, Lab, Tenant


@pytest.fixture(scope="session", params=sorted(LABS))
def cloud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with LABS[request.param](tmp_path_factory.mktemp(request.param)) as lab:
        yield lab


@pytest.fixture
def lab(cloud: Lab) -> Iterator[Lab]:
    yield cloud
    cloud.heal()


@pytest.fixture
def tenant(lab: Lab) -> Tenant:
    """An installation of the test's own."""
    return Tenant(lab)
