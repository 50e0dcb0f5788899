"""The HTTP before the commands: Jetty's limits and pages, JSON or XML, and the faults that tests put in."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

from .auth import authenticate
from .cloud import Account, Cloud
from .commands import Commands
from .errors import ApiError

_PATH = "/client/api"
_LINE, _FORM = 8192, 1 << 20
_JSON, _XML, _HTML = "application/json;charset=utf-8", "text/xml;charset=utf-8", "text/html;charset=iso-8859-1"


@dataclass
class Fault:
    """What befalls the calls of a command: `times` of them, after the first `skip`."""

    command: str
    times: int = 1
    skip: int = 0
    delay_s: float = 0
    error: ApiError | None = None
    drop: str | None = None  # "request": nothing is done; "reply": it is done, and nobody hears of it


@dataclass
class Server:
    """A running server, from behind."""

    cloud: Cloud
    commands: Commands
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    last: dict[str, dict[str, str]] = field(default_factory=dict)  # the parameters of each command's last call
    after: Callable[[str], None] = lambda _: None  # done after each call, before its answer is sent
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_of(self, command: str) -> Fault | None:
        with self.lock:
            self.calls[command] += 1
            for fault in self.faults:
                if fault.command == command and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def heal(self) -> None:
        with self.lock:
            self.faults.clear()


@contextmanager
def serve(cloud: Cloud, tls: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """The server on loopback until the block ends; with a certificate and its key by HTTPS."""
    server = Server(cloud, Commands(cloud))

    class Handler(_Handler):
        behind = server

    http = _Http(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{http.server_port}{_PATH}"
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind: Server

    def handle_one_request(self) -> None:
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().handle_one_request()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._send(405, "", "")

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if len(self.requestline) > _LINE:
            self._page(414, "URI Too Long")
        elif any(len(value) > _LINE for value in self.headers.values()):
            self._page(431, "Request Header Fields Too Large")
        elif not path.startswith(_PATH):
            self.close_connection = True
            self._send(301, "", "", {"Location": f"http://127.0.0.1:8080/client{path}"})
        elif path != _PATH or len(body) > _FORM:
            self._not_found(path, "CAUSED BY:" if path == _PATH else None)
        else:
            self._command(self._params(body))

    def _params(self, body: bytes) -> dict[str, str]:
        """Query and form together; what is not sent as a form is not read."""
        form = body.decode() if self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded") else ""
        return dict(parse_qsl(urlsplit(self.path).query, True) + parse_qsl(form, True))

    def _command(self, params: dict[str, str]) -> None:
        command, as_json = params.get("command", ""), params.get("response") == "json"
        fault = self.behind.fault_of(command)
        self.behind.last[command] = params
        if fault and fault.delay_s:
            time.sleep(fault.delay_s)
        if fault and fault.drop == "request":
            return self._hang_up()
        wrapper = f"{command.lower()}response"
        try:
            if fault and fault.error:
                raise fault.error
            reply = {wrapper: self._run(command, params, wrapper)}
            status, headers = 200, {}
        except ApiError as error:
            status, reply, headers = error.status, _refusal(error, wrapper), {}
            if error.status not in (400, 401):
                headers = {"X-Description": error.text.encode("ascii", "replace").decode()}
        self.behind.after(command)
        if fault and fault.drop == "reply":
            return self._hang_up()
        return self._send(status, json.dumps(reply) if as_json else _xml(reply), _JSON if as_json else _XML, headers)

    def _run(self, command: str, params: dict[str, str], wrapper: str) -> dict[str, Any]:
        known = self.behind.commands.find(command) is not None or command == "listHosts"
        cloud = self.behind.cloud
        cloud.catch_up()
        account = authenticate(cloud, params, wrapper if known else "errorresponse")
        self._throttle(account)
        return self.behind.commands.run(command, params, account, self.command)

    def _throttle(self, account: Account) -> None:
        cloud = self.behind.cloud
        most, interval = cloud.settings.throttle, timedelta(seconds=cloud.settings.throttle_interval_s)
        if not most or account.admin:
            return
        with cloud.lock:
            now = cloud.clock()
            begun, count = cloud.issued.get(account.id, (now, 0))
            if now >= begun + interval:
                begun, count = now, 0
            cloud.issued[account.id] = (begun, count + 1)
        if count >= most:
            left = int((begun + interval - now).total_seconds() * 1000)
            text = f"The given user has reached his/her account api limit, please retry after [{left}] ms."
            raise ApiError(429, text)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _send(self, status: int, body: str, content_type: str, headers: dict[str, str] | None = None) -> None:
        content = body.encode()
        self.send_response_only(status)
        self.send_header("Date", format_datetime(self.behind.cloud.clock(), usegmt=True))
        if content_type:
            self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _page(self, status: int, reason: str) -> None:
        self.close_connection = True
        text = f"<h1>Bad Message {status}</h1><pre>reason: {reason}</pre>"
        self._send(status, text, _HTML, {"Connection": "close"})

    def _not_found(self, path: str, cause: str | None) -> None:
        rows = {"URI:": path, "STATUS:": "404", "MESSAGE:": "Not Found", "SERVLET:": "default"}
        if cause:
            rows[cause] = "org.eclipse.jetty.http.BadMessageException: 400: Unable to parse form content"
            self.close_connection = True
        table = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>\n" for name, value in rows.items())
        head = (
            f'<meta http-equiv="Content-Type" content="{_HTML.replace("iso", "ISO")}"/>\n<title>Error 404 Not Found</title>'
        )
        body = f"<body><h2>HTTP ERROR 404 Not Found</h2>\n<table>\n{table}</table>\n\n</body>"
        self._send(
            404, f"<html>\n<head>\n{head}\n</head>\n{body}\n</html>\n", _HTML, {"Connection": "close"} if cause else {}
        )


def _refusal(error: ApiError, wrapper: str) -> dict[str, Any]:
    content: dict[str, Any] = {"uuidList": [], "errorcode": error.status}
    if error.cs is not None:
        content["cserrorcode"] = error.cs
    return {error.wrapper or wrapper: {**content, "errortext": error.text}}


def _xml(reply: dict[str, Any]) -> str:
    name, content = next(iter(reply.items()))
    version = "" if "errorcode" in content else ' cloud-stack-version="4.21.0.0"'
    inner = _elements({key: value for key, value in content.items() if key != "uuidList"})
    return f'<?xml version="1.0" encoding="UTF-8"?><{name}{version}>{inner}</{name}>'


def _elements(content: dict[str, Any]) -> str:
    parts = []
    for name, value in content.items():
        for each in value if isinstance(value, list) else [value]:
            inner = (
                _elements(each)
                if isinstance(each, dict)
                else escape(str(each).lower() if isinstance(each, bool) else str(each))
            )
            parts.append(f"<{name}>{inner}</{name}>")
    return "".join(parts)
