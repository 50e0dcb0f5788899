"""The contract of `launch`: what was asked for, once, however often it is asked and whatever gets lost."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from providers.base import (
    TAG_INSTALLATION,
    TAG_LAUNCH,
    Cause,
    InstanceState,
    Misconfigured,
    OutcomeUnknown,
)

from .lab import Lab, Tenant, ids, is_up


def test_launch_gives_as_many_machines_as_asked_tagged_and_numbered(tenant: Tenant) -> None:
    request = tenant.request(count=3)
    given = tenant.provider.launch(request)
    seen = tenant.provider.instances()
    assert len(ids(given)) == 3
    assert ids(seen) == ids(given)
    assert sorted(each.launch_index for each in seen) in ([0, 1, 2], [0, 0, 0])  # a place each, where the cloud tells
    for each in [*given, *seen]:
        assert each.tags["purpose"] == "contract"
        assert each.tags[TAG_INSTALLATION] == tenant.installation
        assert each.launch_id == each.tags[TAG_LAUNCH] == request.launch_id
    assert all(each.launched_at is not None and each.launched_at.tzinfo is not None for each in seen)


def test_launched_machines_come_up(tenant: Tenant) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    assert given.state in (InstanceState.PENDING, InstanceState.RUNNING)
    (up,) = tenant.wait_for(lambda seen: all(map(is_up, seen)))
    assert up.address
    assert up.fault is None
    assert up.cause is None


@pytest.mark.parametrize("user_data", [b"#!/bin/sh\necho \xc3\xa9\n", gzip.compress(b"#!/bin/sh\n", mtime=0)])
def test_user_data_arrive_byte_by_byte(tenant: Tenant, lab: Lab, user_data: bytes) -> None:
    (given,) = tenant.provider.launch(tenant.request(user_data=user_data))
    assert lab.user_data(given.id) == user_data


def test_user_data_of_just_the_limit_are_taken(tenant: Tenant, lab: Lab) -> None:
    exact = b"#!/bin/sh\n#".ljust(tenant.provider.user_data_limit, b"x")
    (given,) = tenant.provider.launch(tenant.request(user_data=exact))
    assert lab.user_data(given.id) == exact


def test_too_large_user_data_are_refused_before_any_call(tenant: Tenant, lab: Lab) -> None:
    limit = tenant.provider.user_data_limit
    before = lab.calls()
    with pytest.raises(Misconfigured, match=rf"{limit + 1} bytes.*{limit}"):
        tenant.provider.launch(tenant.request(user_data=b"x" * (limit + 1)))
    assert lab.calls() == before


def test_unknown_settings_of_a_launch_are_named_without_a_call(tenant: Tenant, lab: Lab) -> None:
    before = lab.calls()
    tenant.provider.validate(lab.template)
    with pytest.raises(Misconfigured, match="no_such_setting"):
        tenant.provider.validate({**lab.template, "no_such_setting": 1})
    assert lab.calls() == before


def test_repeated_launch_gives_the_same_machines(tenant: Tenant) -> None:
    request = tenant.request(count=2)
    first = tenant.provider.launch(request)
    again = tenant.provider.launch(request)
    assert ids(again) == ids(first) == tenant.launched()


@pytest.mark.parametrize("what", ["lost reply", "lost request", "broken"])
def test_lost_launch_is_unknown_and_its_repeat_makes_no_second_machine(tenant: Tenant, lab: Lab, what: str) -> None:
    request = tenant.request(count=3)
    lab.fault("launch", what)
    with pytest.raises(OutcomeUnknown):
        tenant.provider.launch(request)
    again = tenant.provider.launch(request)
    assert len(again) == 3
    assert ids(again) == tenant.launched()


def test_timed_out_launch_is_unknown_and_its_repeat_makes_no_second_machine(tenant: Tenant, lab: Lab) -> None:
    request = tenant.request(count=2)
    lab.slow("launch", 4 * lab.patience_s)
    with pytest.raises(OutcomeUnknown):
        tenant.impatient.launch(request)
    if not lab.keeps_launch_ids:
        tenant.wait_for(lambda seen: len(seen) > 0)  # nobody could know it before
    again = tenant.provider.launch(request)
    tenant.wait_for(lambda seen: all(map(is_up, seen)))
    assert len(again) == 2
    assert ids(again) == tenant.launched()


def test_many_launches_at_once_with_one_id_make_one(tenant: Tenant) -> None:
    request = tenant.request(count=2)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: ids(tenant.provider.launch(request)), range(16)))
    assert all(reply == tenant.launched() for reply in replies)


def test_launch_repeated_after_an_end_makes_nothing_new(tenant: Tenant) -> None:
    request = tenant.request(count=2)
    first = tenant.provider.launch(request)
    tenant.provider.terminate([first[0].id])
    tenant.wait_for_end([first[0].id])
    again = tenant.provider.launch(request)
    assert first[1].id in ids(again)
    assert ids(again) | tenant.launched() <= ids(first)


def test_one_id_for_two_different_launches_makes_nothing(tenant: Tenant) -> None:
    request = tenant.request()
    first = tenant.provider.launch(request)
    # A cloud that keeps what was asked knows the difference; others give what they gave.
    with suppress(OutcomeUnknown):
        assert ids(tenant.provider.launch(replace(request, user_data=b"#!/bin/sh\necho other\n"))) == ids(first)
    assert tenant.launched() == ids(first)


def test_fewer_machines_than_asked_are_no_error(tenant: Tenant, lab: Lab) -> None:
    """Some clouds give as many as there is room for, others give all and then say of some that they cannot be."""
    lab.scarce(2)
    request = tenant.request(count=5)
    given = tenant.provider.launch(request)
    assert len(given) in ((2, 5) if "no capacity" in lab.late_refusals else (2,))
    settled = (InstanceState.RUNNING, InstanceState.ERROR)
    seen = tenant.wait_for(lambda seen: len(seen) == len(given) and all(each.state in settled for each in seen))
    assert sum(map(is_up, seen)) == 2
    assert [each.cause for each in seen if not is_up(each)] == [Cause.NO_CAPACITY] * (len(given) - 2)
    assert ids(tenant.provider.launch(request)) == ids(given) == tenant.launched()
