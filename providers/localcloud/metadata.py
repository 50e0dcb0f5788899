"""The instance metadata service (IMDSv2): what a machine may ask its cloud about itself, on an address of its own.

On EC2 that is 169.254.169.254 for all; here each machine is told its own in `ORCHESTRATOR_IMDS`, for all share one
loopback. A token must be asked for first, by PUT, and shown with every question, as `HttpTokens: required` has it.
"""

from __future__ import annotations

import secrets
import selectors
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer

_TOKEN_PATH = "/latest/api/token"  # noqa: S105  (where tokens are given)
_TTL = "X-aws-ec2-metadata-token-ttl-seconds"
_TOKEN = "X-aws-ec2-metadata-token"  # noqa: S105  (the header that shows one)

Answer = Callable[[str], str | None]
"""The text at a path below /latest/, or None where there is none."""


class Endpoint(ThreadingTCPServer):
    """The service of one machine. Requests have threads of their own, so that a slow guest holds up nobody."""

    daemon_threads = True
    timeout = 0  # `handle_request` is called when one is there

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.answer = answer
        self.tokens: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Request(BaseHTTPRequestHandler):
    server: Endpoint
    timeout = 5

    def do_PUT(self) -> None:
        if self.path != _TOKEN_PATH or not self.headers.get(_TTL, "").isdigit():
            return self._reply(400, "")
        token = secrets.token_urlsafe(32)
        self.server.tokens.add(token)
        return self._reply(200, token)

    def do_GET(self) -> None:
        if self.headers.get(_TOKEN) not in self.server.tokens:
            return self._reply(401, "")
        text = self.server.answer(self.path.removeprefix("/latest/"))
        return self._reply(404, "") if text is None else self._reply(200, text)

    def _reply(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: our standard output is read by who started us."""


class Metadata:
    """All the machines' services, watched by one thread that dies with the process."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        threading.Thread(target=self._run, name="metadata", daemon=True).start()

    def open(self, answer: Answer) -> Endpoint:
        """A service for one machine."""
        endpoint = Endpoint(answer)
        self._selector.register(endpoint.socket, selectors.EVENT_READ, endpoint)
        return endpoint

    def close(self, endpoint: Endpoint) -> None:
        self._selector.unregister(endpoint.socket)
        endpoint.server_close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                key.data.handle_request()
