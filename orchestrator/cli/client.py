"""The REST API as the command line sees it: documents in, documents out, and two ways to fail."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

Document = dict[str, Any]
LARGEST_PAGE = 1000


class Complaint(Exception):
    """An expected failure: what to tell on standard error, and the exit status."""

    prefix = "error: "

    def __init__(self, *lines: str, status: int = 2) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines
        self.status = status


class Refused(Complaint):
    """The master said no (4xx): asking the same again gives the same answer. `problems`: (path, message) of each field."""

    def __init__(self, *lines: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(*lines)
        self.problems = problems


class Unreachable(Complaint):
    """No master answers, or it cannot (5xx): the same may go well later. `sent`: the request may have been carried out."""

    def __init__(self, *lines: str, sent: bool = True) -> None:
        super().__init__(*lines, status=4)
        self.sent = sent


class Client:
    """Calls to one master. `token_hint` tells a caller who is not known where a token is."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        certificate: Path | None = None,
        pin: str | None = None,
        token_hint: str = "",
    ) -> None:
        self.url = url.rstrip("/")
        self._token_hint = token_hint
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Complaint(f"--url: {url!r} is not the URL of a master; write one such as http://127.0.0.1:8642")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise Complaint("--token: an API token is one line of plain letters; copy it anew")
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(120.0, connect=10.0),
            # Reading all public authorities takes a third of a second, and plain HTTP has no use for them.
            verify=_trust(parts.hostname, parts.port or 443, certificate, pin) if parts.scheme == "https" else False,
            # Straight to this host, whatever proxy the environment names.
            trust_env=parts.hostname not in ("localhost", "127.0.0.1", "::1"),
        )

    def get(self, path: str, **query: Any) -> Any:
        return self._json(self.call("GET", path, query))

    def post(self, path: str, body: object = None, headers: Mapping[str, str] | None = None, **query: Any) -> Any:
        return self._json(self.call("POST", path, query, body, headers))

    def put(self, path: str, body: object) -> Any:
        return self._json(self.call("PUT", path, {}, body))

    def patch(self, path: str, body: object) -> Any:
        return self._json(self.call("PATCH", path, {}, body))

    def delete(self, path: str) -> Any:
        return self._json(self.call("DELETE", path, {}))

    def page(self, path: str, limit: int, *, cursor: str = "before", **query: Any) -> Document:
        """Up to `limit` items as one page, fetched as often as it takes."""
        items: list[Document] = []
        following: int | None = None
        while True:
            size = min(limit - len(items), LARGEST_PAGE)
            page = self.get(path, limit=size, **(query if following is None else {**query, cursor: following}))
            items += page["items"]
            following = page["next"]
            if following is None or len(items) >= limit:
                return {"items": items, "next": following}

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One answer that is a success. Raises Refused, Unreachable."""
        asked = {key: value for key, value in query.items() if value is not None}
        with self._failures():
            response = self._http.request(method, path, params=asked, json=body, headers=headers)
        return self._checked(response)

    @contextmanager
    def stream(self, path: str, **query: Any) -> Iterator[Iterator[str]]:
        """The lines of an answer that does not end. Silence longer than two keep-alives is a broken line."""
        timeout = httpx.Timeout(35.0, connect=10.0)
        asked = {key: value for key, value in query.items() if value is not None}
        with self._failures(), self._http.stream("GET", path, params=asked, timeout=timeout) as response:
            if response.is_error:
                response.read()
            self._checked(response)
            yield response.iter_lines()

    @contextmanager
    def pieces(self, path: str) -> Iterator[Iterator[bytes]]:
        """The bytes of an answer, as they come."""
        with self._failures(), self._http.stream("GET", path) as response:
            if response.is_error:
                response.read()
            self._checked(response)
            yield response.iter_bytes(1 << 20)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            what = f"no master answers at {self.url} ({error or type(error).__name__})"
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                fix = "give its certificate by --ca-file, or its pin by --pin, and use a host name that stands in it"
                raise Unreachable(f"{what}; {fix}", sent=sent) from error
            fix = "start one with `orchestrator serve`, or name another with --url or ORCHESTRATOR_URL"
            raise Unreachable(f"{what}; {fix}", sent=sent) from error
        except httpx.InvalidURL as error:
            raise Complaint(f"{self.url} cannot be called: {error}; mend it") from error

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        try:
            problem = response.json()
            problems = [(str(item["path"]), str(item["message"])) for item in problem.get("errors") or []]
            lines = [f"{path}: {message}" for path, message in problems]
            lines = lines or [str(problem["detail"])]
        except (ValueError, KeyError, TypeError, AttributeError):
            answer = f"HTTP {response.status_code} {response.headers.get('content-type', '')}".rstrip()
            raise Unreachable(f"{self.url} does not answer as a master does ({answer}); check --url") from None
        if response.status_code >= 500:
            raise Unreachable(*lines)
        if response.status_code == 401 and self._token_hint:
            lines = [f"{lines[0].partition(':')[0]}; {self._token_hint}"]
        raise Refused(*lines, problems=problems)

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise Unreachable(f"{self.url} does not answer as a master does (no JSON); check --url") from None


def _trust(host: str, port: int, certificate: Path | None, pin: str | None) -> ssl.SSLContext:
    """Public authorities, and the master's own certificate where it is named; the pinned one alone where a pin is."""
    if pin is not None:
        return _pinned(host, port, pin.lower().removeprefix("sha256:").replace(":", ""))
    context = ssl.create_default_context()
    if certificate is not None:
        try:
            context.load_verify_locations(certificate)
        except (OSError, ssl.SSLError) as error:
            raise Complaint(
                f"{certificate} cannot be read as a certificate ({error}); mend --ca-file or tls_cert"
            ) from error
        # Trust it as it is, also where the authority that signed it is unknown here.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _pinned(host: str, port: int, pin: str) -> ssl.SSLContext:
    """Trust in the one certificate that has this SHA-256, whatever names stand in it. Raises Complaint, Unreachable."""
    try:
        der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, port), timeout=10.0))
    except (OSError, ValueError) as error:
        raise Unreachable(f"no master answers at {host} port {port} ({error}); check --url", sent=False) from error
    found = hashlib.sha256(der).hexdigest()
    if found != pin:
        raise Complaint(f"the certificate at {host} has the pin {found}, not the one given; ask who runs the master")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=der)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
