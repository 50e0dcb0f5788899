"""The small OpenStack over HTTP: Keystone v3, Nova, Glance and Neutron on one port of loopback, and faults on demand."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from openstack_cloud import Cloud, Json, Refused

APPLICATION_CREDENTIAL = {"id": "the-credential", "secret": "the-secret"}


@dataclass
class Fault:
    """What happens instead of an answer, or before it, to calls of this kind."""

    call: str  # a regular expression of "METHOD /path"
    status: int = 0  # answered instead
    headers: dict[str, str] = field(default_factory=dict)
    text: str = "told by the test"
    drop: str = ""  # the `request` before it is looked at, or the `reply` after it was
    delay_s: float = 0.0
    times: int = 1
    skip: int = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OpenStackServer

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.hit(f"{self.command} {url.path}")
        time.sleep(fault.delay_s)
        if fault.drop == "request":
            return self._hang_up()
        try:
            if fault.status:
                raise Refused(fault.status, "fault", fault.text)
            answer = self._answer(url.path, dict(parse_qsl(url.query)), json.loads(body or b"{}"))
        except Refused as refused:
            said = {refused.kind: {"code": refused.status, "message": refused.text}}
            answer = (refused.status, said, fault.headers)
        if fault.drop == "reply":
            return self._hang_up()
        return self._send(*answer)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, status: int, said: Json | None, headers: dict[str, str]) -> None:
        data = b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, path: str, query: dict[str, str], body: Json) -> tuple[int, Json | None, dict[str, str]]:
        _, service, *parts = [unquote(part) for part in path.split("/")]
        call = [self.command, service, *filter(None, parts)]
        match call:
            case ["GET", "identity", "v3"]:
                return 200, {"version": _version("v3.14", f"{self.server.url}/identity/v3/", "stable")}, {}
            case ["POST", "identity", "v3", "auth", "tokens"]:
                return self._token(body)
            case ["GET", "compute", "v2.1"]:
                return 200, {"version": self._compute_version()}, {}
            case ["GET", "image"]:
                return 300, {"versions": [_version("v2.17", f"{self.server.url}/image/v2/")]}, {}
            case ["GET", "network"]:
                return 200, {"versions": [_version("v2.0", f"{self.server.url}/network/v2.0/")]}, {}
        if self.headers.get("X-Auth-Token") not in self.server.tokens:
            raise Refused(401, "unauthorized", "The request you have made requires authentication.")
        match call:
            case [_, "compute", "v2.1", *rest]:
                return self._compute([self.command, *rest], query, body)
            case ["GET", "image", "v2", "images", *rest]:
                return 200, self._images(query, *rest), {}
            case ["GET", "network", "v2.0", kind]:
                things = {"networks": self.cloud.networks, "security-groups": self.cloud.security_groups}[kind]
                found = [each for each in things if all(each.get(key) == value for key, value in query.items())]
                return 200, {kind.replace("-", "_"): found}, {}
        raise Refused(404, "itemNotFound", "The resource could not be found.")

    @property
    def cloud(self) -> Cloud:
        return self.server.cloud

    def _token(self, body: Json) -> tuple[int, Json, dict[str, str]]:
        identity = body["auth"]["identity"]
        if identity.get("application_credential") != APPLICATION_CREDENTIAL:
            raise Refused(401, "error", "The request you have made requires authentication.")
        token = uuid.uuid4().hex
        self.server.tokens.add(token)
        ends = {"compute": "/compute/v2.1", "image": "/image", "network": "/network"}
        catalogue = [
            {"type": service, "name": service, "id": service, "endpoints": [_endpoint(self.server.url + path)]}
            for service, path in ends.items()
        ]
        said = {"methods": ["application_credential"], "expires_at": "2099-01-01T00:00:00.000000Z", "catalog": catalogue}
        said |= {
            "project": {"id": "p", "name": "p", "domain": {"id": "d", "name": "d"}},
            "issued_at": "2026-01-01T00:00:00.000000Z",
        }
        said |= {"user": {"id": "u", "name": "u", "domain": {"id": "d", "name": "d"}}, "roles": []}
        return 201, {"token": said}, {"X-Subject-Token": token}

    def _compute_version(self) -> Json:
        newest = ".".join(map(str, self.cloud.newest))
        return _version("v2.1", f"{self.server.url}/compute/v2.1/") | {"version": newest, "min_version": "2.1"}

    def _compute(self, call: list[str], query: dict[str, str], body: Json) -> tuple[int, Json | None, dict[str, str]]:
        asked = self.headers.get("OpenStack-API-Version", "compute 2.1").split()[1]
        major, minor = map(int, asked.split("."))
        version, cloud = (major, minor), self.cloud
        if version > cloud.newest:
            raise Refused(406, "computeFault", f"Version {asked} is not supported by the API.")
        self.server.versions.add(version)
        match call:
            case ["GET", "servers", "detail"]:
                return 200, cloud.listing(query, version), {}
            case ["POST", "servers"]:
                return 202, {"server": {"id": cloud.create(body, version).id, "links": []}}, {}
            case ["GET", "servers", id_]:
                return 200, {"server": cloud.shown(cloud.find(id_), version)}, {}
            case ["DELETE", "servers", id_]:
                return 204, cloud.delete(id_), {}
            case ["POST", "servers", id_, "action"]:
                return self._act(id_, body)
            case ["GET", "flavors", "detail"]:
                return 200, {"flavors": cloud.flavors}, {}
            case ["GET", "os-availability-zone"]:
                zones = [{"zoneName": name, "zoneState": {"available": up}} for name, up in cloud.zones.items()]
                return 200, {"availabilityZoneInfo": zones}, {}
            case ["GET", "os-server-groups"]:
                return 200, {"server_groups": cloud.server_groups}, {}
            case ["GET", "os-keypairs", name] if any(each["name"] == name for each in cloud.key_pairs):
                return 200, {"keypair": {"name": name}}, {}
            case ["GET", "limits"]:
                return 200, cloud.limits(), {}
        raise Refused(404, "itemNotFound", "The resource could not be found.")

    def _act(self, id_: str, body: Json) -> tuple[int, Json | None, dict[str, str]]:
        server = self.cloud.find(id_)
        match body:
            case {"os-getConsoleOutput": _}:
                if server.status(time.time()) not in ("ACTIVE", "SHUTOFF"):
                    raise Refused(409, "conflictingRequest", f"Instance {id_} is not ready")
                return 200, {"output": server.console}, {}
            case {"unlock": _}:
                server.locked = False
                return 202, None, {}
        raise Refused(400, "badRequest", f"There is no such action: {body}")

    def _images(self, query: dict[str, str], id_: str = "") -> Json:
        if id_:
            found = [image for image in self.cloud.images if image["id"] == id_]
            if not found:
                raise Refused(404, "itemNotFound", f"No image found with ID {id_}")
            return found[0]
        images = [i for i in self.cloud.images if all(i[key] == value for key, value in query.items() if key != "marker")]
        if "marker" in query:
            images = images[[image["id"] for image in images].index(query["marker"]) + 1 :]
        page: Json = {"images": images[:2]}
        return page | ({"next": f"/v2/images?marker={images[1]['id']}"} if len(images) > 2 else {})


class OpenStackServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cloud = cloud
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.tokens: set[str] = set()
        self.versions: set[tuple[int, int]] = set()
        self.calls: list[str] = []
        self.faults: list[Fault] = []
        self._lock = threading.Lock()

    def hit(self, call: str) -> Fault:
        """Count this call, and say what is wrong with it."""
        with self._lock:
            self.calls.append(call)
            for fault in self.faults:
                if fault.times and re.fullmatch(fault.call, call):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return Fault("")

    def handle_error(self, *_: Any) -> None:
        """A client that hung up is what some tests are about."""


@contextmanager
def serving(cloud: Cloud) -> Iterator[OpenStackServer]:
    with OpenStackServer(cloud) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _version(id_: str, href: str, status: str = "CURRENT") -> Json:
    return {"id": id_, "status": status, "links": [{"rel": "self", "href": href}]}


def _endpoint(url: str) -> Json:
    return {"id": url, "interface": "public", "region": "here", "region_id": "here", "url": url}
