"""What stands in the way of a Nova pool, in words that an operator can act on. Looks at everything, creates nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from .base import Finding, Misconfigured, Verdict
from .nova_api import Json, NovaApi
from .nova_names import find, only

_GIB = 1 << 30


def inspect(api: NovaApi, image: str, instance_type: str, template: Mapping[str, Any]) -> list[Finding]:
    """A finding for each thing that a launch needs. Raises the SDK's errors where the cloud cannot be asked at all."""
    found, missing = {}, []
    for kind, wanted in (("image", image), ("flavor", instance_type)):
        try:
            found[kind] = only(kind, wanted, find(api, kind, wanted))
        except Misconfigured as error:
            missing.append(_wrong(kind, str(error)))
    version = ".".join(map(str, api.microversion))
    return [
        Finding("credentials", Verdict.OK, f"they are accepted; Nova is spoken to in micro-version {version}"),
        *missing,
        *(_of_image(found["image"]) if "image" in found else ()),
        *(_of_flavor(found["flavor"], found.get("image"), template) if "flavor" in found else ()),
        *_of_networks(api, template),
        *_of_groups(api, template),
        *_of_key(api, template),
        *_of_zone(api, template),
        *(_of_quota(api, found["flavor"]) if "flavor" in found else ()),
    ]


def _of_image(image: Json) -> Iterator[Finding]:
    if image["status"] == "active":
        yield Finding("image", Verdict.OK, f"{_named(image)} is active")
    else:
        yield _wrong("image", f"{_named(image)} is {image['status']}: name an active one, or have it reactivated")


def _of_flavor(flavor: Json, image: Json | None, template: Mapping[str, Any]) -> Iterator[Finding]:
    """Nova checks the disk against the image's `min_disk` and its unpacked size, the memory against `min_ram`."""
    volume_gb = template.get("boot_volume_gb")
    disk_gb = volume_gb or flavor["disk"]
    of_disk = "boot_volume_gb is" if volume_gb else f"the flavor {flavor['name']} has a disk of"
    if flavor.get("OS-FLV-DISABLED:disabled"):
        yield _wrong("flavor", f"{_named(flavor)} is disabled: choose another instance_type")
    elif not disk_gb:
        yield _wrong("flavor", f"{_named(flavor)} has no disk: set boot_volume_gb, or choose a flavor with a disk")
    elif image and disk_gb < (needed := max(image["min_disk"], -(-(image.get("virtual_size") or 0) // _GIB))):
        fix = "raise boot_volume_gb" if volume_gb else "choose a larger flavor, or set boot_volume_gb"
        yield _wrong("flavor", f"{of_disk} {disk_gb} GiB and the image {image['name']} needs {needed} GiB: {fix}")
    elif image and flavor["ram"] < image["min_ram"]:
        told = (
            f"{_named(flavor)} has {flavor['ram']} MiB of memory and the image {image['name']} needs {image['min_ram']} MiB"
        )
        yield _wrong("flavor", f"{told}: choose a larger flavor")
    else:
        yield Finding("flavor", Verdict.OK, f"{_named(flavor)}: {flavor['vcpus']} vCPU, {flavor['ram']} MiB, {disk_gb} GiB")


def _of_networks(api: NovaApi, template: Mapping[str, Any]) -> Iterator[Finding]:
    if wanted := template.get("networks"):
        for each in wanted:
            yield from _there(api, "network", each, _network)
        return
    networks = [each for each in api.get("network", "/networks")["networks"] if not each.get("router:external")]
    if len(networks) == 1:
        yield _network(networks[0])
    elif networks:
        names = ", ".join(sorted(each["name"] for each in networks))
        yield _wrong("network", f"the project sees {len(networks)} networks ({names}): name one in networks")
    else:
        yield _wrong("network", "the project has no network: create one with a subnet, and name it in networks")


def _network(network: Json) -> Finding:
    if not network["admin_state_up"]:
        return _wrong("network", f"{_named(network)} is switched off: have it set up again, or name another")
    if not network["subnets"]:
        return _wrong("network", f"{_named(network)} has no subnet, so servers get no address: create one")
    return Finding("network", Verdict.OK, f"{_named(network)} is there")


def _of_groups(api: NovaApi, template: Mapping[str, Any]) -> Iterator[Finding]:
    for each in template.get("security_groups", ()):
        yield from _there(api, "security group", each, lambda group: _ok("security group", group))
    if wanted := template.get("server_group"):
        yield from _there(api, "server group", wanted, lambda group: _ok("server group", group))


def _of_key(api: NovaApi, template: Mapping[str, Any]) -> Iterator[Finding]:
    from keystoneauth1.exceptions import NotFound

    if name := template.get("key_name"):
        try:
            api.get("compute", f"/os-keypairs/{quote(name, safe='')}")
        except NotFound:
            yield _wrong("key", f"the user of these credentials has no key pair {name!r}: import it as this user")
        else:
            yield Finding("key", Verdict.OK, f"{name} is there")


def _of_zone(api: NovaApi, template: Mapping[str, Any]) -> Iterator[Finding]:
    if name := template.get("availability_zone"):
        zones = api.get("compute", "/os-availability-zone")["availabilityZoneInfo"]
        up = {zone["zoneName"]: zone["zoneState"]["available"] for zone in zones}
        if name not in up:
            yield _wrong("zone", f"there is no availability zone {name!r}; there are {', '.join(sorted(up)) or 'none'}")
        elif not up[name]:
            yield Finding("zone", Verdict.WARNING, f"no host of {name} is up now: name another, or wait for the operators")
        else:
            yield Finding("zone", Verdict.OK, f"{name} is up")


def _of_quota(api: NovaApi, flavor: Json) -> Iterator[Finding]:
    """How many more of this flavor the project may have. None left is no fault of the settings: ours may fill it."""
    limits = api.get("compute", "/limits")["limits"]["absolute"]
    left = {
        "instances": (limits["maxTotalInstances"], limits["totalInstancesUsed"], 1),
        "cores": (limits["maxTotalCores"], limits["totalCoresUsed"], flavor["vcpus"]),
        "memory": (limits["maxTotalRAMSize"], limits["totalRAMUsed"], flavor["ram"]),
    }
    rooms = {what: max(0, most - used) // each for what, (most, used, each) in left.items() if most >= 0 and each}
    if not rooms:
        yield Finding("quota", Verdict.OK, "the project has no limit of instances, cores or memory")
        return
    what = min(rooms, key=lambda each: rooms[each])
    most, used, _ = left[what]
    told = f"room for {rooms[what]} more of {flavor['name']}; the project uses {used} of {most} {what}"
    if rooms[what]:
        yield Finding("quota", Verdict.OK, told)
    else:
        yield Finding("quota", Verdict.WARNING, f"{told}: have the quota raised, or end what is not needed")


def _there(api: NovaApi, kind: str, wanted: str, judge: Callable[[Json], Finding]) -> Iterator[Finding]:
    try:
        yield judge(only(kind, wanted, find(api, kind, wanted)))
    except Misconfigured as error:
        yield _wrong(kind, str(error))


def _named(thing: Json) -> str:
    return f"{thing['name']} ({thing['id']})"


def _ok(subject: str, thing: Json) -> Finding:
    return Finding(subject, Verdict.OK, f"{_named(thing)} is there")


def _wrong(subject: str, told: str) -> Finding:
    return Finding(subject, Verdict.WRONG, told)
