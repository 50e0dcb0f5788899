"""The contract of `terminate`: what is named ends, what is absent is fine, nothing else is touched."""

from __future__ import annotations

import pytest
from labs import Lab, Tenant, ids

from providers.base import InstanceState, ProviderError

ABSENT = ["i-0000000000000000a", "i-0000000000000000b"]


def test_ends_what_is_named_and_nothing_else(tenant: Tenant, lab: Lab) -> None:
    strangers = lab.strangers()
    given = ids(tenant.provider.launch(tenant.request(count=4)))
    ended = set(sorted(given)[:2])
    tenant.provider.terminate(iter(ended))
    seen = tenant.wait_for(lambda seen: sum(each.state is InstanceState.ENDED for each in seen) == 2)
    assert {each.id for each in seen if each.state is InstanceState.ENDED} == ended
    assert lab.alive(given) == given - ended
    assert lab.alive(strangers) == strangers


def test_machines_are_seen_ending_before_they_have_ended(tenant: Tenant) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    tenant.provider.terminate([given.id])
    (seen,) = tenant.provider.instances()
    assert seen.state is InstanceState.ENDING
    assert seen.state.exists


def test_twice_is_fine(tenant: Tenant, lab: Lab) -> None:
    given = ids(tenant.provider.launch(tenant.request(count=2)))
    tenant.provider.terminate(given)
    tenant.provider.terminate(given)
    tenant.wait_for(lambda seen: all(each.state is InstanceState.ENDED for each in seen))
    tenant.provider.terminate(given)
    assert lab.alive(given) == set()


def test_absent_ones_do_not_save_the_others(tenant: Tenant, lab: Lab) -> None:
    given = sorted(ids(tenant.provider.launch(tenant.request(count=5))))
    tenant.provider.terminate([given[0], ABSENT[0], *given[1:4], ABSENT[1], given[4], "no-id-at-all"])
    assert lab.alive(set(given)) == set()


def test_absent_is_success(tenant: Tenant) -> None:
    tenant.provider.terminate(ABSENT)
    tenant.provider.terminate(["no-id-at-all"])


def test_nothing_to_end_makes_no_call(tenant: Tenant, lab: Lab) -> None:
    before = lab.calls()
    tenant.provider.terminate([])
    assert lab.calls() == before


def test_lost_reply_is_an_error_and_asking_again_is_fine(tenant: Tenant, lab: Lab) -> None:
    given = ids(tenant.provider.launch(tenant.request(count=2)))
    lab.fault("terminate", "lost reply")
    with pytest.raises(ProviderError):
        tenant.provider.terminate(given)
    tenant.provider.terminate(given)
    tenant.wait_for(lambda seen: all(each.state is InstanceState.ENDED for each in seen))
