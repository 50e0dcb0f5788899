"""What stands before moto: it counts calls, makes them fail when told so, and lets in one at a time.

A WSGI application. `/_local/…` is its own, everything else is EC2.
"""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from .faults import Faults, Rule, parse
from .hypervisor import Hypervisor

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Response><Errors><Error><Code>{code}</Code><Message>{message}</Message>'
    "</Error></Errors><RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>"
)


class Front:
    """The application: faults first, then moto, under the hypervisor's lock."""

    def __init__(self, moto: WSGIApplication, hypervisor: Hypervisor, faults: Faults) -> None:
        self._moto = moto
        self._hypervisor = hypervisor
        self._faults = faults

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        path = environ["PATH_INFO"]
        if path.startswith("/_local/"):
            status, answer = self._control(environ["REQUEST_METHOD"], path.removeprefix("/_local/"), body)
            return _reply(start_response, status, "application/json", json.dumps(answer).encode())
        asked = {key: values[0] for key, values in parse_qs(body.decode("latin-1")).items()}
        action = asked.get("Action", "")
        self._faults.count(action)
        if rule := self._faults.take("delay_s", action, asked):
            time.sleep(rule.delay_s or 0)
        if rule := self._faults.take("error", action, asked):
            return _refuse(start_response, rule)
        drop = self._faults.take("drop", action, asked)
        if drop and drop.drop == "request":
            _hang_up(environ)
        environ["wsgi.input"] = io.BytesIO(body)
        with self._hypervisor.lock:
            # Read to its end here: werkzeug would send it after the lock is let go.
            answer_parts = b"".join(self._moto(environ, start_response))
        if drop:
            _hang_up(environ)
        return [answer_parts]

    def _control(self, method: str, path: str, body: bytes) -> tuple[HTTPStatus, Any]:
        match method, path:
            case "POST", "faults":
                return self._add_faults(body)
            case "DELETE", "faults":
                self._faults.clear()
                return HTTPStatus.OK, []
            case "POST", "reclaim":
                return self._reclaim(json.loads(body))
            case "GET", "calls":
                return HTTPStatus.OK, self._faults.calls()
            case "GET", "machines":
                return HTTPStatus.OK, self._hypervisor.overview()
        return HTTPStatus.NOT_FOUND, {"error": "POST or DELETE faults, POST reclaim, GET calls, GET machines"}

    def _reclaim(self, asked: dict[str, Any]) -> tuple[HTTPStatus, Any]:
        if not self._hypervisor.reclaim(str(asked["id"]), float(asked["notice_s"])):
            return HTTPStatus.BAD_REQUEST, {"error": f"there is no machine {asked['id']}"}
        return HTTPStatus.OK, []

    def _add_faults(self, body: bytes) -> tuple[HTTPStatus, Any]:
        try:
            raw = json.loads(body)
            rules = [parse(each) for each in (raw if isinstance(raw, list) else [raw])]
        except ValueError as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}
        for rule in rules:
            self._faults.add(rule)
        return HTTPStatus.OK, []


def _reply(
    start_response: StartResponse, status: HTTPStatus, kind: str, body: bytes, *more: tuple[str, str]
) -> list[bytes]:
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), *more]
    start_response(f"{status.value} {status.phrase}", headers)
    return [body]


def _refuse(start_response: StartResponse, rule: Rule) -> list[bytes]:
    text = _ERROR.format(code=escape(rule.error or ""), message="This was asked to fail by a fault of the local cloud.")
    wait = [] if rule.retry_after_s is None else [("Retry-After", str(rule.retry_after_s))]
    return _reply(start_response, HTTPStatus(rule.status), "text/xml;charset=UTF-8", text.encode(), *wait)


def _hang_up(environ: WSGIEnvironment) -> None:
    """Close the connection without a word, as a network does."""
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError("dropped by a fault")
