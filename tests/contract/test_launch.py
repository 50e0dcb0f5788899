"""The contract of `launch`: what was asked for, once, however often it is asked and whatever gets lost."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from labs import Lab, Tenant, ids

from providers.base import (
    TAG_INSTALLATION,
    TAG_LAUNCH,
    InstanceState,
    Misconfigured,
    NoCapacity,
    OutcomeUnknown,
    QuotaExceeded,
    RateLimited,
    Unauthorised,
)


def test_gives_as_many_machines_as_asked_tagged_and_numbered(tenant: Tenant) -> None:
    request = tenant.request(count=3)
    given = tenant.provider.launch(request)
    seen = tenant.provider.instances()
    assert len(ids(given)) == 3
    assert ids(seen) == ids(given)
    assert sorted(each.launch_index for each in seen) == [0, 1, 2]
    for each in [*given, *seen]:
        assert each.tags["purpose"] == "contract"
        assert each.tags[TAG_INSTALLATION] == tenant.installation
        assert each.launch_id == each.tags[TAG_LAUNCH] == request.launch_id
        assert each.launched_at is not None and each.launched_at.tzinfo is not None


def test_machines_come_up(tenant: Tenant) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    assert given.state is InstanceState.PENDING
    (up,) = tenant.wait_for(lambda seen: seen[0].state is InstanceState.RUNNING)
    assert up.address
    assert up.fault is None


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


def test_repeat_gives_the_same_machines(tenant: Tenant, lab: Lab) -> None:
    request = tenant.request(count=2)
    first = tenant.provider.launch(request)
    again = tenant.provider.launch(request)
    assert ids(again) == ids(first) == lab.launched(tenant.installation)


@pytest.mark.parametrize("what", ["lost reply", "lost request", "broken"])
def test_lost_call_is_unknown_and_its_repeat_makes_no_second_machine(tenant: Tenant, lab: Lab, what: str) -> None:
    request = tenant.request(count=3)
    lab.fault("launch", what)
    with pytest.raises(OutcomeUnknown):
        tenant.provider.launch(request)
    again = tenant.provider.launch(request)
    assert len(again) == 3
    assert ids(again) == lab.launched(tenant.installation)


def test_timed_out_call_is_unknown_and_its_repeat_makes_no_second_machine(tenant: Tenant, lab: Lab) -> None:
    request = tenant.request(count=2)
    lab.slow("launch", 0.8)
    with pytest.raises(OutcomeUnknown):
        lab.provider(tenant.installation, timeout_s=0.2).launch(request)
    again = tenant.provider.launch(request)  # arrives before the first one has begun to do anything
    tenant.wait_for(lambda seen: all(each.state is InstanceState.RUNNING for each in seen))
    assert ids(again) == lab.launched(tenant.installation)


def test_many_at_once_with_one_id_make_one_launch(tenant: Tenant, lab: Lab) -> None:
    request = tenant.request(count=2)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: ids(tenant.provider.launch(request)), range(16)))
    assert all(reply == lab.launched(tenant.installation) for reply in replies)


def test_repeat_after_the_end_gives_the_ended_machines(tenant: Tenant, lab: Lab) -> None:
    request = tenant.request(count=2)
    first = tenant.provider.launch(request)
    tenant.provider.terminate([first[0].id])
    tenant.wait_for(lambda seen: any(each.state is InstanceState.ENDED for each in seen))
    again = tenant.provider.launch(request)
    assert ids(again) == ids(first) == lab.launched(tenant.installation)


def test_one_id_for_two_different_launches_is_unknown_and_makes_nothing(tenant: Tenant, lab: Lab) -> None:
    request = tenant.request()
    tenant.provider.launch(request)
    with pytest.raises(OutcomeUnknown):
        tenant.provider.launch(replace(request, user_data=b"#!/bin/sh\necho other\n"))
    assert len(lab.launched(tenant.installation)) == 1


def test_fewer_machines_than_asked_are_given_and_not_an_error(tenant: Tenant, lab: Lab) -> None:
    lab.scarce(2)
    request = tenant.request(count=5)
    assert len(tenant.provider.launch(request)) == 2
    assert len(tenant.provider.launch(request)) == 2
    assert len(lab.launched(tenant.installation)) == 2


@pytest.mark.parametrize(
    ("what", "kind"),
    [("no capacity", NoCapacity), ("quota", QuotaExceeded), ("throttled", RateLimited), ("refused", Unauthorised)],
)
def test_refusals_are_named_and_make_nothing(tenant: Tenant, lab: Lab, what: str, kind: type[Exception]) -> None:
    lab.fault("launch", what)
    with pytest.raises(kind) as caught:
        tenant.provider.launch(tenant.request(count=2))
    assert type(caught.value) is kind
    assert lab.launched(tenant.installation) == set()


def test_unknown_machine_settings_are_named(tenant: Tenant, lab: Lab) -> None:
    before = lab.calls()
    tenant.provider.validate({})
    with pytest.raises(Misconfigured, match="no_such_setting"):
        tenant.provider.validate({"no_such_setting": 1})
    assert lab.calls() == before
