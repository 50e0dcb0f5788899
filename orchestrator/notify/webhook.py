"""A webhook: one signed POST of a JSON document. No redirects, no proxy, and its answer's body is never read."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import orjson

from orchestrator import __version__
from orchestrator.notify.addresses import allowed, resolve
from orchestrator.notify.answers import GiveUp, TryLater

if TYPE_CHECKING:
    import httpx

CONNECT_S = 5.0
ANSWER_S = 20.0
"""From the first look at the host's name to the status line; a receiver that drips its answer has no longer either."""
_AGAIN = (408, 425, 429)
"""Refusals that ask for patience; every other 4xx stays one."""


def signing_key(
    key: bytes, installation: str, given: str | None, client: str | None = None, name: str | None = None
) -> str:
    """What a receiver checks signatures with: the installation's, or a client's own by name.

    `given` (the setting) is the installation's secret; without it that is derived from the master's key, like the others.
    """
    secret = given or hmac.new(key, f"webhooks {installation}".encode(), hashlib.sha256).hexdigest()
    if name is None:
        return secret
    return hmac.new(secret.encode(), f"{client}/{name}".encode(), hashlib.sha256).hexdigest()


def signature(secret: str, timestamp: int, id_: str, body: bytes) -> str:
    """`sha256=…` over `TIMESTAMP.ID.BODY`."""
    return "sha256=" + hmac.new(secret.encode(), f"{timestamp}.{id_}.".encode() + body, hashlib.sha256).hexdigest()


@dataclass
class Webhooks:
    """Posts documents to the hosts that the settings allow. One trust store for all, read when it is first needed."""

    hosts: Sequence[str]

    async def post(self, url: str, secret: str, id_: str, document: Mapping[str, Any], now: datetime) -> str:
        """What the receiver answered. Raises TryLater, GiveUp."""
        import httpx

        where = httpx.URL(url)
        host = where.raw_host.decode("ascii")
        if not allowed(host, self.hosts):
            raise GiveUp(f"{host} is none of the setting webhook_hosts; an operator may add it there")
        body, timestamp = orjson.dumps(document), int(now.timestamp())
        headers = {
            "Host": where.netloc.decode("ascii"),
            "Content-Type": "application/json",
            "User-Agent": f"elastic-orchestrator/{__version__}",
            "X-Orchestrator-Event": str(document["event"]),
            "X-Orchestrator-Id": id_,
            "X-Orchestrator-Timestamp": str(timestamp),
            "X-Orchestrator-Signature": signature(secret, timestamp, id_, body),
        }
        try:
            async with asyncio.timeout(ANSWER_S):
                response = await self._answer(where, host, headers, body)
        except TimeoutError:
            raise TryLater(f"{host} did not answer within {ANSWER_S:g} s") from None
        except httpx.TransportError as error:
            raise TryLater(f"{host} does not answer ({error or type(error).__name__})") from error
        return judged(host, response.status_code, response.headers.get("retry-after"), now)

    async def _answer(self, where: httpx.URL, host: str, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        """From the first of its addresses that can be reached."""
        import httpx

        addresses = await resolve(host, where.port or (443 if where.scheme == "https" else 80))
        verify = self._trust if where.scheme == "https" else False
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        async with httpx.AsyncClient(verify=verify, timeout=timeout, trust_env=False) as http:
            for address in addresses:
                # To the address that was looked at, in the name of the host: asking the resolver again may give another.
                there = where.copy_with(host=str(address))
                named = {"sni_hostname": host}
                request = http.build_request("POST", there, headers=headers, content=body, extensions=named)
                try:
                    response = await http.send(request, stream=True)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if address == addresses[-1]:
                        raise
                else:
                    await response.aclose()
                    return response
        raise AssertionError("unreachable")

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context()


def judged(host: str, status: int, retry_after: str | None, now: datetime) -> str:
    """What an answer means. Raises TryLater, GiveUp."""
    told = f"{host} answered {status}"
    if 200 <= status < 300:
        return told
    if status >= 500 or status in _AGAIN:
        raise TryLater(told, waiting_s(retry_after, now))
    if 300 <= status < 400:
        raise GiveUp(f"{told}: redirects are not followed; name the URL that it leads to")
    raise GiveUp(told)


def waiting_s(retry_after: str | None, now: datetime) -> float | None:
    """Seconds of a `Retry-After`, which is a number of them or a date; None where it is neither."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds())
