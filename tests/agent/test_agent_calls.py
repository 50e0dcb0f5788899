"""The agent's own HTTP: answers in pieces, connections that break, and a certificate that is the pinned one or not."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fake_master import FakeMaster, until


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The agent's end of a connection, which does not block, and the master's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def answer(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_an_answer_in_pieces_of_any_size(size: int, agent: SimpleNamespace, ends: Any) -> None:
    ours, theirs = ends
    whole = answer(b'{"orders":[{"attempt":1}],"text":"\xc3\xbc"}', more="Server: x\r\nCONNECTION: close\r\n")
    call = agent.calls.Call(ours, b"POST / HTTP/1.1\r\n\r\n", 5.0)
    assert call.step() is False
    assert theirs.recv(100) == b"POST / HTTP/1.1\r\n\r\n"
    for start in range(0, len(whole), size):
        theirs.sendall(whole[start : start + size])
        assert call.step() is (start + size >= len(whole))
    assert (call.status, call.keep) == (200, False)
    assert call.answer() == {"orders": [{"attempt": 1}], "text": "ü"}


def test_a_large_request_waits_for_the_master_to_read(agent: SimpleNamespace, ends: Any) -> None:
    ours, theirs = ends
    request = bytes(range(256)) * 16384  # 4 MB, more than any socket's buffer
    call = agent.calls.Call(ours, request, 30.0)
    assert call.step() is False and call.wants_to_write
    got = bytearray()
    while call.wants_to_write or len(got) < len(request):
        got += theirs.recv(1 << 20)
        call.step()
    assert bytes(got) == request
    theirs.sendall(answer(b"{}"))
    assert call.step() is True and call.keep


@pytest.mark.parametrize("body", [b"", b"null", b"[1]", b"not json", b"\xff\xfe"])
def test_an_answer_without_a_document_is_an_empty_one(body: bytes, agent: SimpleNamespace, ends: Any) -> None:
    ours, theirs = ends
    theirs.sendall(answer(body, "500 Oh"))
    call = agent.calls.Call(ours, b"x", 5.0)
    assert call.step() is True
    assert (call.status, call.answer()) == (500, {})


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_what_is_not_a_master_is_said_so(garbage: bytes, agent: SimpleNamespace, ends: Any) -> None:
    ours, theirs = ends
    theirs.sendall(garbage)
    with pytest.raises(agent.calls.Failed, match="not an answer of a master"):
        agent.calls.Call(ours, b"x", 5.0).step()


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\nconte", answer(b"0123456789")[:-3]])
def test_a_connection_closed_too_early_is_a_failure(before: bytes, agent: SimpleNamespace, ends: Any) -> None:
    ours, theirs = ends
    theirs.sendall(before)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(agent.calls.Failed, match="closed the connection"):
        agent.calls.Call(ours, b"x", 5.0).step()


def test_a_master_that_says_nothing_is_given_up_in_time(agent: SimpleNamespace, ends: Any) -> None:
    ours, _ = ends
    call = agent.calls.Call(ours, b"x", 0.05)
    assert call.step() is False
    call.check_time()
    time.sleep(0.06)
    with pytest.raises(agent.calls.Failed, match="in time"):
        call.check_time()


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://10.0.0.1:8642", "10.0.0.1", 8642, "/x"),
        ("http://master", "master", 80, "/x"),
        ("http://[fd00::1]:8642/", "fd00::1", 8642, "/x"),
        ("http://[fd00::1]", "fd00::1", 80, "/x"),
        ("https://master.example/behind/a/proxy/", "master.example", 443, "/behind/a/proxy/x"),
    ],
)
def test_where_the_master_is(url: str, host: str, port: int, path: str, agent: SimpleNamespace) -> None:
    master = agent.calls.Master(url, "")
    assert (master.host, master.port) == (host, port)
    master.credential = "secret"
    head, _, body = master.request("/x", {"a": "ü"}).partition(b"\r\n\r\n")
    first, *headers = head.decode().split("\r\n")
    assert first == f"POST {path} HTTP/1.1"
    assert {"Authorization: Bearer secret", f"Content-Length: {len(body)}"} <= set(headers)


def test_nobody_there(agent: SimpleNamespace) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        master = agent.calls.Master(f"http://127.0.0.1:{taken.getsockname()[1]}", "")
        with pytest.raises(agent.calls.Failed, match="cannot reach the master"):
            master.ask("/x", {})


def test_a_connection_that_the_master_closed_at_rest_is_not_used(master: FakeMaster, machine: Any) -> None:
    """Web servers close a kept connection after some seconds; nobody is to wait for finding that out."""
    connections: list[socket.socket] = []
    serve = master._server.process_request_thread

    def keep(request: socket.socket, address: object) -> None:
        connections.append(request)
        serve(request, address)

    master._server.process_request_thread = keep  # type: ignore[method-assign, assignment]
    master.slots = 2
    master.order(1, "while [ ! -e go ]; do sleep 0.01; done")
    master.order(2, "while [ ! -e go ]; do sleep 0.01; done")
    machine.start()
    until(lambda: machine.state("work/2").exists() and master.syncs[-1]["wait_s"] > 0)
    (machine.state("work/1") / "go").touch()
    master.result(1)  # went up on a second connection: one of the two rests from now on
    until(lambda: master.syncs[-1]["wait_s"] > 0 and not master.syncs[-1]["results"])
    _enrolment, *kept = connections
    (resting,) = (connection for connection in kept if connection is not master.latest_connection)
    resting.shutdown(socket.SHUT_RDWR)
    (machine.state("work/2") / "go").touch()
    master.result(2)
    assert "the master closed the connection" not in machine.said


# ---- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a master")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    made = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1)).sign(key, hashes.SHA256())
    path = tmp_path_factory.mktemp("tls") / "master.pem"
    no_password = serialization.NoEncryption()
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(encoding, form, no_password) + made.public_bytes(encoding))
    return path


@pytest.fixture
def tls_master(certificate: Path) -> Iterator[FakeMaster]:
    fake = FakeMaster(certificate)
    yield fake
    fake.close()


def pin_of(certificate: Path) -> str:
    pem = certificate.read_text()
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERT") :])).hexdigest()


def test_the_pinned_certificate_is_enough(
    agent: SimpleNamespace, tls_master: FakeMaster, certificate: Path, machines: Any
) -> None:
    machine = machines(tls_master.url)
    machine.config["ca_pin"] = pin_of(certificate)
    tls_master.order(1, "head -c 1500000 /dev/zero | tr '\\0' x; echo done")
    machine.start()
    assert tls_master.result(1)["exit_code"] == 0
    assert tls_master.log(1) == b"x" * 1_500_000 + b"done\n"
    tls_master.order(2, "sleep 0.3; echo later")  # on connections that were kept, overtaking the poll
    assert tls_master.result(2)["log_size"] == 6


def test_another_certificate_gets_not_one_word(tls_master: FakeMaster, machines: Any) -> None:
    machine = machines(tls_master.url)
    machine.config |= {"ca_pin": "0" * 64, "lease_s": 1}
    machine.start()
    assert machine.wait() == 0
    assert machine.is_off
    assert "not the pinned 0000" in machine.said
    assert not tls_master.enrolments


def test_without_a_pin_only_a_public_authority_will_do(agent: SimpleNamespace, tls_master: FakeMaster) -> None:
    with pytest.raises(agent.calls.Failed, match="certificate verify failed"):
        agent.calls.Master(tls_master.url, "").ask("/agent/v1/enrol", {})
    assert not tls_master.enrolments


def test_no_tls_where_it_is_expected(agent: SimpleNamespace, master: FakeMaster, certificate: Path) -> None:
    master_url = master.url.replace("http://", "https://")
    with pytest.raises(agent.calls.Failed, match="cannot reach the master"):
        agent.calls.Master(master_url, pin_of(certificate)).ask("/agent/v1/enrol", {})


def test_an_unfinished_handshake_is_given_up(agent: SimpleNamespace, certificate: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        taken = threading.Thread(target=lambda: silent.accept()[0].recv(1), daemon=True)
        taken.start()
        master = agent.calls.Master(f"https://127.0.0.1:{silent.getsockname()[1]}", pin_of(certificate))
        master.connect_s = 0.2
        with pytest.raises(agent.calls.Failed):
            master.connect()
