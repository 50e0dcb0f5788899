"""The master sends nothing to where job files must not reach, whatever a name resolves to."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest
from receiver import Receiver

from orchestrator.notify import webhook
from orchestrator.notify.addresses import allowed, forbidden, resolve
from orchestrator.notify.answers import GiveUp, TryLater
from orchestrator.notify.webhook import Webhooks, waiting_s

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254",
        "169.254.170.2",
        "fe80::a9fe:a9fe",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
    ],
)
def test_metadata_services_are_out_of_reach(text: str) -> None:
    assert forbidden(ip_address(text))


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "10.0.0.7", "192.0.2.1", "fd00::1", "2001:db8::1"])
def test_other_hosts_may_be_called(text: str) -> None:
    assert forbidden(ip_address(text)) is None


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376"])
def test_other_ways_to_write_an_address_do_not_help(host: str) -> None:
    with pytest.raises(GiveUp, match="metadata"):
        asyncio.run(resolve(host, 80))


def test_a_name_that_is_not_found_may_be_found_later() -> None:
    with pytest.raises(TryLater, match="not found"):
        asyncio.run(resolve("nowhere.invalid", 80))


def test_a_name_that_changes_its_mind_is_asked_once(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that names an honest host first and the metadata service a moment later."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "rebinding.example.org":
            return real(host, port, *args, **kwargs)
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "169.254.169.254", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert "answered 204" in post(f"http://rebinding.example.org:{receiver.port}/")
    assert asked == ["rebinding.example.org"]
    assert receiver.got[0].headers["Host"] == f"rebinding.example.org:{receiver.port}"
    with pytest.raises(GiveUp, match="metadata"):
        post(f"http://rebinding.example.org:{receiver.port}/")


def test_only_the_hosts_of_the_settings(receiver: Receiver) -> None:
    with pytest.raises(GiveUp, match="webhook_hosts"):
        post(receiver.url, hosts=["hooks.example.org", "*.example.net"])
    assert receiver.got == []
    assert "204" in post(receiver.url, hosts=["127.0.0.*"])


@pytest.mark.parametrize(
    ("host", "patterns", "may"),
    [
        ("a.example.org", ["*.example.org"], True),
        ("A.Example.ORG.", ["*.example.org"], True),
        ("example.org", ["*.example.org"], False),
        ("a.example.org.evil.net", ["*.example.org"], False),
        ("anything", [], False),
    ],
)
def test_patterns_of_hosts(host: str, patterns: list[str], may: bool) -> None:
    assert allowed(host, patterns) is may


def test_a_receiver_that_hangs_is_left(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "ANSWER_S", 0.3)
    receiver.hold.clear()
    with pytest.raises(TryLater, match=r"within 0\.3 s"):
        post(receiver.url)


def test_a_receiver_that_drips_its_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time; the whole never does."""
    monkeypatch.setattr(webhook, "ANSWER_S", 0.5)

    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not writer.is_closing():
            writer.write(b"X-Drip: 1\r\n")
            await asyncio.sleep(0.05)

    async def scene() -> str:
        async with await asyncio.start_server(dripping, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await _post(f"http://127.0.0.1:{port}/")

    with pytest.raises(TryLater, match="within"):
        asyncio.run(scene())


def test_what_is_no_http_is_tried_again() -> None:
    async def scene() -> str:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example.org ESMTP\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            return await _post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    with pytest.raises(TryLater, match="does not answer"):
        asyncio.run(scene())


def test_waiting_is_never_negative_and_nonsense_is_none() -> None:
    assert waiting_s("Mon, 02 Mar 2020 08:00:00 GMT", NOW) == 0
    assert waiting_s(None, NOW) is waiting_s("-1", NOW) is waiting_s("٣", NOW) is None


def post(url: str, hosts: list[str] | None = None) -> str:
    return asyncio.run(_post(url, hosts))


async def _post(url: str, hosts: list[str] | None = None) -> str:
    return await Webhooks(["*"] if hosts is None else hosts).post(url, "s", "i", {"event": "test"}, NOW)
