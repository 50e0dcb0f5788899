"""The contract of `terminate`: what is named ends, what is absent is fine, nothing else is touched."""

from __future__ import annotations

import pytest

from providers.base import ProviderError

from .lab import Lab, Tenant, ids


def test_terminate_ends_what_is_named_and_nothing_else(tenant: Tenant, lab: Lab) -> None:
    strangers = lab.strangers()
    given = ids(tenant.provider.launch(tenant.request(count=4)))
    ended = set(sorted(given)[:2])
    tenant.provider.terminate(iter(ended))
    tenant.wait_for_end(ended)
    assert {each.id for each in tenant.provider.instances() if each.state.exists} == given - ended
    assert lab.alive(given) == given - ended
    assert lab.alive(strangers) == strangers


def test_terminating_twice_is_fine(tenant: Tenant, lab: Lab) -> None:
    given = ids(tenant.provider.launch(tenant.request(count=2)))
    tenant.provider.terminate(given)
    tenant.provider.terminate(given)
    tenant.wait_for_end(given)
    tenant.provider.terminate(given)
    assert lab.alive(given) == set()


def test_absent_machines_do_not_save_the_others(tenant: Tenant, lab: Lab) -> None:
    absent, other, *_ = lab.absent_ids
    given = sorted(ids(tenant.provider.launch(tenant.request(count=5))))
    tenant.provider.terminate([given[0], absent, *given[1:4], other, given[4], "no-id-at-all"])
    tenant.wait_for_end(given)
    assert lab.alive(set(given)) == set()


def test_terminating_absent_machines_is_success(tenant: Tenant, lab: Lab) -> None:
    tenant.provider.terminate(lab.absent_ids)
    tenant.provider.terminate(["no-id-at-all"])


def test_nothing_to_terminate_makes_no_call(tenant: Tenant, lab: Lab) -> None:
    before = lab.calls()
    tenant.provider.terminate([])
    assert lab.calls() == before


def test_lost_reply_of_a_terminate_is_an_error_and_asking_again_is_fine(tenant: Tenant, lab: Lab) -> None:
    given = ids(tenant.provider.launch(tenant.request(count=2)))
    lab.fault("terminate", "lost reply")
    with pytest.raises(ProviderError):
        tenant.provider.terminate(given)
    tenant.provider.terminate(given)
    tenant.wait_for_end(given)
