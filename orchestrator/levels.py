"""From where what is allowed: a level for each address or network, in front of the API and of the agents. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

MOST_REMEMBERED = 10_000
HEALTH = ("/healthz", "/readyz")
SESSION = "/api/v1/session"
Network = IPv4Network | IPv6Network


class Level(IntEnum):
    """Each allows what the ones before it allow."""

    NONE = 0
    """nothing"""
    SIGNAL = 1
    """what machines say of themselves: the agents' calls, health and readiness"""
    INFO = 2
    """reading, and logging in and out"""
    NO_ADD = 3
    """changes of what is there, nothing new"""
    ALL = 4


class AllowedHosts:
    """Levels by network; the narrowest that holds an address decides, one address alone before all. Others: all."""

    def __init__(self, levels: Mapping[Network, Level]) -> None:
        self._levels = sorted(levels.items(), key=lambda item: item[0].prefixlen, reverse=True)
        self._known: dict[str, Level] = {}

    def __bool__(self) -> bool:
        return bool(self._levels)

    def level(self, address: str) -> Level:
        """The level of an address as a connection shows it; what is none (a local socket) is allowed all."""
        found = self._known.get(address)
        if found is None:
            found = self._look_up(address)
            if len(self._known) < MOST_REMEMBERED:
                self._known[address] = found
        return found

    def _look_up(self, address: str) -> Level:
        try:
            parsed = ip_address(address)
        except ValueError:
            return Level.ALL
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return next((level for network, level in self._levels if parsed in network), Level.ALL)


def parse(table: Mapping[str, str]) -> dict[Network, Level]:
    """The settings' table. ValueError names the wrong entry and the fix."""
    levels: dict[Network, Level] = {}
    for place, name in table.items():
        try:
            network = ip_network(place)
        except ValueError as error:
            raise ValueError(f"{place!r} is no address or network ({error}); write 10.0.0.7 or 10.0.0.0/8") from error
        if name.upper() not in Level.__members__:
            known = ", ".join(level.name.lower() for level in Level)
            raise ValueError(f"{place}: {name!r} is no level; write one of {known}")
        levels[network] = Level[name.upper()]
    return levels


def needed(method: str, path: str) -> Level:
    """The least level that a call may have, as far as its method and path tell. (`ALL` is told by the route alone.)"""
    if path.startswith("/agent/") or path in HEALTH:
        return Level.SIGNAL
    if method in ("GET", "HEAD", "OPTIONS") or path == SESSION:
        return Level.INFO
    return Level.NO_ADD
