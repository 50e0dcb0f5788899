"""What a pool's launch template may say, and what a launch's machines are called and carry."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..base import TAG_INSTALLATION, TAG_LAUNCH, LaunchRequest, Misconfigured

USER_DATA_LIMIT = 24576  # 32,768 characters of base64, which is what a form POST may have

_OURS = "elastic-orchestrator:"
_OTHER_TAG = f"{_OURS}tag:"  # a bare key could be one that means something to the hypervisor
DETAIL_INDEX = f"{_OURS}index"
DETAIL_REQUEST = f"{_OURS}request"
_NOT_TAGS = (DETAIL_INDEX, DETAIL_REQUEST)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def is_id(value: str) -> bool:
    """Whether this is one of CloudStack's ids, and no name that must be looked up."""
    return _UUID.fullmatch(value) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_text, value))


def _is_number(most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


# What a pool's launch template may hold: key → (is it well-formed, what it should be).
_TEMPLATE: dict[str, tuple[Callable[[object], bool], str]] = {
    "zone": (_is_text, "the name or the id of a zone"),
    "networks": (_is_texts, "a list of names or ids of networks, the default one first"),
    "security_groups": (_is_texts, "a list of names or ids of security groups"),
    "affinity_groups": (_is_texts, "a list of names or ids of affinity groups"),
    "key_name": (_is_text, "the name of an SSH key pair"),
    "root_disk_gb": (_is_number(65536), "the size of the root disk in GiB, 1 to 65536"),
    "cpu_number": (_is_number(1024), "the CPUs of a custom offering, 1 to 1024"),
    "cpu_speed_mhz": (_is_number(100_000), "the MHz of a custom offering's CPUs, 1 to 100000"),
    "memory_mb": (_is_number(67_108_864), "the MiB of a custom offering, 1 to 67108864"),
    "lease_days": (_is_number(36_500), "after how many days the cloud itself destroys a machine, 1 to 36500"),
}
SIZES = {"cpu_number": "cpuNumber", "cpu_speed_mhz": "cpuSpeed", "memory_mb": "memory"}  # as details of a deployment


def validate(template: Mapping[str, object]) -> None:
    """Misconfigured naming the key of a launch template that is unknown or ill-formed."""
    for key, value in template.items():
        if key not in _TEMPLATE:
            known = ", ".join(sorted(_TEMPLATE))
            raise Misconfigured(f"{key!r} is not a setting of a CloudStack pool; there are {known}")
        well_formed, wanted = _TEMPLATE[key]
        if not well_formed(value):
            raise Misconfigured(f"{key} of a CloudStack pool must be {wanted}, not {value!r}")


def prefix(installation: str) -> str:
    """What the names of all machines of this installation begin with: the cloud can look for it."""
    return f"eo-{_short(installation, 10)}-"


def prefix_of_launch(installation: str, launch_id: str) -> str:
    return f"{prefix(installation)}{_short(launch_id, 20)}-"


def machine_name(installation: str, launch_id: str, index: int) -> str:
    """The name that stands for the machine in this place of its launch: its idempotency key, and its host name. Letters,
    digits and hyphens, far below the 63 characters a host name may have."""
    return f"{prefix_of_launch(installation, launch_id)}{index}"


def digest(request: LaunchRequest) -> str:
    """Tells one request from another that was given the same launch id."""
    asked = [request.count, request.image, request.instance_type, sorted(request.tags.items()), request.template]
    settled = json.dumps(asked, sort_keys=True, default=list).encode() + request.user_data
    return hashlib.sha256(settled).hexdigest()[:32]


def details(request: LaunchRequest, installation: str, index: int) -> dict[str, str]:
    """The parameters that carry the tags: a machine cannot be tagged as it is deployed, and tagging it later would be one
    more thing to lose."""
    marks = {**_as_details(request.tags), **_as_details({TAG_INSTALLATION: installation, TAG_LAUNCH: request.launch_id})}
    marks |= {DETAIL_INDEX: str(index), DETAIL_REQUEST: digest(request)}
    marks |= {name: str(request.template[key]) for key, name in SIZES.items() if key in request.template}
    return {f"details[0].{key}": value for key, value in marks.items()}


def tags(row: Mapping[str, Any]) -> dict[str, str]:
    """The tags a machine was deployed with, from its row."""
    found = {}
    for key, value in (row.get("details") or {}).items():
        if key.startswith(_OURS) and key not in _NOT_TAGS:
            found[key.removeprefix(_OTHER_TAG)] = str(value)
    return found


def _as_details(marks: Mapping[str, str]) -> dict[str, str]:
    return {key if key.startswith(_OURS) else f"{_OTHER_TAG}{key}": value for key, value in marks.items()}


def _short(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
