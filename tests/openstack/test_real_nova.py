"""The contract of a provider, kept by Nova itself."""

import pytest

from providers.contract.suite import *  # noqa: F403

pytestmark = [pytest.mark.openstack, pytest.mark.timeout(600)]
