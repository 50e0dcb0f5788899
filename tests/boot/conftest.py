"""The master that the guests of these tests call."""

from collections.abc import Iterator

import pytest
from stub_master import StubMaster, stub_master


@pytest.fixture
def master() -> Iterator[StubMaster]:
    with stub_master() as running:
        yield running
