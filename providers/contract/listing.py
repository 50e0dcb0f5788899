"""The contract of `instances`: all of ours, nothing of others, or an error."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from providers.base import InstanceState, Unavailable

from .lab import Lab, Tenant, ids


def test_nothing_of_ours_is_an_empty_list(tenant: Tenant, lab: Lab) -> None:
    lab.strangers()
    assert tenant.provider.instances() == []


def test_listing_has_all_pages_and_no_strangers(tenant: Tenant, lab: Lab) -> None:
    lab.inert()
    lab.short_pages(lab.many * 2 // 5)
    strangers = lab.strangers()
    given = tenant.provider.launch(tenant.request(count=lab.many))
    given += tenant.provider.launch(tenant.request(count=2))
    strangers |= lab.strangers()
    seen = tenant.provider.instances()
    assert len(seen) == lab.many + 2
    assert ids(seen) == ids(given)
    assert not ids(seen) & strangers


def test_one_failed_page_fails_the_listing(tenant: Tenant, lab: Lab) -> None:
    lab.inert()
    tenant.provider.launch(tenant.request(count=10))
    lab.short_pages(5)
    lab.fault("instances", "broken", after=1)
    with pytest.raises(Unavailable):
        tenant.provider.instances()
    assert len(tenant.provider.instances()) == 10


def test_new_machines_may_take_a_while_to_be_seen(tenant: Tenant, lab: Lab) -> None:
    lab.hide_new(0.5)
    given = tenant.provider.launch(tenant.request(count=2))
    assert ids(tenant.provider.instances()) <= ids(given)  # some clouds are looked at until they show them
    seen = tenant.wait_for(lambda seen: len(seen) == 2)
    assert ids(seen) == ids(given)


def test_machine_that_powered_itself_off_is_seen_off(tenant: Tenant, lab: Lab) -> None:
    """Off, and still there to be ended; or ended, where the cloud does that and says why."""
    (given,) = tenant.provider.launch(tenant.request())
    if lab.boots_guests:
        tenant.wait_for_console(given.id, "up")
    lab.power_off(given.id)
    (seen,) = tenant.wait_for(lambda seen: seen[0].state in (InstanceState.STOPPED, InstanceState.ENDED))
    assert seen.fault or seen.state.exists


def test_one_provider_serves_many_threads(tenant: Tenant, lab: Lab) -> None:
    lab.inert()

    def work(number: int) -> str:
        (given,) = tenant.provider.launch(tenant.request())
        tenant.provider.instances()
        if number % 2:
            tenant.provider.terminate([given.id])
        return given.id

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(work, range(8)))
    assert len(set(given)) == 8
    assert lab.alive(set(given)) == set(given[::2]) <= ids(tenant.provider.instances())


def test_calls_are_few_however_many_the_machines(tenant: Tenant, lab: Lab) -> None:
    lab.inert()
    with few_calls(lab, "launch"):
        given = tenant.provider.launch(tenant.request(count=lab.crowd))
    with few_calls(lab, "instances"):
        tenant.provider.instances()
    with few_calls(lab, "impaired"):
        tenant.provider.impaired()
    with few_calls(lab, "terminate"):
        tenant.provider.terminate(ids(given))


@contextmanager
def few_calls(lab: Lab, verb: str) -> Iterator[None]:
    before = lab.calls()
    yield
    made = lab.calls() - before
    assert made <= lab.may_cost(verb, lab.crowd), f"{verb} of {lab.crowd} machines cost {made} calls"
