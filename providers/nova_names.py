"""What people call an image, a flavor, a network or a group, and the one thing that Nova wants instead: its id.

Names need not be unique in OpenStack. One that stands for two things is refused, never guessed.
"""

from __future__ import annotations

import threading
import time
from urllib.parse import quote

from .base import Misconfigured
from .nova_api import Json, NovaApi

_KNOWN_FOR_S = 300  # a new image under an old name is taken after this
_PLURAL = {"network": "networks", "security group": "security_groups", "server group": "server_groups"}


class Names:
    """Ids by name, each looked up once and known for some minutes. Thread-safe."""

    def __init__(self, api: NovaApi) -> None:
        self._api = api
        self._known: dict[tuple[str, str], tuple[str, float]] = {}
        self._lock = threading.Lock()

    def id(self, kind: str, wanted: str) -> str:
        """The id of this image, flavor, network or server group. Misconfigured where there is none, or more than one."""
        now = time.monotonic()
        with self._lock:
            known, until = self._known.get((kind, wanted), ("", 0.0))
        if now < until:
            return known
        found = str(only(kind, wanted, find(self._api, kind, wanted))["id"])
        with self._lock:
            self._known[kind, wanted] = (found, now + _KNOWN_FOR_S)
        return found

    def forget(self) -> None:
        """Something that was known was refused: look it up again."""
        with self._lock:
            self._known.clear()


def only(kind: str, wanted: str, found: list[Json]) -> Json:
    """The one thing found, or Misconfigured with the fix."""
    if not found:
        raise Misconfigured(f"there is no {kind} {wanted!r} for this project: correct the pool's settings")
    if len(found) > 1:
        ids = ", ".join(sorted(str(each["id"]) for each in found))
        raise Misconfigured(f"{len(found)} {kind}s are named {wanted!r}: name one by its id ({ids})")
    return found[0]


def find(api: NovaApi, kind: str, wanted: str) -> list[Json]:
    """All things of a kind with this id or, if none has, with this name. Raises the SDK's errors."""
    match kind:
        case "image":
            return _image(api, wanted)
        case "flavor":
            return _either(list(api.paged("compute", "/flavors/detail", "flavors")), wanted)
        case "server group":
            return _either(api.get("compute", "/os-server-groups")["server_groups"], wanted)
    key = _PLURAL[kind]
    path = "/" + key.replace("_", "-")
    by_id: list[Json] = api.get("network", path, id=wanted)[key]
    return by_id or _either(api.get("network", path, name=wanted)[key], wanted)


def _either(all_: list[Json], wanted: str) -> list[Json]:
    return [each for each in all_ if each["id"] == wanted] or [each for each in all_ if each["name"] == wanted]


def _image(api: NovaApi, wanted: str) -> list[Json]:
    """A replaced image is often left deactivated under the same name: an active one is meant then."""
    from keystoneauth1.exceptions import NotFound

    try:
        return [api.get("image", f"/images/{quote(wanted, safe='')}")]
    except NotFound:
        named = list(api.paged("image", "/images", "images", name=wanted))
        return [each for each in named if each["status"] == "active"] or named
