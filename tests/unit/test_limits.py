"""One limiter an account: who goes first, what a refusal teaches, and that no call costs its caller more than its bound."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from orchestrator.clouds import Clouds
from orchestrator.settings import CloudSettings
from providers.base import (
    CatalogueItem,
    Finding,
    Instance,
    LaunchRequest,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Unauthorised,
    Unavailable,
)
from providers.limited import LimitedProvider
from providers.limits import AT_A_TIME, BURST, RATE_LEAST, RATE_MOST, Limiter

REQUEST = LaunchRequest("launch-1", 1, "image", "size", b"", {})


@dataclass
class Seconds:
    """Time that stands still until moved."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Cloud:
    """A provider that counts its calls, fails as scripted, and holds calls until the test lets them go."""

    user_data_limit = 100
    rents = True
    calls: Counter[str] = field(default_factory=Counter)
    fails: deque[ProviderError] = field(default_factory=deque)
    open: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.open.set()

    def _call(self, verb: str) -> None:
        self.calls[verb] += 1
        self.entered.release()
        assert self.open.wait(30)
        if self.fails:
            raise self.fails.popleft()

    def validate(self, template: Mapping[str, object]) -> None: ...

    def check(self) -> None:
        self._call("check")

    def inspect(self, image: str, instance_type: str, template: Mapping[str, object]) -> list[Finding]:
        self._call("inspect")
        return []

    def launch(self, request: LaunchRequest) -> list[Instance]:
        self._call("launch")
        return []

    def instances(self) -> list[Instance]:
        self._call("instances")
        return []

    def terminate(self, ids: Iterable[str]) -> None:
        self._call("terminate")

    def impaired(self) -> Mapping[str, str]:
        self._call("impaired")
        return {}

    def console(self, instance_id: str) -> str:
        self._call("console")
        return "up"

    def catalogue(self, kind: str) -> list[CatalogueItem]:
        self._call("catalogue")
        return []


@pytest.fixture
def time() -> Seconds:
    return Seconds()


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def limiter(time: Seconds) -> Limiter:
    return Limiter(time)


@pytest.fixture
def limited(cloud: Cloud, limiter: Limiter) -> LimitedProvider:
    return LimitedProvider(cloud, limiter)


def made(call: Callable[[], object], tries: int = 1000) -> int:
    """How many of so many calls at the same moment are let through."""
    count = 0
    for _ in range(tries):
        with suppress(RateLimited):
            call()
            count += 1
    return count


def wait_of(call: Callable[[], object]) -> float:
    with pytest.raises(RateLimited) as refused:
        call()
    return refused.value.retry_after_s


def test_launches_cannot_starve_listings_nor_both_terminations(limited: LimitedProvider, cloud: Cloud) -> None:
    assert made(lambda: limited.launch(REQUEST)) == BURST * 0.8
    assert made(limited.instances) == BURST * 0.1
    assert made(lambda: limited.launch(REQUEST)) == 0
    assert made(lambda: limited.terminate(["i-1"])) == BURST * 0.1
    assert sum(cloud.calls.values()) == BURST


def test_a_steady_flood_of_launches_leaves_every_second_room_for_terminations(
    limited: LimitedProvider, time: Seconds
) -> None:
    for _ in range(60):
        time.now += 1
        assert made(lambda: limited.launch(REQUEST)) <= BURST
        limited.instances()
        limited.terminate(["i-1"])


def test_who_comes_too_early_is_told_when_and_succeeds_then(limited: LimitedProvider, time: Seconds) -> None:
    made(lambda: limited.launch(REQUEST))
    time.now += wait_of(lambda: limited.launch(REQUEST))
    limited.launch(REQUEST)


def test_those_sent_away_come_again_one_after_the_other(limited: LimitedProvider, cloud: Cloud, time: Seconds) -> None:
    cloud.fails.append(RateLimited("too many", 10))
    wait_of(limited.instances)
    waits = [wait_of(lambda: limited.launch(REQUEST)) for _ in range(20)]
    assert waits == sorted(set(waits))
    limited.terminate(["i-1"])
    start = time.now
    for wait in waits:
        time.now = max(time.now, start + wait)
        limited.launch(REQUEST)


def test_a_refusal_is_heeded_to_its_end_and_halves_the_rate(
    limiter: Limiter, limited: LimitedProvider, cloud: Cloud, time: Seconds
) -> None:
    cloud.fails.append(RateLimited("too many", 30))
    assert wait_of(limited.instances) == 30
    time.now += 29.9
    assert wait_of(limited.instances) < 1
    assert cloud.calls["instances"] == 1
    time.now += 1.1
    limited.instances()
    assert RATE_MOST / 2 <= limiter.usage().rate < RATE_MOST / 2 + 1
    assert limiter.usage().throttled_for_s == 31


def test_the_rate_comes_back_by_itself(limiter: Limiter, limited: LimitedProvider, cloud: Cloud, time: Seconds) -> None:
    for _ in range(12):
        cloud.fails.append(RateLimited("too many", 5))
        wait_of(limited.instances)
        time.now += 6
        limited.terminate(["i-1"])  # so the bucket is in use
    assert limiter.usage().rate < 2
    time.now += 200
    limited.instances()
    assert limiter.usage().rate == RATE_MOST
    assert limiter.usage().throttled_for_s is None


def test_it_settles_at_what_the_cloud_takes(limited: LimitedProvider, cloud: Cloud, time: Seconds) -> None:
    """A cloud that takes 4 calls a second: nearly all calls succeed, at nearly that pace."""
    taken, refused, granted_at = 0, 0, time.now
    for _ in range(6000):
        time.now += 0.1
        if time.now < granted_at:
            cloud.fails.append(RateLimited("too many", 1))
        try:
            before = cloud.calls["console"]
            limited.console("i-1")
            taken, granted_at = taken + 1, max(granted_at, time.now - 1) + 0.25
        except RateLimited:
            refused += cloud.calls["console"] > before
            cloud.fails.clear()
    assert 600 * 4 * 0.6 < taken <= 600 * 4 + 8
    assert refused < taken * 0.1


def test_calls_under_way_together_that_are_refused_halve_the_rate_once(cloud: Cloud, time: Seconds) -> None:
    limiter = Limiter(time)
    entered = [limiter.enter("launch") for _ in range(8)]
    time.now += 0.2
    for moment in entered:
        limiter.leave("launch", moment, RateLimited("too many", 1))
    assert limiter.usage().rate == RATE_MOST / 2
    assert limiter.usage().refused == 8


def test_the_rate_never_falls_to_nothing(limiter: Limiter, limited: LimitedProvider, cloud: Cloud, time: Seconds) -> None:
    for _ in range(100):
        time.now += 0.001
        cloud.fails.append(RateLimited("too many", 0))
        with suppress(RateLimited):
            limited.terminate(["i-1"])
    assert limiter.usage().rate >= RATE_LEAST


def test_a_throttled_account_still_ends_machines(limited: LimitedProvider, cloud: Cloud) -> None:
    cloud.fails.append(RateLimited("too many", 600))
    wait_of(lambda: limited.launch(REQUEST))
    assert made(limited.instances) == 0
    assert made(lambda: limited.terminate(["i-1"]), 10) == 10


def test_only_its_own_refusal_holds_a_termination_back(limited: LimitedProvider, cloud: Cloud, time: Seconds) -> None:
    cloud.fails.append(RateLimited("too many", 20))
    assert wait_of(lambda: limited.terminate(["i-1"])) == 20
    assert wait_of(lambda: limited.terminate(["i-1"])) == 20
    assert cloud.calls["terminate"] == 1
    time.now += 20
    limited.terminate(["i-1"])


def test_at_most_so_many_calls_at_a_time_and_terminations_find_a_place(limited: LimitedProvider, cloud: Cloud) -> None:
    cloud.open.clear()
    threads = [threading.Thread(target=limited.catalogue, args=("sizes",), daemon=True) for _ in range(AT_A_TIME - 3)]
    for thread in threads:
        thread.start()
        assert cloud.entered.acquire(timeout=30)
    wait_of(lambda: limited.launch(REQUEST))
    ending = threading.Thread(target=limited.terminate, args=(["i-1"],), daemon=True)
    ending.start()
    assert cloud.entered.acquire(timeout=30)
    assert cloud.calls["terminate"] == 1
    cloud.open.set()
    for thread in [*threads, ending]:
        thread.join(30)
    limited.launch(REQUEST)


def test_a_call_without_an_end_costs_its_caller_the_time_out_and_one_place(
    limiter: Limiter, cloud: Cloud, time: Seconds
) -> None:
    limited = LimitedProvider(cloud, limiter, within_s=0.01)
    cloud.open.clear()
    with pytest.raises(OutcomeUnknown, match="has not answered launch"):
        limited.launch(REQUEST)
    with pytest.raises(OutcomeUnknown, match="still under way"):  # its repeat does not run beside it
        LimitedProvider.launch(limited, REQUEST)
    assert cloud.calls["launch"] == 1
    with pytest.raises(Unavailable, match="has not answered instances"):
        limited.instances()
    assert limiter.usage().under_way == 2
    cloud.open.set()


def test_an_error_of_the_provider_is_the_caller_s(
    limiter: Limiter, limited: LimitedProvider, cloud: Cloud, time: Seconds
) -> None:
    cloud.fails.append(Unauthorised("the key is wrong"))
    with pytest.raises(Unauthorised, match="the key is wrong"):
        limited.check()
    time.now += 5
    assert limiter.usage().last_error == "check: the key is wrong"
    assert limiter.usage().last_error_ago_s == 5
    assert limiter.usage().calls == {"check": 1}
    assert limited.console("i-1") == "up"


def test_clouds_of_one_account_share_its_limit(time: Seconds) -> None:
    options = {"access_key_id": "a", "secret_access_key": "b", "endpoint_url": "http://127.0.0.1:9"}
    clouds = Clouds(
        {
            "north": CloudSettings(limiter="acme", **options),
            "south": CloudSettings(limiter="acme", **options),
            "apart": CloudSettings(**options),
        },
        "eo-1",
        time,
    )
    with pytest.raises(Unavailable):
        clouds.get("north").check()
    assert clouds.usage("south").calls == {"check": 1}
    assert clouds.usage("apart").calls == {}
