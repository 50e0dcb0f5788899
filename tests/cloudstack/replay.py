"""Recorded exchanges of a real server, asked again of the server of these tests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from managementserver import ADMIN, USER, Server
from managementserver.auth import signature
from managementserver.cloud import Account, Machine
from managementserver.commands import OFFERINGS

if TYPE_CHECKING:
    from conftest import MovableClock

Exchange = dict[str, Any]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What differs from server to server and from call to call: ids, numbers, times, addresses, keys.
_MASKS = [
    (re.compile(r"SimulatedAgent\.[\w-]+"), "<host>"),
    (_UUID, "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+0000"), "<time>"),
    (re.compile(r"\b10\.1\.1\.\d+|\b10\.1\.\d\.\d+"), "<address>"),
    (re.compile(r"02:01:00:cc:\w\w:\w\w"), "<mac>"),
    (re.compile(r"vlan://\d+"), "<vlan>"),
    (re.compile(r"\bi-\d-\d+-VM"), "<instance>"),
    (re.compile(r'(?<="id":)\d+|(?<=id \[)\d+|(?<=job id=)\d+|(?<=after \[)\d+'), "<number>"),
    (re.compile(r"ssh-rsa <….*?>|<… \d+ characters>|<private>"), "<key>"),
    (re.compile(r"<\d+ characters: .*?>|eHh4[eHh4]+"), "<user data>"),
    (re.compile(r"\w\w(:\w\w){15}"), "<fingerprint>"),
    (re.compile(r"<a × 255>|a{255}"), "<long>"),
]
# Shown or not by chance: what the simulator's agent has told by then, and network cards where little detail is asked for.
_STATISTICS = "cpuused diskioread diskiowrite diskkbsread diskkbswrite networkkbsread networkkbswrite"
_MEMORY = "memoryintfreekbs memorykbs memorytargetkbs"
_BY_CHANCE = ("bootmode", "boottype", *_STATISTICS.split(), *_MEMORY.split())
_POLLED = ("listVirtualMachines", "queryAsyncJobResult")


def read(path: Path) -> list[Exchange]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@dataclass
class Player:
    """Sends what was sent then, and tells where the answer differs from the one of then."""

    server: Server
    clock: MovableClock
    ids: dict[str, str] = field(default_factory=dict)

    def play(self, exchange: Exchange) -> str | None:
        """None where the answers agree. What is polled may take a while to get there: time goes on meanwhile."""
        differences = []
        for _ in range(120 if exchange["params"].get("command") in _POLLED else 1):
            differences.append(self._difference(exchange, *self._send(exchange)))
            if differences[-1] is None:
                return None
            self.clock.move(0.25)
        return differences[0]

    def together(self, exchanges: list[Exchange]) -> list[str | None]:
        """What was sent at one moment, sent so again."""
        barrier = Barrier(len(exchanges))
        self.server.commands.gate = lambda: barrier.wait(10) and None
        with ThreadPoolExecutor(len(exchanges)) as pool:
            differences = list(pool.map(self.play, exchanges))
        self.server.commands.gate = lambda: None
        return differences

    # -- sending --

    def _send(self, exchange: Exchange) -> tuple[int, str, str]:
        account = ADMIN if exchange["user"] == "admin" else USER
        form = self._form(exchange, account)
        note, path, headers, encoded = exchange["note"], "/client/api", {}, urlencode(form)
        if "plus sign of expires" in note:
            encoded = encoded.replace(quote(form["expires"], safe=""), form["expires"].replace(":", "%3A"))
        if "wrong path" in note:
            path = "/client/apix"
        elif "outside the context" in note:
            path = "/nowhere"
        elif "a header over" in note:
            headers["X-Long"] = "a" * 9000
        body: str | None = None
        if exchange["method"] == "GET" or "in the query" in note or exchange["method"] == "PUT":
            path += "?" + encoded
        elif "JSON body" in note:
            headers["Content-Type"], body = "application/json", json.dumps(form)
        else:
            body = encoded
            if "without Content-Type" not in note:
                headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = HTTPConnection(urlsplit(self.server.url).netloc, timeout=10)
        connection.request(exchange["method"], path, body, headers)
        reply = connection.getresponse()
        answer = reply.status, reply.headers.get("Content-Type", ""), reply.read().decode()
        connection.close()
        return answer

    def _form(self, exchange: Exchange, account: Account) -> dict[str, str]:
        recorded = exchange["params"]
        form = {name: self._value(value) for name, value in recorded.items()}
        if "apiKey" in form:
            form["apiKey"] = "unknown" if "unknown apiKey" in exchange["note"] else account.api_key
        if "expires" in form:
            form["expires"] = (self.clock() + _lifetime(exchange["note"])).strftime("%Y-%m-%dT%H:%M:%S+0000")
        if "signature" in form:
            form["signature"] = "wrong" if "bad signature" in exchange["note"] else signature(form, account.secret_key)
        return form

    def _value(self, value: str) -> str:
        if long := re.fullmatch(r"<a × (\d+)>", value):
            return "a" * int(long[1])
        if long := re.fullmatch(r"<(\d+) characters: .*>", value):
            return "eHh4" * (int(long[1]) // 4)
        return _UUID.sub(lambda found: self.ids.get(found[0], found[0]), value)

    # -- comparing --

    def _difference(self, exchange: Exchange, status: int, content_type: str, body: str) -> str | None:
        if (status, content_type) != (exchange["status"], exchange["content_type"]):
            return f"{status} {content_type}, it was {exchange['status']} {exchange['content_type']}: {body[:300]}"
        if not isinstance(exchange["body"], dict):
            return _text_differs(exchange["body"], body)
        ours = json.loads(body)
        self._learn(exchange["body"], ours)
        by_chance = {*_BY_CHANCE, *(("nic", "ipaddress") if exchange["params"].get("details") == "min" else ())}
        return _differ(exchange["body"], ours, by_chance, "")

    def _learn(self, recorded: Any, ours: Any) -> None:
        """Which of our ids stands for which of theirs."""
        for content, mine in zip(recorded.values(), ours.values(), strict=False):
            for key in ("id", "jobid"):
                if "command" not in content and key in content and key in mine and len(content) <= 2:
                    self.ids[content[key]] = mine[key]


def _lifetime(note: str) -> timedelta:
    if "five minutes ago" in note:
        return timedelta(minutes=-5)
    if "ten hours" in note:
        return timedelta(hours=10)
    return timedelta(minutes=20 if "20 minutes" in note else 10)


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        for pattern, mask in _MASKS:
            value = pattern.sub(mask, value)
    return value


def _differ(recorded: Any, ours: Any, by_chance: set[str], where: str) -> str | None:
    """The first place where two answers are not the same, but for what is masked or shown by chance."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        if odd := (set(recorded) ^ set(ours)) - by_chance:
            return f"{where}: {sorted(odd & set(recorded))} missing, {sorted(odd & set(ours))} too many"
        parts: Iterator[str | None] = (
            _differ(value, ours[key], by_chance, f"{where}.{key}")
            for key, value in recorded.items()
            if key in ours and key not in by_chance
        )
    elif isinstance(recorded, list) and isinstance(ours, list):
        if len(recorded) != len(ours):
            return f"{where}: {len(ours)} entries, there were {len(recorded)}"
        pairs = zip(_in_order(recorded), _in_order(ours), strict=True)
        parts = (_differ(theirs, mine, by_chance, f"{where}[{i}]") for i, (theirs, mine) in enumerate(pairs))
    else:
        return None if _masked(recorded) == _masked(ours) else f"{where}: {ours!r}, it was {recorded!r}"
    return next((part for part in parts if part), None)


def _in_order(entries: list[Any]) -> list[Any]:
    """Tags come in any order."""
    return (
        sorted(entries, key=lambda each: each["key"])
        if entries and isinstance(entries[0], dict) and "key" in entries[0]
        else entries
    )


def _text_differs(recorded: str, ours: str) -> str | None:
    """XML and HTML: the same elements in the same order; of Jetty's longest page only the first rows."""
    tags = re.compile(r"</?[\w]+|[^<>]*(?:reason|errortext|MESSAGE)[^<>]*")
    theirs, mine = tags.findall(_masked(recorded)), tags.findall(_masked(ours))
    length = 24 if "CAUSED BY" in recorded else max(len(theirs), len(mine))
    return None if theirs[:length] == mine[:length] else f"{ours[:400]!r}, it was {recorded[:400]!r}"


# -- what was done between the exchanges that were kept --


def _machine(player: Player, id_: str, name: str, state: str = "Running", owner: Account = USER) -> Machine:
    cloud = player.server.cloud
    small = next(each for each in OFFERINGS.values() if each["name"] == "Small Instance")
    number = cloud.new_number()
    made = Machine(
        id_, name, name, owner, small, cloud.now(), number, f"10.1.1.{number % 250}", details={"deployvm": "true"}
    )
    cloud.machines[id_] = made
    if state == "Running":
        cloud.move(made, "Running")
    return made


def _clear(player: Player) -> None:
    """Every scenario ended with an empty account."""
    player.clock.move(100)
    player.server.cloud.catch_up()
    for machine in player.server.cloud.machines.values():
        machine.state = "Gone"
        machine.jobs.clear()


def _five_machines(player: Player) -> None:
    _clear(player)
    ids = [
        "9dad1959-0abb-4fea-999b-df1a01d82b94",
        "121f10c8-ad81-46a7-be76-b63b4ea6f545",
        "",
        "81caf789-f959-491d-84c5-57e8877e9e62",
        "4fd990fc-fb68-41ec-a08a-3a39e30ae4a4",
    ]
    for i, id_ in enumerate(ids):
        made = _machine(player, id_ or player.server.cloud.new_id(), f"web-{i}", "Running" if i < 2 else "Stopped")
        made.group, made.group_id = ("g2" if i == 0 else "g1"), made.id


def _set(name: str, value: Any) -> Callable[[Player], None]:
    return lambda player: setattr(player.server.cloud.settings, name, value)


def _limits(**limits: int) -> Callable[[Player], None]:
    return lambda player: player.server.cloud.limits.update(limits)


def _network(id_: str, owner: Account) -> Callable[[Player], None]:
    return lambda player: player.server.cloud.networks.update({id_: owner})


def _slow_start(player: Player) -> None:
    _clear(player)
    player.server.cloud.times.start = 7


def _two_machines(player: Player) -> None:
    _clear(player)
    player.server.cloud.times.start = 2
    for i in range(2):
        _machine(player, player.server.cloud.new_id(), f"lim-{i}")


def _no_limits(player: Player) -> None:
    _clear(player)
    player.server.cloud.limits.clear()


def _broken(player: Player) -> None:
    _clear(player)
    player.server.cloud.broken_hypervisor = True


def _kept(player: Player) -> None:
    _clear(player)
    player.server.cloud.broken_hypervisor = False
    _machine(player, "1dd56f8e-b966-4d17-91a3-2cdad7038fd7", "keep")
    _machine(player, "55d5d631-7927-4cdb-b75f-58064b0fb69e", "theirs", owner=ADMIN)


def _expunged(player: Player) -> None:
    player.server.cloud.machines["6dec2c5f-f1ab-47fe-8e36-6a7e7a4c6d30"].state = "Gone"


def _tagged(player: Player) -> None:
    player.server.cloud.machines["121f10c8-ad81-46a7-be76-b63b4ea6f545"].tags |= {"pool": "p1", "long": "a" * 255}


def _throttled(player: Player) -> None:
    _set("enforce_post", False)(player)
    _set("throttle", 25)(player)


def _spent(player: Player) -> None:
    player.server.cloud.issued[USER.id] = (player.clock(), 25)


SECOND_NETWORK = "0d5c7d2a-7d0e-4f3f-9a52-2b1b8f1f0a11"
BETWEEN: dict[tuple[str, int], Callable[[Player], None]] = {
    ("keypairs", 1): _clear,
    ("customid", 4): _expunged,
    ("bad-parameters", 7): _network(SECOND_NETWORK, USER),
    ("bad-parameters", 8): _network("e7654112-34c1-4224-9cce-cf65c0469754", ADMIN),
    ("listing", 1): _five_machines,
    ("tags", 14): _tagged,
    ("destroy-expunge", 13): _set("user_may_expunge", True),
    ("destroy-while-starting", 1): _slow_start,
    ("limit-reached", 1): _two_machines,
    ("limit-reached", 4): _limits(user_vm=99, cpu=2),
    ("no-capacity", 1): _no_limits,
    ("start-failure", 1): _broken,
    ("jobs", 1): _kept,
    ("userdata", 1): _clear,
    ("enforced-post", 1): _set("enforce_post", True),
    ("throttling", 1): _throttled,
    ("throttling", 2): _spent,
}
