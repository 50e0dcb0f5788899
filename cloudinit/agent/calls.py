"""Calls to the master: HTTP/1.1 over kept connections, without ever blocking the loop that watches the jobs.

The standard library's client blocks, and costs twice the memory of the whole agent; two hundred bytes of headers and a
length are all that is needed here.
"""

import json
import select
import socket
import time


class Failed(Exception):
    """The call did not come through; it may or may not have reached the master."""


class Master:
    """Where the master is and who we are to it."""

    def __init__(self, url, ca_pin):
        # type: (str, str) -> None
        scheme, _, rest = url.partition("://")
        place, _, self.prefix = rest.partition("/")
        self.prefix = "/" + self.prefix.rstrip("/") if self.prefix.rstrip("/") else ""
        self.place = place
        host, _, port = place.rpartition(":") if ":" in place.rpartition("]")[2] else (place, "", "")
        self.host = host.strip("[]")
        self.port = int(port or (443 if scheme == "https" else 80))
        self.credential = ""
        self.connect_s = 10.0
        self._tls = _Tls(self.host, ca_pin) if scheme == "https" else None

    def connect(self):
        # type: () -> socket.socket
        """A connection that does not block from here on. Raises Failed."""
        try:
            plain = socket.create_connection((self.host, self.port), self.connect_s)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self._tls.wrap(plain) if self._tls else plain
            connection.setblocking(False)
            return connection
        except (OSError, ValueError) as error:
            raise Failed("cannot reach the master at %s: %s" % (self.place, error)) from error

    def request(self, path, body):
        # type: (str, object) -> bytes
        return self.post(path, json.dumps(body, separators=(",", ":")).encode(), "application/json")

    def post(self, path, content, kind):
        # type: (str, bytes, str) -> bytes
        head = (
            "POST %s%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        ) % (self.prefix, path, self.place, self.credential, kind, len(content))
        return head.encode("ascii") + content

    def ask(self, path, body, timeout_s=30.0):
        # type: (str, object, float) -> tuple
        """One call, waited for: (status, answer)."""
        call = Call(self.connect(), self.request(path, body), timeout_s)
        try:
            while not call.step():
                reading, writing = ([], [call.socket]) if call.wants_to_write else ([call.socket], [])
                select.select(reading, writing, [], 1.0)
                call.check_time()
            return call.status, call.answer()
        finally:
            call.socket.close()


class Call:
    """One request on its way. `step` when the socket is ready; it returns True once the answer is whole."""

    def __init__(self, connection, request, timeout_s):
        # type: (socket.socket, bytes, float) -> None
        self.socket = connection
        self.status = 0
        self.keep = True
        self._left = memoryview(request)
        self._got = bytearray()
        self._body_at = -1
        self._body_size = 0
        self._deadline = time.monotonic() + timeout_s

    @property
    def wants_to_write(self):
        # type: () -> bool
        return len(self._left) > 0

    def check_time(self):
        # type: () -> None
        if time.monotonic() > self._deadline:
            raise Failed("the master did not answer in time")

    def step(self):
        # type: () -> bool
        try:
            while self._left:
                self._left = self._left[self.socket.send(self._left) :]
            while True:
                data = self.socket.recv(262144)
                if not data:
                    raise Failed("the master closed the connection")
                self._got += data
                if self._whole():
                    return True
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if _wants(error):
                return False
            raise Failed("the connection to the master broke: %s" % error) from error

    def body(self):
        # type: () -> bytes
        return bytes(self._got[self._body_at : self._body_at + self._body_size])

    def answer(self):
        # type: () -> dict
        body = self.body()
        try:
            parsed = json.loads(body) if body else {}
        except ValueError:
            parsed = {}
        return parsed if isinstance(parsed, dict) else {}

    def _whole(self):
        # type: () -> bool
        if self._body_at < 0:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return False
            self._read_head(bytes(self._got[:end]).decode("latin-1"))
            self._body_at = end + 4
        return len(self._got) >= self._body_at + self._body_size

    def _read_head(self, head):
        # type: (str) -> None
        first, *lines = head.split("\r\n")
        try:
            self.status = int(first.split(" ", 2)[1])
            headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            self._body_size = int(headers["content-length"])
        except (ValueError, IndexError, KeyError) as error:
            raise Failed("not an answer of a master: %.80s" % first) from error
        self.keep = headers.get("connection", "").lower() != "close"


class _Tls:
    """The master's certificate is the one whose SHA-256 cloud-init gave us; without a pin, a public authority's."""

    def __init__(self, host, pin):
        # type: (str, str) -> None
        import hashlib
        import ssl

        self._host = host
        self._pin = pin
        self._sha256 = hashlib.sha256
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if pin else ssl.create_default_context()
        if pin:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE

    def wrap(self, plain):
        # type: (socket.socket) -> socket.socket
        wrapped = self._context.wrap_socket(plain, server_hostname=self._host)
        seen = self._sha256(wrapped.getpeercert(binary_form=True) or b"").hexdigest()
        if self._pin and seen != self._pin:
            wrapped.close()
            raise ValueError("its certificate is %s, not the pinned %s" % (seen, self._pin))
        return wrapped


def _wants(error):
    # type: (OSError) -> bool
    """TLS has its own way to say "not yet"; the module is only there when TLS is used."""
    return type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")
