"""The contract of `instances`, `check`, `console` and `catalogue`: all of ours, nothing of others, or an error."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from labs import Lab, Tenant, ids

from providers.base import InstanceState, Misconfigured, ProviderError, RateLimited, Unauthorised, Unavailable


def test_nothing_of_ours_is_an_empty_list(tenant: Tenant, lab: Lab) -> None:
    lab.strangers()
    assert tenant.provider.instances() == []


def test_all_pages_and_no_strangers(tenant: Tenant, lab: Lab) -> None:
    lab.inert()
    lab.short_pages(25)
    strangers = lab.strangers()
    given = tenant.provider.launch(tenant.request(count=60))
    given += tenant.provider.launch(tenant.request(count=2))
    strangers |= lab.strangers()
    seen = tenant.provider.instances()
    assert len(seen) == 62
    assert ids(seen) == ids(given)
    assert not ids(seen) & strangers
    tenant.provider.terminate(ids(seen))


def test_new_machines_may_take_a_while_to_be_seen(tenant: Tenant, lab: Lab) -> None:
    lab.hide_new(0.5)
    given = tenant.provider.launch(tenant.request(count=2))
    assert tenant.provider.instances() == []
    seen = tenant.wait_for(lambda seen: len(seen) == 2)
    assert ids(seen) == ids(given)


def test_machine_that_powered_itself_off_ends_and_says_so(tenant: Tenant, lab: Lab) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    tenant.wait_for(lambda seen: "up" in tenant.provider.console(given.id))
    lab.power_off(given.id)
    (ended,) = tenant.wait_for(lambda seen: seen[0].state is InstanceState.ENDED)
    assert ended.fault
    assert not ended.state.exists


def test_console_says_what_the_machine_said(tenant: Tenant) -> None:
    (given,) = tenant.provider.launch(tenant.request(user_data=b"#!/bin/sh\necho hello from the guest\n"))
    deadline = time.monotonic() + 10
    while "hello from the guest" not in tenant.provider.console(given.id):
        assert time.monotonic() < deadline
        time.sleep(0.03)


def test_console_of_no_machine_is_empty(tenant: Tenant) -> None:
    assert tenant.provider.console("i-0123456789abcdef0") == ""


def test_check_passes_on_a_cloud_in_order(tenant: Tenant) -> None:
    tenant.provider.check()


@pytest.mark.parametrize("verb", ["instances", "console", "terminate"])
@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("throttled", RateLimited),
        ("refused", Unauthorised),
        ("broken", Unavailable),
        ("lost reply", Unavailable),
        ("lost request", Unavailable),
    ],
)
def test_failures_are_named(tenant: Tenant, lab: Lab, verb: str, what: str, kind: type[ProviderError]) -> None:
    act = {
        "instances": tenant.provider.instances,
        "console": lambda: tenant.provider.console("i-0123456789abcdef0"),
        "terminate": lambda: tenant.provider.terminate(["i-0123456789abcdef0"]),
    }[verb]
    lab.fault(verb, what)
    with pytest.raises(kind) as caught:
        act()
    assert type(caught.value) is kind
    assert str(caught.value)
    act()  # the next one finds all well again


def test_throttling_says_how_long_to_wait(tenant: Tenant, lab: Lab) -> None:
    lab.fault("instances", "throttled")
    with pytest.raises(RateLimited) as caught:
        tenant.provider.instances()
    assert caught.value.retry_after_s > 0


def test_slow_listing_is_given_up_in_time(tenant: Tenant, lab: Lab) -> None:
    lab.slow("instances", 1)
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        lab.provider(tenant.installation, timeout_s=0.2).instances()
    assert time.monotonic() - begun < 0.9


def test_one_failed_page_fails_the_listing(tenant: Tenant, lab: Lab) -> None:
    lab.inert()
    tenant.provider.launch(tenant.request(count=10))
    lab.short_pages(5)
    lab.fault("instances", "broken", after=1)
    with pytest.raises(Unavailable):
        tenant.provider.instances()
    assert len(tenant.provider.instances()) == 10


def test_credentials_are_checked_with_the_fix(tenant: Tenant, lab: Lab) -> None:
    lab.fault("instances", "refused")
    with pytest.raises(Unauthorised, match="credentials"):
        tenant.provider.check()


@pytest.mark.parametrize("kind", ["images", "sizes", "locations"])
def test_catalogue_names_what_a_pool_may_name(tenant: Tenant, kind: str) -> None:
    found = tenant.provider.catalogue(kind)
    assert found
    assert all(item.id and item.name for item in found)
    assert len({item.id for item in found}) == len(found)


def test_catalogue_of_something_else_is_refused(tenant: Tenant) -> None:
    with pytest.raises(Misconfigured, match="locations"):
        tenant.provider.catalogue("weather")


def test_one_provider_serves_many_threads(tenant: Tenant, lab: Lab) -> None:
    lab.inert()

    def work(number: int) -> str:
        (given,) = tenant.provider.launch(tenant.request())
        tenant.provider.instances()
        if number % 2:
            tenant.provider.terminate([given.id])
        return given.id

    with ThreadPoolExecutor(8) as pool:
        given = set(pool.map(work, range(8)))
    assert ids(tenant.provider.instances()) == given
