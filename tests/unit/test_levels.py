"""From where what is allowed: levels by address, then by network."""

from __future__ import annotations

import pytest

from orchestrator.levels import AllowedHosts, Level, needed, parse
from orchestrator.settings import Settings

TABLE = {
    "0.0.0.0/0": "none",
    "10.0.0.0/8": "signal",
    "10.1.0.0/16": "info",
    "10.1.2.0/24": "no_add",
    "10.1.2.3": "all",
    "2001:db8::/32": "info",
    "2001:db8::1": "none",
}


@pytest.mark.parametrize(
    ("address", "level"),
    [
        ("192.0.2.1", Level.NONE),
        ("10.200.0.1", Level.SIGNAL),
        ("10.1.9.9", Level.INFO),
        ("10.1.2.4", Level.NO_ADD),
        ("10.1.2.3", Level.ALL),
        ("::ffff:10.1.2.3", Level.ALL),
        ("::ffff:10.200.0.1", Level.SIGNAL),
        ("2001:db8::2", Level.INFO),
        ("2001:db8:0::1", Level.NONE),
        ("2001:db9::1", Level.ALL),
        ("a local socket", Level.ALL),
    ],
)
def test_the_narrowest_entry_decides(address: str, level: Level) -> None:
    assert AllowedHosts(parse(TABLE)).level(address) is level
    assert AllowedHosts(parse(dict(reversed(TABLE.items())))).level(address) is level, "whatever the order"


@pytest.mark.parametrize(
    ("method", "path", "level"),
    [
        ("POST", "/agent/v1/sync", Level.SIGNAL),
        ("GET", "/healthz", Level.SIGNAL),
        ("GET", "/", Level.INFO),
        ("GET", "/api/v1/jobs", Level.INFO),
        ("POST", "/api/v1/session", Level.INFO),
        ("POST", "/api/v1/jobs", Level.NO_ADD),
        ("DELETE", "/api/v1/pools/p", Level.NO_ADD),
        ("POST", "/agent", Level.NO_ADD),
    ],
)
def test_what_a_call_needs(method: str, path: str, level: Level) -> None:
    assert needed(method, path) is level


@pytest.mark.parametrize("table", [{"10.0.0.1/8": "all"}, {"host.test": "all"}, {"10.0.0.1": "some"}, {"": "none"}])
def test_a_wrong_entry_is_refused_with_the_fix(table: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="write"):
        Settings(allowed_hosts=table)
