"""OpenStack Nova, with Keystone v3, Glance and Neutron beside it.

Nova has no idempotency token. A launch therefore looks for its own servers first, by name and then by metadata, and
asks for those that are missing: one POST for up to 50 servers. After an unanswered POST it looks for a while before it
asks again. What is ours is told by the metadata alone, looked at here: Nova ignores filters it does not know.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Event

from . import nova_inspect, nova_template
from .base import (
    TAG_INSTALLATION,
    TAG_LAUNCH,
    CatalogueItem,
    Finding,
    Instance,
    InstanceState,
    LaunchRequest,
    Misconfigured,
    OutcomeUnknown,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    Unauthorised,
)
from .nova_api import Json, NovaApi, server_path
from .nova_errors import SETTLES_S, cause_of, settles_in_s, translated
from .nova_names import Names
from .nova_turns import Turn, turn_of

_STATES = {
    "BUILD": InstanceState.PENDING,
    "REBUILD": InstanceState.PENDING,
    "ACTIVE": InstanceState.RUNNING,
    "PASSWORD": InstanceState.RUNNING,
    "REBOOT": InstanceState.RUNNING,
    "HARD_REBOOT": InstanceState.RUNNING,
    "MIGRATING": InstanceState.RUNNING,
    "RESIZE": InstanceState.RUNNING,
    "VERIFY_RESIZE": InstanceState.RUNNING,
    "REVERT_RESIZE": InstanceState.RUNNING,
    "RESCUE": InstanceState.RUNNING,
    "SHUTOFF": InstanceState.STOPPED,
    "PAUSED": InstanceState.STOPPED,
    "SUSPENDED": InstanceState.STOPPED,
    "SHELVED": InstanceState.STOPPED,
    "SHELVED_OFFLOADED": InstanceState.STOPPED,
    "SOFT_DELETED": InstanceState.ENDING,
    "DELETED": InstanceState.ENDED,
    "ERROR": InstanceState.ERROR,
}
_LOST_GUEST = {0: "the hypervisor does not know its guest any more", 6: "its guest has crashed"}  # by power_state

# Our own marks in a server's metadata, besides the tags of the contract.
_REQUEST = "elastic-orchestrator:request"  # a digest of what was asked for
_FIRST = "elastic-orchestrator:first"  # the place in its launch of the first server of its POST
_TEXT = 255  # characters of a metadata value
_LAUNCH_ID = re.compile(r"[A-Za-z0-9._-]{1,200}")  # it begins the server's name, and a pattern that finds it

_TOGETHER = 50  # servers of one POST: Nova makes about 15 a second before it answers
_DELETES = 8  # at once
_EVER = "1970-01-01T00:00:00Z"
_LOOK_AGAIN_S = 1.0


class NovaProvider:
    """One project in one region. Thread-safe; knows for some minutes the ids of the names it has looked up.

    `cloud` is an entry of clouds.yaml; without it the SDK's own choice (OS_CLOUD, the OS_… variables) is taken.
    Credentials are found by the SDK alone. Raises Misconfigured or Unauthorised where clouds.yaml does not hold.
    """

    user_data_limit = 65535 // 4 * 3  # 65535 characters of base64
    rents = True

    def __init__(
        self, *, installation: str, cloud: str | None = None, region: str | None = None, timeout_s: float = 20
    ) -> None:
        self._installation = installation
        self._timeout_s = timeout_s
        with translated("read clouds.yaml"):
            self._api = NovaApi(cloud, region, timeout_s)
        self.endpoint = self._api.auth_url
        self._names = Names(self._api)

    # -- the contract --

    def validate(self, template: Mapping[str, object]) -> None:
        """Misconfigured naming the key of a launch template that is unknown or ill-formed. Makes no call."""
        nova_template.validate(template)

    def check(self) -> None:
        """One small listing: it needs the credentials, the region and the right that every tick needs."""
        with translated("list servers"):
            self._api.get("compute", "/servers/detail", limit=1)

    def inspect(self, image: str, instance_type: str, template: Mapping[str, object]) -> list[Finding]:
        """Image, flavor and their fit, networks, groups, key, zone, quota left: a finding each."""
        with translated("look at what the pool needs"):
            return nova_inspect.inspect(self._api, image, instance_type, template)

    def launch(self, request: LaunchRequest) -> list[Instance]:
        """A look, a POST for every 50 servers, a look. Too large user data are refused here, before any call.

        Servers in a server group are asked for one by one: together, none comes if one of them does not fit.
        Fewer than asked come when the quota ends in between. What no host has room for comes all the same, and is
        shown in ERROR with its cause: Nova answers before it looks for hosts.
        """
        self._refuse_unlaunchable(request)
        with turn_of(request.launch_id) as turn:
            found = self._settled(request, turn)
            self._refuse_another(request, found)
            if self._ask_for_missing(request, found, turn) or len(found) < request.count:
                found = self._appeared(request)
        tags = {**request.tags, TAG_INSTALLATION: self._installation, TAG_LAUNCH: request.launch_id}
        return [_instance(server, tags) for server in found]

    def instances(self) -> list[Instance]:
        """Every server of the project that bears our mark. No filter: one that fails would hide a server for good."""
        return [_instance(server) for server in self._ours()]

    def terminate(self, ids: Iterable[str]) -> None:
        """One DELETE each, eight at a time; a lock that was put on a server is taken off first. Raises after all were
        asked, or as soon as OpenStack wants no more calls from us."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return
        pointless = Event()
        with ThreadPoolExecutor(min(_DELETES, len(wanted)), "nova-delete") as threads:
            failures = [error for error in threads.map(lambda id_: self._end(id_, pointless), wanted) if error]
        if failures:
            raise next((error for error in failures if isinstance(error, RateLimited | Unauthorised)), failures[0])

    def impaired(self) -> Mapping[str, str]:
        """Servers that Nova shows ACTIVE without a guest that runs, or on a host that is down (if the role may see it)."""
        told = {server["id"]: _impairment(server) for server in self._ours()}
        return {id_: what for id_, what in told.items() if what}

    def console(self, instance_id: str) -> str:
        """The boot log as far as the hypervisor keeps it, "" where there is none."""
        from keystoneauth1.exceptions import Conflict, HttpNotImplemented, NotFound

        with translated("read the console"):
            try:
                reply = self._api.post(server_path(instance_id, "/action"), {"os-getConsoleOutput": {}})
            except (NotFound, Conflict, HttpNotImplemented):
                return ""
            return str(reply["output"] or "")

    def catalogue(self, kind: str) -> list[CatalogueItem]:
        """Active `images`, flavors as `sizes`, availability zones as `locations`."""
        with translated(f"list {kind}"):
            match kind:
                case "images":
                    return [_image(each) for each in self._api.paged("image", "/images", "images", status="active")]
                case "sizes":
                    return [_size(each) for each in self._api.paged("compute", "/flavors/detail", "flavors")]
                case "locations":
                    zones = self._api.get("compute", "/os-availability-zone")["availabilityZoneInfo"]
                    return [_zone(each) for each in zones]
        raise Misconfigured(f"there is no catalogue of {kind!r}; ask for images, sizes or locations")

    # -- launching --

    def _refuse_unlaunchable(self, request: LaunchRequest) -> None:
        request.refuse_user_data_over(self.user_data_limit, "Nova")
        if not _LAUNCH_ID.fullmatch(request.launch_id):
            raise Misconfigured(f"the launch id {request.launch_id!r} must be up to 200 letters, digits, '.', '_' or '-'")
        for key, value in request.tags.items():
            if max(len(key), len(value)) > _TEXT:
                raise Misconfigured(f"the tag {key!r} is longer than the {_TEXT} characters that Nova takes: shorten it")

    def _settled(self, request: LaunchRequest, turn: Turn) -> list[Json]:
        """The servers of earlier tries. Those of the last one may still be on their way: it is looked for a while."""
        found = self._of_launch(request)
        pause_s = 0.25
        while len(found) < request.count and not turn.settled:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)
            found = self._of_launch(request)
        return found

    def _of_launch(self, request: LaunchRequest) -> list[Json]:
        """Deleted ones too, as long as Nova's database has them: without metadata, but with the name we gave."""
        name = re.compile(re.escape(request.launch_id) + r"-\d+(-\d+)?")

        def is_meant(server: Json) -> bool:
            if server["status"] == "DELETED":
                return name.fullmatch(server["name"]) is not None
            mark = (server["metadata"].get(TAG_INSTALLATION), server["metadata"].get(TAG_LAUNCH))
            return mark == (self._installation, request.launch_id)

        with translated(f"look for the servers of launch {request.launch_id}"):
            return list(filter(is_meant, self._api.servers(**{"name": f"^{request.launch_id}-", "changes-since": _EVER})))

    def _refuse_another(self, request: LaunchRequest, found: list[Json]) -> None:
        if any(server["metadata"].get(_REQUEST, _digest(request)) != _digest(request) for server in found):
            raise OutcomeUnknown(
                f"the launch id {request.launch_id} was used for a different launch; its servers are there, none was made"
            )

    def _ask_for_missing(self, request: LaunchRequest, found: list[Json], turn: Turn) -> bool:
        """Ask for what no earlier try has asked for; whether there was any such."""
        there = {_place(server, request.launch_id)[0] for server in found}
        missing = [part for part in _parts(request) if part.start not in there]
        if not missing:
            return False
        with translated(f"look up what launch {request.launch_id} needs"):
            body = nova_template.body(request, self._names, self._api.microversion)
        for part in missing:
            try:
                self._post(request, body, part, turn)
            except QuotaExceeded:
                if not there:
                    raise
                break
            there.add(part.start)
        return True

    def _post(self, request: LaunchRequest, body: Json, part: range, turn: Turn) -> None:
        server = body["server"] | {
            "name": _name(request.launch_id, part),
            "metadata": {
                **request.tags,
                TAG_INSTALLATION: self._installation,
                TAG_LAUNCH: request.launch_id,
                _REQUEST: _digest(request),
                _FIRST: str(part.start),
            },
        }
        if len(part) > 1:
            server |= {"min_count": 1, "max_count": len(part)}
        if self._api.speaks(2, 52):
            server["tags"] = ["elastic-orchestrator"]  # for people: `openstack server list --tags elastic-orchestrator`
        try:
            with translated(f"launch {len(part)} of {request.instance_type}", launching=True):
                self._api.post("/servers", body | {"server": server})
            turn.settles_in(SETTLES_S)
        except OutcomeUnknown as error:
            turn.settles_in(settles_in_s(error.__cause__, self._timeout_s))
            raise
        except Misconfigured:
            self._names.forget()
            raise

    def _appeared(self, request: LaunchRequest) -> list[Json]:
        """What came of it. A quota gives fewer than asked, a listing that lags shows fewer: looking twice tells which."""
        found = self._of_launch(request)
        if len(found) < request.count:
            time.sleep(_LOOK_AGAIN_S)
            found = self._of_launch(request)
        if not found:
            raise OutcomeUnknown(f"OpenStack accepted launch {request.launch_id} but does not show its servers yet")
        return found

    # -- listing and ending --

    def _ours(self) -> list[Json]:
        with translated("list servers"):
            servers = self._api.servers()
        return [server for server in servers if server["metadata"].get(TAG_INSTALLATION) == self._installation]

    def _end(self, id_: str, pointless: Event) -> ProviderError | None:
        if pointless.is_set():
            return None
        try:
            with translated(f"end {id_}"):
                self._delete(id_)
        except ProviderError as error:
            if isinstance(error, RateLimited | Unauthorised):
                pointless.set()
            return error
        return None

    def _delete(self, id_: str) -> None:
        from keystoneauth1.exceptions import Conflict, NotFound

        try:
            try:
                self._api.delete_server(id_)
            except Conflict:
                if not self._unlocked(id_):
                    raise
                self._api.delete_server(id_)
        except NotFound:
            return

    def _unlocked(self, id_: str) -> bool:
        """Take a lock off this server; False where there was none."""
        from keystoneauth1.exceptions import Forbidden

        if not self._api.get("compute", server_path(id_))["server"]["locked"]:
            return False
        try:
            self._api.post(server_path(id_, "/action"), {"unlock": None})
        except Forbidden as error:
            raise Misconfigured(f"{id_} is locked by an administrator: have it unlocked, so that it can end") from error
        return True


def _parts(request: LaunchRequest) -> Iterator[range]:
    """The places of a launch, as they are asked for together."""
    together = 1 if "server_group" in request.template else _TOGETHER
    for first in range(0, request.count, together):
        yield range(first, min(first + together, request.count))


def _name(launch_id: str, part: range) -> str:
    """`launch-0` for one server; of several Nova itself makes `launch-0-1`, `launch-0-2`, …"""
    return f"{launch_id}-{part.start}"


def _place(server: Json, launch_id: str) -> tuple[int, int]:
    """The first place of the POST that made this server, and its own. One that was renamed keeps the former alone."""
    named = re.fullmatch(re.escape(launch_id) + r"-(\d+)(?:-(\d+))?", server["name"])
    if named is None:
        first = int(server["metadata"].get(_FIRST, 0))
        return first, first
    first = int(named[1])
    return first, first + int(named[2] or 1) - 1


def _digest(request: LaunchRequest) -> str:
    """Of everything that makes one request differ from another."""
    asked = [request.count, request.image, request.instance_type, dict(request.tags), dict(request.template)]
    text = json.dumps(asked, sort_keys=True, default=str).encode()
    return hashlib.sha256(text + request.user_data).hexdigest()[:32]


def _instance(server: Json, tags: Mapping[str, str] | None = None) -> Instance:
    """`tags` are for a deleted server, of which Nova keeps none."""
    tags = server["metadata"] or tags or {}
    state = _STATES.get(server["status"], InstanceState.UNKNOWN)
    if server.get("OS-EXT-STS:task_state") in ("deleting", "soft-deleting"):
        state = InstanceState.ENDING
    fault = _fault(server)
    return Instance(
        id=server["id"],
        state=state,
        tags=tags,
        address=_address(server),
        launched_at=datetime.fromisoformat(server["created"]),
        fault=fault,
        launch_index=_place(server, tags.get(TAG_LAUNCH, ""))[1],
        cause=cause_of(fault) if fault and state is InstanceState.ERROR else None,
    )


def _fault(server: Json) -> str | None:
    """Nova's message, or the one word there is."""
    if told := server.get("fault", {}).get("message"):
        return str(told).strip()
    if server["status"] == "ERROR":
        return "Nova shows it in ERROR and does not say why"
    return f"Nova shows it {server['status']}" if _STATES.get(server["status"]) is InstanceState.STOPPED else None


def _address(server: Json) -> str | None:
    """Its first fixed address, of version 4 where it has one."""
    each = [one for network in server.get("addresses", {}).values() for one in network]
    fixed = [one for one in each if one.get("OS-EXT-IPS:type", "fixed") == "fixed"]
    return next((str(one["addr"]) for one in sorted(fixed, key=lambda one: one["version"])), None)


def _impairment(server: Json) -> str | None:
    if server["status"] != "ACTIVE" or server.get("OS-EXT-STS:task_state"):
        return None
    if server.get("host_status") in ("DOWN", "UNKNOWN"):
        return "its host is down"
    return _LOST_GUEST.get(server.get("OS-EXT-STS:power_state", 1))


def _image(seen: Json) -> CatalogueItem:
    return CatalogueItem(seen["id"], seen.get("name") or seen["id"], f"at least {seen['min_disk']} GiB of disk")


def _size(seen: Json) -> CatalogueItem:
    detail = f"{seen['vcpus']} vCPU, {seen['ram'] / 1024:g} GiB, {seen['disk']} GiB of disk"
    return CatalogueItem(seen["id"], seen["name"], detail)


def _zone(seen: Json) -> CatalogueItem:
    return CatalogueItem(seen["zoneName"], seen["zoneName"], "available" if seen["zoneState"]["available"] else "down")
