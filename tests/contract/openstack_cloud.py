"""A small OpenStack: the servers, images, flavors and networks of one project, as Nova, Glance and Neutron treat them.

No HTTP here (that is `openstack_http`) and no threads: what time does to a server is worked out whenever it is looked
at. `make test-openstack` runs the same tests against the real services.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

KEYS = {  # of a request to create servers; the version that brought them
    **dict.fromkeys(
        ["name", "imageRef", "flavorRef", "networks", "metadata", "key_name", "user_data", "availability_zone"], (2, 1)
    ),
    **dict.fromkeys(["config_drive", "security_groups", "min_count", "max_count", "block_device_mapping_v2"], (2, 1)),
    "tags": (2, 52),
}


class Refused(Exception):
    """An answer that is not a yes: its status, and Nova's name and text of it."""

    def __init__(self, status: int, kind: str, text: str) -> None:
        super().__init__(text)
        self.status, self.kind, self.text = status, kind, text


@dataclass
class Server:
    id: str
    name: str
    body: Json
    hints: Json
    created: float
    boots_at: float
    fault: str | None = None
    locked: bool = False
    off: bool = False
    power_state: int = 1
    deleted_at: float | None = None
    gone_at: float | None = None

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.body.get("metadata", {}))

    @property
    def user_data(self) -> bytes:
        return base64.b64decode(self.body.get("user_data", ""))

    @property
    def console(self) -> str:
        """A guest that says what its user data echo."""
        said = re.findall(r"^echo (.*)$", self.user_data.decode(errors="replace"), re.MULTILINE)
        return "\n".join(["guest login:", *said, ""])

    def status(self, now: float) -> str:
        if self.gone_at is not None and now >= self.gone_at:
            return "DELETED"
        if self.fault:
            return "ERROR"
        if now < self.boots_at:
            return "BUILD"
        return "SHUTOFF" if self.off else "ACTIVE"


@dataclass
class Cloud:
    """Everything of the project. Its methods raise Refused as the services do."""

    boot_s: float = 0.1
    delete_s: float = 0.1
    newest: tuple[int, int] = (2, 104)
    page: int = 1000
    hide_new_s: float = 0.0
    room: int | None = None  # how many more servers the quota lets be made
    full: int = 0  # launches that the scheduler finds no host for
    fault: str = "No valid host was found. "
    cell_down: bool = False
    reader: bool = False  # the role of the credentials: it may read only
    servers: dict[str, Server] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.flavors = [
            _flavor("m1.tiny", vcpus=1, ram=256, disk=1),
            _flavor("m1.small", vcpus=1, ram=2048, disk=20),
            _flavor("volume.small", vcpus=1, ram=2048, disk=0),
        ]
        self.images = [
            _image("debian-12", min_disk=3, min_ram=512),
            _image("twice"),
            _image("twice"),
            _image("replaced", status="deactivated"),
            _image("replaced"),
            _image("retired", status="deactivated"),
        ]
        self.networks = [_network("private"), _network("other"), _network("bare", subnets=[])]
        self.security_groups = [{"id": _id(), "name": "default"}]
        self.server_groups = [{"id": _id(), "name": "apart", "policy": "anti-affinity", "members": []}]
        self.key_pairs = [{"name": "a-key"}]
        self.zones = {"az1": True, "az2": False}

    def heal(self) -> None:
        self.page, self.hide_new_s, self.room, self.full = 1000, 0.0, None, 0
        self.fault, self.cell_down, self.reader = Cloud.fault, False, False

    # -- what Nova does --

    def create(self, wanted: Json, version: tuple[int, int]) -> Server:
        """One request; the first of the servers it made."""
        body, hints = wanted["server"], wanted.get("os:scheduler_hints", {})
        self._refuse(body, version)
        least, most = int(body.get("min_count", 1)), int(body.get("max_count", body.get("min_count", 1)))
        with self.lock:
            room = most if self.room is None else self.room
            if room < least:
                quota = len(self.living()) + room
                text = f"Quota exceeded for instances: Requested {least}, but already used {quota} of {quota} instances"
                raise Refused(403, "forbidden", text)
            full, self.full = self.full > 0, max(0, self.full - 1)
            names = [body["name"]] if most == 1 else [f"{body['name']}-{i + 1}" for i in range(min(most, room))]
            made = [self._made(name, body, hints, self.fault if full else None) for name in names]
            self.room = None if self.room is None else room - len(made)
            self.servers.update((server.id, server) for server in made)
            return made[0]

    def _made(self, name: str, body: Json, hints: Json, fault: str | None) -> Server:
        now = time.time()
        return Server(_id(), name, body, hints, now, now + self.boot_s, fault, power_state=0 if fault else 1)

    def _refuse(self, body: Json, version: tuple[int, int]) -> None:
        if self.reader:
            raise Refused(403, "forbidden", "Policy doesn't allow os_compute_api:servers:create to be performed.")
        for key in body:
            if KEYS.get(key, (9, 9)) > version:
                raise Refused(400, "badRequest", f"Additional properties are not allowed ({key!r} was unexpected)")
        if "networks" not in body and version >= (2, 37):
            raise Refused(400, "badRequest", "'networks' is a required property")
        for key, value in body.get("metadata", {}).items():
            if not isinstance(value, str) or len(value) > 255 or not re.fullmatch(r"[a-zA-Z0-9-_:. ]{1,255}", key):
                raise Refused(400, "badRequest", f"Invalid input for field/attribute {key}. Value: {value}.")
        self._refuse_user_data(body.get("user_data", ""))
        self._refuse_references(body)

    @staticmethod
    def _refuse_user_data(encoded: str) -> None:
        try:
            base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise Refused(400, "badRequest", "user_data is not a 'base64'") from None
        if len(encoded) > 65535:
            raise Refused(400, "badRequest", "user_data is too long")

    def _refuse_references(self, body: Json) -> None:
        flavor = _by_id(self.flavors, body["flavorRef"])
        if flavor is None:
            raise Refused(400, "badRequest", f"Flavor {body['flavorRef']} could not be found.")
        volumes = body.get("block_device_mapping_v2", [])
        image = _by_id(self.images, body.get("imageRef") or volumes[0]["uuid"])
        if image is None or image["status"] != "active":
            raise Refused(400, "badRequest", "Can not find requested image")
        disk = volumes[0]["volume_size"] if volumes else flavor["disk"]
        if not disk:
            raise Refused(403, "forbidden", "Only volume-backed servers are allowed for flavors with zero disk.")
        if disk < image["min_disk"]:
            raise Refused(400, "badRequest", "Flavor's disk is smaller than the minimum size specified in image metadata.")
        if body["networks"] == "auto":
            raise Refused(
                409, "conflictingRequest", "Multiple possible networks found, use a Network ID to be more specific."
            )
        for network in body["networks"]:
            if _by_id(self.networks, network["uuid"]) is None:
                raise Refused(400, "badRequest", f"Network {network['uuid']} could not be found.")
        for group in body.get("security_groups", []):
            if not any(group["name"] in (each["id"], each["name"]) for each in self.security_groups):
                raise Refused(400, "badRequest", f"Unable to find security_group with name or id '{group['name']}'")
        if body.get("key_name") not in (None, *(each["name"] for each in self.key_pairs)):
            raise Refused(400, "badRequest", "Invalid key_name provided.")
        if body.get("availability_zone", "az1") not in self.zones:
            raise Refused(400, "badRequest", "The requested availability zone is not available")

    def delete(self, id_: str) -> None:
        server, now = self.find(id_), time.time()
        if server.locked:
            raise Refused(409, "conflictingRequest", f"Instance {id_} is locked")
        if server.deleted_at is None:
            server.deleted_at, server.gone_at = now, max(now, server.boots_at) + self.delete_s

    def find(self, id_: str) -> Server:
        server = self.servers.get(id_)
        if server is None or server.status(time.time()) == "DELETED":
            raise Refused(404, "itemNotFound", f"Instance {id_} could not be found.")
        return server

    def living(self) -> list[Server]:
        now = time.time()
        return [server for server in self.servers.values() if server.status(now) != "DELETED"]

    def listing(self, query: dict[str, str], version: tuple[int, int]) -> Json:
        """A page of servers, newest first. Filters that a member may not use are passed over in silence."""
        now = time.time()
        with self.lock:
            all_ = sorted(self.servers.values(), key=lambda server: server.created, reverse=True)
        seen = [server for server in all_ if "changes-since" in query or server.status(now) != "DELETED"]
        if "name" in query:
            seen = [server for server in seen if re.search(query["name"], server.name)]
        seen = [server for server in seen if now - server.created >= self.hide_new_s]
        if "marker" in query:
            places = [i for i, server in enumerate(seen) if server.id == query["marker"]]
            if not places:
                raise Refused(400, "badRequest", f"marker [{query['marker']}] not found")
            seen = seen[places[0] + 1 :]
        length = min(self.page, int(query.get("limit", self.page)))
        page: Json = {"servers": [self.shown(server, version) for server in seen[:length]]}
        if self.cell_down and version >= (2, 69) and not query:
            page["servers"].append({"id": _id(), "status": "UNKNOWN", "created": _time(now), "links": []})
        if len(seen) > length:
            page["servers_links"] = [{"rel": "next", "href": f"http://elsewhere/?marker={seen[length - 1].id}"}]
        return page

    def shown(self, server: Server, version: tuple[int, int]) -> Json:
        now = time.time()
        status = server.status(now)
        deleting = server.deleted_at is not None and status != "DELETED"
        address = {
            "version": 4,
            "addr": "10.20.0.9",
            "OS-EXT-IPS:type": "fixed",
            "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:01",
        }
        shown: Json = {
            "id": server.id,
            "name": server.name,
            "status": status,
            "metadata": {} if status == "DELETED" else server.metadata,
            "created": _time(server.created),
            "addresses": {"private": [address]} if status in ("ACTIVE", "SHUTOFF") else {},
            "locked": server.locked,
            "key_name": server.body.get("key_name"),
            "config_drive": "True" if server.body.get("config_drive") else "",
            "OS-EXT-STS:task_state": "deleting" if deleting else None,
            "OS-EXT-STS:power_state": 4 if server.off else server.power_state,
        }
        if version >= (2, 26):
            shown["tags"] = server.body.get("tags", [])
        if server.fault and status == "ERROR":
            shown["fault"] = {"code": 500, "created": _time(server.created), "message": server.fault}
        return shown

    def limits(self) -> Json:
        used = len(self.living())
        absolute = {"maxTotalInstances": -1 if self.room is None else used + self.room, "totalInstancesUsed": used}
        absolute |= {"maxTotalCores": -1, "totalCoresUsed": used, "maxTotalRAMSize": -1, "totalRAMUsed": 0}
        return {"limits": {"rate": [], "absolute": absolute}}


def _id() -> str:
    return str(uuid.uuid4())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _by_id(things: list[Json], id_: str) -> Json | None:
    return next((each for each in things if each["id"] == id_), None)


def _flavor(name: str, **size: int) -> Json:
    return {"id": _id(), "name": name, "OS-FLV-DISABLED:disabled": False, **size}


def _image(name: str, min_disk: int = 0, min_ram: int = 0, status: str = "active") -> Json:
    image = {"id": _id(), "name": name, "status": status, "min_disk": min_disk, "min_ram": min_ram, "virtual_size": 1 << 20}
    return image | {"visibility": "public"}


def _network(name: str, subnets: list[str] | None = None) -> Json:
    subnets = [_id()] if subnets is None else subnets
    return {"id": _id(), "name": name, "admin_state_up": True, "subnets": subnets, "router:external": False}
