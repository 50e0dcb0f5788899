"""Where machines exist already there is nothing to launch, list or end: what is left of the contract holds."""

from __future__ import annotations

import pytest

from providers.base import LaunchRequest, Misconfigured
from providers.static import StaticProvider


@pytest.fixture
def provider() -> StaticProvider:
    return StaticProvider(installation="eo-1")


def test_it_launches_nothing_and_says_how_machines_come(provider: StaticProvider) -> None:
    assert provider.rents is False
    with pytest.raises(Misconfigured, match="orchestrator node enrol POOL"):
        provider.launch(LaunchRequest("eo-1-1", 1, "", "", b"", {}))


def test_it_shows_nothing_and_ends_nothing(provider: StaticProvider) -> None:
    provider.check()
    provider.terminate(["box-1"])
    assert (provider.instances(), provider.impaired(), provider.console("box-1")) == ([], {}, "")
    assert provider.inspect("", "", {}) == []


def test_it_takes_no_launch_template(provider: StaticProvider) -> None:
    provider.validate({})
    with pytest.raises(Misconfigured, match=r"launch\.image"):
        provider.validate({"image": "ami-1"})


@pytest.mark.parametrize("kind", ["images", "sizes", "locations"])
def test_its_catalogues_are_empty(provider: StaticProvider, kind: str) -> None:
    assert provider.catalogue(kind) == []


def test_catalogue_of_something_else_is_refused(provider: StaticProvider) -> None:
    with pytest.raises(Misconfigured, match="locations"):
        provider.catalogue("weather")
