"""The contract of errors: each failure is named by what the caller does next, whichever verb it strikes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from providers.base import (
    Cause,
    InstanceState,
    NoCapacity,
    Provider,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    Unauthorised,
    Unavailable,
)

from .lab import Lab, Tenant, ids

VERBS: dict[str, Callable[[Provider, Lab], object]] = {
    "check": lambda provider, _: provider.check(),
    "instances": lambda provider, _: provider.instances(),
    "terminate": lambda provider, lab: provider.terminate(lab.absent_ids[:1]),
    "console": lambda provider, lab: provider.console(lab.absent_ids[0]),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("throttled", RateLimited),
        ("refused", Unauthorised),
        ("expired", Unauthorised),
        ("broken", Unavailable),
        ("lost reply", Unavailable),
        ("lost request", Unavailable),
    ],
)
def test_failures_are_named(tenant: Tenant, lab: Lab, verb: str, what: str, kind: type[ProviderError]) -> None:
    lab.fault(verb, what)
    with pytest.raises(kind) as caught:
        VERBS[verb](tenant.provider, lab)
    assert type(caught.value) is kind
    assert str(caught.value)
    VERBS[verb](tenant.provider, lab)  # the next one finds all well again


@pytest.mark.parametrize("verb", VERBS)
def test_slow_calls_are_given_up(tenant: Tenant, lab: Lab, verb: str) -> None:
    lab.slow(verb, 4 * lab.patience_s)
    with pytest.raises(Unavailable):
        VERBS[verb](tenant.impatient, lab)


@pytest.mark.parametrize(
    ("what", "kind"), [("throttled", RateLimited), ("refused", Unauthorised), ("expired", Unauthorised)]
)
def test_refused_launches_are_named_and_make_nothing(
    tenant: Tenant, lab: Lab, what: str, kind: type[ProviderError]
) -> None:
    lab.fault("launch", what)
    with pytest.raises(kind) as caught:
        tenant.provider.launch(tenant.request())
    assert type(caught.value) is kind
    assert tenant.launched() == set()


@dataclass(frozen=True)
class Want:
    """What a cloud has not: how it is asked for here, how it is told at the call, how of a machine that nearly came."""

    what: str
    kind: type[NoCapacity]
    cause: Cause


@pytest.mark.parametrize(
    "want",
    [Want("no capacity", NoCapacity, Cause.NO_CAPACITY), Want("quota", QuotaExceeded, Cause.QUOTA)],
    ids=lambda want: want.what,
)
def test_want_of_machines_is_told_at_the_call_or_by_the_cause_of_each(tenant: Tenant, lab: Lab, want: Want) -> None:
    request = tenant.request(count=2)
    lab.fault("launch", want.what)
    if want.what not in lab.late_refusals:
        with pytest.raises(want.kind) as caught:
            tenant.provider.launch(request)
        assert type(caught.value) is want.kind
        assert tenant.launched() == set()
        return
    given = ids(tenant.provider.launch(request))
    seen = tenant.wait_for(lambda seen: len(seen) == 2 and all(each.state is InstanceState.ERROR for each in seen))
    assert ids(seen) == given
    assert [each.cause for each in seen] == [want.cause] * 2
    assert all(each.fault for each in seen)
    tenant.provider.terminate(given)
    tenant.wait_for_end(given)


def test_machine_that_dies_as_it_is_made_is_listed_with_its_fault_and_can_be_ended(tenant: Tenant, lab: Lab) -> None:
    lab.fault("launch", "dies")
    (given,) = tenant.provider.launch(tenant.request())
    (seen,) = tenant.wait_for(lambda seen: [each.state for each in seen] == [InstanceState.ERROR])
    assert seen.fault
    assert seen.cause is None
    tenant.provider.terminate([given.id])
    tenant.wait_for_end([given.id])


def test_machine_that_the_cloud_took_back_says_so(tenant: Tenant, lab: Lab) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    lab.reclaim(given.id)
    (seen,) = tenant.wait_for(lambda seen: [each.cause for each in seen] == [Cause.RECLAIMED])
    assert seen.fault


def test_throttling_says_how_long_to_wait(tenant: Tenant, lab: Lab) -> None:
    lab.fault("instances", "throttled")
    with pytest.raises(RateLimited) as caught:
        tenant.provider.instances()
    assert caught.value.retry_after_s == (lab.retry_after_s or caught.value.retry_after_s) > 0


@pytest.mark.parametrize("what", ["refused", "expired"])
def test_bad_credentials_are_told_with_the_fix(tenant: Tenant, lab: Lab, what: str) -> None:
    lab.fault("check", what)
    with pytest.raises(Unauthorised, match="credentials"):
        tenant.provider.check()
