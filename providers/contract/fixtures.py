"""What the suite's tests are given. The one that a provider's own tests bring is `cloud`, its lab."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .lab import Lab, Tenant


@pytest.fixture
def lab(cloud: Lab) -> Iterator[Lab]:
    """The one cloud of all tests: what a test breaks in it is healed afterwards."""
    yield cloud
    cloud.heal()


@pytest.fixture
def tenant(lab: Lab) -> Iterator[Tenant]:
    """An installation of the test's own, which leaves no machine."""
    tenant = Tenant(lab)
    yield tenant
    lab.heal()
    tenant.leave()
