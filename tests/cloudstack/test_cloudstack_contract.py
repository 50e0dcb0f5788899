"""The CloudStack provider keeps the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cloudstack_lab import cloudstack_lab

from providers.contract.lab import Lab
from providers.contract.suite import *  # noqa: F403


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with cloudstack_lab(tmp_path_factory.mktemp("cloudstack")) as lab:
        yield lab
