"""A pool's launch template for Nova: what it may hold, and what of the request to create servers it becomes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from .base import LaunchRequest, Misconfigured
from .nova_api import Json
from .nova_names import Names


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 255


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_text, value))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65536


# What a pool's launch template may hold: key → (is it well-formed, what it should be).
_TEMPLATE: dict[str, tuple[Callable[[object], bool], str]] = {
    "networks": (_is_texts, "a list of names or ids of networks"),
    "security_groups": (_is_texts, "a list of names or ids of security groups"),
    "key_name": (_is_text, "the name of a key pair"),
    "availability_zone": (_is_text, "the name of an availability zone"),
    "server_group": (_is_text, "the name or the id of a server group"),
    "config_drive": (lambda value: isinstance(value, bool), "true or false"),
    "boot_volume_gb": (_is_size, "the size of the volume to boot from in GiB, 1 to 65536"),
    "boot_volume_type": (_is_text, "the name of a volume type"),
    "delete_on_termination": (lambda value: value is True, "true: a volume that outlives its server is never found again"),
}
_OF_THE_VOLUME = ("boot_volume_type", "delete_on_termination")
_VOLUME_TYPE_SINCE = (2, 67)


def validate(template: Mapping[str, object]) -> None:
    """Misconfigured naming the key of a launch template that is unknown or ill-formed. Makes no call."""
    for key, value in template.items():
        if key not in _TEMPLATE:
            raise Misconfigured(f"{key!r} is not a setting of a Nova pool; there are {', '.join(sorted(_TEMPLATE))}")
        well_formed, wanted = _TEMPLATE[key]
        if not well_formed(value):
            raise Misconfigured(f"{key} of a Nova pool must be {wanted}, not {value!r}")
        if key in _OF_THE_VOLUME and "boot_volume_gb" not in template:
            raise Misconfigured(f"{key} of a Nova pool says something of a volume: set boot_volume_gb too, or leave it out")


def body(request: LaunchRequest, names: Names, microversion: tuple[int, int]) -> Json:
    """The request to create this launch's servers, but for their names, number and metadata. May look up ids."""
    template: Mapping[str, Any] = request.template
    server: Json = {
        "flavorRef": names.id("flavor", request.instance_type),
        # "auto" is the project's only network; Nova refuses it where there are several.
        "networks": [{"uuid": names.id("network", each)} for each in template.get("networks", ())] or "auto",
        **{key: template[key] for key in ("key_name", "availability_zone", "config_drive") if key in template},
        **_disk(names.id("image", request.image), template, microversion),
    }
    if request.user_data:
        server["user_data"] = base64.b64encode(request.user_data).decode("ascii")
    if groups := template.get("security_groups"):
        server["security_groups"] = [{"name": each} for each in groups]
    wanted: Json = {"server": server}
    if group := template.get("server_group"):
        wanted["os:scheduler_hints"] = {"group": names.id("server group", group)}
    return wanted


def _disk(image: str, template: Mapping[str, Any], microversion: tuple[int, int]) -> Json:
    """The flavor's own disk, or a volume made from the image that goes with the server."""
    if "boot_volume_gb" not in template:
        return {"imageRef": image}
    volume: Json = {
        "boot_index": 0,
        "uuid": image,
        "source_type": "image",
        "destination_type": "volume",
        "volume_size": template["boot_volume_gb"],
        "delete_on_termination": True,
    }
    if kind := template.get("boot_volume_type"):
        if microversion < _VOLUME_TYPE_SINCE:
            raise Misconfigured("this Nova cannot choose the type of a boot volume (2.67 can): leave boot_volume_type out")
        volume["volume_type"] = kind
    return {"block_device_mapping_v2": [volume]}
