"""The contract of what only looks: `check`, `inspect`, `impaired`, `console`, `catalogue`. Nothing is made by it."""

from __future__ import annotations

from typing import Any

import pytest

from providers.base import Finding, Misconfigured, Verdict

from .lab import Lab, Tenant, is_up


def test_provider_says_what_it_is(tenant: Tenant) -> None:
    assert tenant.provider.rents is True
    assert tenant.provider.user_data_limit > 0


def test_check_passes_on_a_cloud_in_order(tenant: Tenant) -> None:
    tenant.provider.check()


def test_inspect_finds_nothing_wrong_with_what_can_be_launched_and_makes_nothing(tenant: Tenant) -> None:
    found = _inspect(tenant)
    assert [each for each in found if each.verdict is Verdict.WRONG] == []
    assert all(each.subject and each.told for each in found)
    assert tenant.launched() == set()


def test_inspect_names_each_thing_that_is_wrong(tenant: Tenant, lab: Lab) -> None:
    if not lab.wrong_settings:
        pytest.skip("this lab names no wrong settings")
    for subject, settings in lab.wrong_settings.items():
        wrong = [each for each in _inspect(tenant, **settings) if each.verdict is Verdict.WRONG]
        assert [each.subject for each in wrong] == [subject], settings
        assert wrong[0].told


def _inspect(tenant: Tenant, **settings: Any) -> list[Finding]:
    lab = tenant.lab
    usual = {"image": lab.image, "instance_type": lab.instance_type, "template": lab.template}
    return tenant.provider.inspect(**{**usual, **settings})


def test_impaired_machines_are_named_in_the_clouds_words_and_only_ours(tenant: Tenant, lab: Lab) -> None:
    given = tenant.provider.launch(tenant.request(count=2))
    tenant.wait_for(lambda seen: all(map(is_up, seen)))
    assert tenant.provider.impaired() == {}
    lab.impair(given[0].id)
    lab.impair(next(iter(lab.strangers())))
    impaired = tenant.provider.impaired()
    assert set(impaired) == {given[0].id}
    assert impaired[given[0].id]


def test_console_says_what_the_machine_said(tenant: Tenant, lab: Lab) -> None:
    if not lab.boots_guests:
        pytest.skip("the machines of this lab run no user data")
    (given,) = tenant.provider.launch(tenant.request(user_data=b"#!/bin/sh\necho hello from the guest\n"))
    tenant.wait_for_console(given.id, "hello from the guest")


def test_console_of_no_machine_is_empty(tenant: Tenant, lab: Lab) -> None:
    assert tenant.provider.console(lab.absent_ids[0]) == ""


@pytest.mark.parametrize("kind", ["images", "sizes", "locations"])
def test_catalogue_names_what_a_pool_may_name(tenant: Tenant, kind: str) -> None:
    found = tenant.provider.catalogue(kind)
    assert found
    assert all(item.id and item.name for item in found)
    assert len({item.id for item in found}) == len(found)


def test_catalogue_of_something_else_is_refused(tenant: Tenant) -> None:
    with pytest.raises(Misconfigured, match="locations"):
        tenant.provider.catalogue("weather")
