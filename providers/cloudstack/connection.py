"""libcloud's connection class, below its driver: every call is one signed form POST and its whole answer.

The driver polls for up to ten minutes in the caller's thread, drops the project, throws the ids and the error codes away
and knows only GET with the old signature (docs/decisions/0004-cloudstack.md). What is kept is its HTTP session and the
hooks of its connection. The module imports libcloud, so it is imported when the first provider is made.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from libcloud.common.base import JsonResponse
from libcloud.common.cloudstack import CloudStackConnection

from .account import Account
from .errors import NotCloudStack, Refusal

_EXPIRES = timedelta(minutes=10)  # servers that enforce it take 15 at most, and clocks differ
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def signature(params: Mapping[str, str], secret_key: str) -> str:
    """Version 3's: names sorted as they are written, values percent-encoded, all lower-cased, HMAC-SHA1 in base64."""
    pairs = (f"{name}={quote(value, safe='*').replace('~', '%7E')}" for name, value in sorted(params.items()))
    digest = hmac.new(secret_key.encode(), "&".join(pairs).lower().encode(), hashlib.sha1)
    return base64.b64encode(digest.digest()).decode()


class _Reply(JsonResponse):  # type: ignore[misc]  # libcloud is half typed
    """An answer as it came: libcloud would keep one sentence of an error and lose its codes."""

    def success(self) -> bool:
        return True

    def parse_body(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class FormConnection(CloudStackConnection):  # type: ignore[misc]
    """One thread's connection."""

    responseCls = _Reply  # noqa: N815

    def __init__(self, account: Account, verify: bool | str, now: Callable[[], datetime]) -> None:
        parts = urlsplit(account.url)
        super().__init__(account.api_key, account.secret_key, parts.scheme == "https", parts.hostname, parts.port)
        self._path = parts.path or "/client/api"
        self._verify = verify
        self._now = now

    def connect(self, *args: Any, **kwargs: Any) -> None:
        super().connect(*args, **kwargs)
        self.connection.verify = bool(self._verify)
        self.connection.ca_cert = self._verify if isinstance(self._verify, str) else None
        self.connection.session.max_redirects = 0  # a redirected POST arrives without its form
        if self.host in _LOOPBACK:
            self.connection.session.trust_env = False  # no proxy to ourselves

    def add_default_params(self, params: dict[str, str]) -> dict[str, str]:
        """Nothing in the query: all parameters travel in the form."""
        return params

    def pre_connect_hook(self, params: dict[str, str], headers: dict[str, str]) -> Any:
        return params, headers

    def call(self, command: str, params: Mapping[str, str], timeout_s: float) -> tuple[dict[str, Any], datetime]:
        """The answer's content, and the server's own time. Raises Refusal with the codes, NotCloudStack, or what the HTTP
        library raises."""
        if self.connection is None:
            self.connect()
        self.connection.session.timeout = timeout_s
        form = {
            **params,
            "command": command,
            "response": "json",
            "apiKey": self.user_id,
            "signatureVersion": "3",
            "expires": (self._now() + _EXPIRES).strftime("%Y-%m-%dT%H:%M:%S+0000"),
        }
        form["signature"] = signature(form, self.key)
        reply = self.request(self._path, data=form, headers=_FORM, method="POST", retry_failed=False)
        content = next(iter(reply.object.values()), None) if isinstance(reply.object, dict) else None
        if not isinstance(content, dict):
            raise NotCloudStack(reply.status, reply.body)
        if "errorcode" in content:
            raise Refusal(int(content["errorcode"]), str(content.get("errortext", "")).strip())
        if reply.status != 200:
            raise NotCloudStack(reply.status, reply.body)
        date = reply.headers.get("date")
        return content, parsedate_to_datetime(date) if date else self._now()

    def encode_data(self, data: Mapping[str, str]) -> str:
        return urlencode(data)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Calls:
    """An account's API from any thread: libcloud's connections are not thread-safe, so each thread has its own."""

    def __init__(
        self, account: Account, timeout_s: float, verify: bool | str, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._account, self._timeout_s, self._verify, self._now = account, timeout_s, verify, now
        self._threads = threading.local()

    def __call__(self, command: str, params: Mapping[str, str]) -> dict[str, Any]:
        return self.timed(command, params)[0]

    def timed(
        self, command: str, params: Mapping[str, str], timeout_s: float | None = None
    ) -> tuple[dict[str, Any], datetime]:
        """The same, with the server's time of the answer: ages are reckoned by the clock that wrote the dates."""
        if not hasattr(self._threads, "connection"):
            self._threads.connection = FormConnection(self._account, self._verify, self._now)
        connection: FormConnection = self._threads.connection
        return connection.call(command, params, timeout_s or self._timeout_s)
