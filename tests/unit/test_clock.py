"""The master's clock: the host's time without its jumps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.clock import SteadyClock

START_S = datetime(2026, 3, 2, 8, tzinfo=UTC).timestamp()
HOUR = 3600.0


class Host:
    """A host whose clock is put forward and back, while time goes on."""

    def __init__(self) -> None:
        self.wall_s, self.monotonic_s = START_S, 100.0
        self.clock = SteadyClock(lambda: self.wall_s, lambda: self.monotonic_s)

    def passes(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds

    def jumps(self, seconds: float) -> None:
        self.wall_s += seconds

    @property
    def off_s(self) -> float:
        """How far the master's time is from the host's."""
        return self.clock().timestamp() - self.wall_s


def test_it_tells_the_hosts_time() -> None:
    host = Host()
    assert host.clock() == datetime.fromtimestamp(START_S, UTC) and host.clock().tzinfo is UTC
    for _ in range(100):
        host.passes(10)
        host.jumps(0.001)  # drift, as every clock has
        assert abs(host.off_s) < 0.01


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_jump_is_followed_slowly_and_time_never_goes_back(jump: float) -> None:
    host = Host()
    before = host.clock()
    host.jumps(jump)
    assert host.clock() == before, "nothing has happened in no time"
    last = before
    while abs(host.off_s) > 0.01:
        host.passes(60)
        now = host.clock()
        assert 54 - 1e-3 <= (now - last).total_seconds() <= 66 + 1e-3
        last = now
    assert (last - before).total_seconds() == pytest.approx(11 * HOUR if jump > 0 else 9 * HOUR, rel=0.02)


def test_a_master_started_after_the_clock_was_put_back_goes_on_from_the_last_event() -> None:
    host = Host()
    last_event = datetime.fromtimestamp(START_S + HOUR, UTC)
    host.clock.not_before(last_event)
    assert host.clock() == last_event
    host.passes(100)
    assert host.clock() == last_event + timedelta(seconds=90)


def test_a_moment_of_the_past_or_of_a_wrong_clock_is_passed_over() -> None:
    host = Host()
    for seconds in (-HOUR, 400 * 86400.0):
        host.clock.not_before(datetime.fromtimestamp(START_S + seconds, UTC))
        assert host.off_s == 0
