"""Where a webhook may go. Job files name URLs, and the master may reach what their writers may not.

Hosts are those of the setting `webhook_hosts`. Whatever it says, no webhook goes to an address at which clouds hand out
credentials to the machines they run, nor to one that is no single host's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from orchestrator.notify.answers import GiveUp, TryLater

Address = IPv4Address | IPv6Address
METADATA = frozenset(
    map(
        ip_address,
        (
            "fd00:ec2::254",  # EC2
            "fd20:ce::254",  # Google
            "100.100.100.200",  # Alibaba
            "168.63.129.16",  # Azure
            "192.0.0.192",  # Oracle
        ),
    )
)
"""Metadata services beside those at link-local addresses, where most clouds have theirs."""
_NAT64 = IPv6Network("64:ff9b::/96")


def allowed(host: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns (`*.example.org`, `hooks.example.org`, `*`) means this host."""
    host = host.lower().rstrip(".")
    return any(fnmatchcase(host, pattern.lower()) for pattern in patterns)


def forbidden(address: Address) -> str | None:
    """Why nothing is sent there; None where it may be."""
    for each in (address, *_inner(address)):
        if each in METADATA or each.is_link_local:
            return f"{address} is an address of clouds' metadata services"
        if each.is_multicast or each.is_unspecified:
            return f"{address} is no host's address"
    return None


async def resolve(host: str, port: int) -> list[Address]:
    """The host's addresses, each of which may be called. Raises TryLater, GiveUp.

    The caller connects to these and asks for no others: a name may mean something else a moment later.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise TryLater(f"the host {host} is not found ({error.strerror})") from error
    except UnicodeError as error:
        raise GiveUp(f"{host} is not a host's name; mend the URL") from error
    addresses = list(dict.fromkeys(ip_address(str(each[4][0])) for each in found))
    for address in addresses:
        if why := forbidden(address):
            raise GiveUp(f"{host} may not be called: {why}")
    return addresses


def _inner(address: Address) -> list[Address]:
    """IPv4 addresses that this IPv6 address is another way of writing."""
    if isinstance(address, IPv4Address):
        return []
    inner: list[Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or int(address) >> 32 == 0:  # the latter: IPv4-compatible, of old
        inner.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in inner if each is not None]
