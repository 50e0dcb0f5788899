"""A pool's launch template on EC2: which keys it may hold, and what they come to in EC2's own parameters. Makes no call."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .base import LaunchRequest, Misconfigured

ROOT = "root"  # in place of a device name: the image's own root volume, however the image calls it
ON_DEMAND_STRATEGIES = ("lowest-price", "prioritized")
SPOT_STRATEGIES = (
    "price-capacity-optimized",
    "capacity-optimized",
    "capacity-optimized-prioritized",
    "diversified",
    "lowest-price",
)
_VOLUME_TYPES = ("gp2", "gp3", "io1", "io2", "st1", "sc1", "standard")
_MOST_GIB = 65536


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_text, value))


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_size(value: object) -> bool:
    return _is_count(value, _MOST_GIB)


def _is_price(value: object) -> bool:
    """Dollars an hour, as a number or as text, which EC2 itself takes."""
    try:
        return isinstance(value, int | float | str) and not isinstance(value, bool) and 0 < float(value) < float("inf")
    except ValueError:
        return False


def _is_devices(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, Mapping) for each in value)


_Rules = Mapping[str, tuple[Callable[[object], bool], str]]

# key → (is it well-formed, what it should be).
TEMPLATE: _Rules = {
    "instance_types": (_is_texts, "a list of instance types"),
    "subnet_id": (_is_text, "the id of a subnet"),
    "subnet_ids": (_is_texts, "a list of subnet ids, best one in each zone"),
    "availability_zone": (_is_text, "the name of an availability zone"),
    "allocation_strategy": (
        lambda value: value in {*ON_DEMAND_STRATEGIES, *SPOT_STRATEGIES},
        f"for on-demand one of {', '.join(ON_DEMAND_STRATEGIES)}, for spot one of {', '.join(SPOT_STRATEGIES)}",
    ),
    "market": (lambda value: value in ("on-demand", "spot"), '"on-demand" or "spot"'),
    "max_price": (_is_price, "the most that a spot machine may cost, in dollars an hour"),
    "security_group_ids": (_is_texts, "a list of security group ids"),
    "key_name": (_is_text, "the name of a key pair"),
    "instance_profile": (_is_text, "the name or the ARN of an IAM instance profile"),
    "root_volume_gb": (_is_size, f"the size of the root volume in GiB, 1 to {_MOST_GIB}"),
    "block_devices": (_is_devices, "a list of volumes, each with a device"),
}
DEVICE: _Rules = {
    "device": (_is_text, f'a device name such as /dev/sdf, or "{ROOT}" for the image\'s root volume'),
    "size_gb": (_is_size, f"a size in GiB, 1 to {_MOST_GIB}"),
    "type": (lambda value: value in _VOLUME_TYPES, f"one of {', '.join(_VOLUME_TYPES)}"),
    "iops": (lambda value: _is_count(value, 256000), "a number of operations a second, 1 to 256000"),
    "throughput": (lambda value: _is_count(value, 2000), "a throughput in MiB a second, 1 to 2000 (gp3 only)"),
    "encrypted": (lambda value: isinstance(value, bool), "true or false"),
    "kms_key_id": (_is_text, "the id or the ARN of a KMS key"),
    "snapshot_id": (_is_text, "the id of a snapshot"),
}
_EBS = {
    "size_gb": "VolumeSize",
    "type": "VolumeType",
    "iops": "Iops",
    "throughput": "Throughput",
    "encrypted": "Encrypted",
    "kms_key_id": "KmsKeyId",
    "snapshot_id": "SnapshotId",
}


# -- checks --


def validate(template: Mapping[str, Any]) -> None:
    """Raise Misconfigured naming the key that is unknown, ill-formed, or at odds with another."""
    _check(template, TEMPLATE, "", "a setting of an EC2 pool")
    for number, device in enumerate(template.get("block_devices", ())):
        at = f"block_devices[{number}]"
        _check(device, DEVICE, f"{at}.", "a setting of a block device")
        if lacking := _lacking(device):
            raise Misconfigured(f"{at}.{lacking} of an EC2 pool is missing: give {DEVICE[lacking][1]}")
    _check_together(template)


def _check(given: Mapping[str, Any], rules: _Rules, prefix: str, what: str) -> None:
    for key, value in given.items():
        if key not in rules:
            raise Misconfigured(f"{prefix + key!r} is not {what}; there are {', '.join(sorted(rules))}")
        well_formed, wanted = rules[key]
        if not well_formed(value):
            raise Misconfigured(f"{prefix}{key} of an EC2 pool must be {wanted}, not {value!r}")


def _lacking(device: Mapping[str, Any]) -> str | None:
    """The key that a device needs for what else it says, and has not."""
    needs = {
        "device": True,
        "size_gb": device.get("device") != ROOT and "snapshot_id" not in device,
        "iops": device.get("type") in ("io1", "io2"),
        "encrypted": "kms_key_id" in device,
    }
    return next((key for key, needed in needs.items() if needed and not device.get(key)), None)


def _check_together(template: Mapping[str, Any]) -> None:
    """Each key is well-formed; together they may still make no sense."""
    spot = is_spot(template)
    strategies = SPOT_STRATEGIES if spot else ON_DEMAND_STRATEGIES
    devices = [each["device"] for each in template.get("block_devices", ())]
    if "root_volume_gb" in template:
        devices.append(ROOT)
    wrongs = {
        "max_price is for spot machines: add market: spot, or leave it out": "max_price" in template and not spot,
        f"allocation_strategy of this market must be one of {', '.join(strategies)}": (
            template.get("allocation_strategy", strategies[0]) not in strategies
        ),
        "subnet_id and subnet_ids: give one of them": "subnet_id" in template and "subnet_ids" in template,
        "subnet_ids name their zones: leave availability_zone out": (
            "subnet_ids" in template and "availability_zone" in template
        ),
        "block_devices name a device twice (root_volume_gb counts as root): leave one out": len(devices) > len({*devices}),
    }
    for told, wrong in wrongs.items():
        if wrong:
            raise Misconfigured(f"{told} (in the launch template of an EC2 pool)")


# -- where and what: a pool of machines, in EC2's words, is a type in a place --


def is_spot(template: Mapping[str, Any]) -> bool:
    return template.get("market") == "spot"


def types(instance_type: str, template: Mapping[str, Any]) -> list[str]:
    """The types EC2 may choose among. A job that names a type outside the pool's list gets just that type."""
    listed = list(dict.fromkeys(template.get("instance_types", ())))
    return listed if instance_type in listed else [instance_type]


def places(template: Mapping[str, Any]) -> list[dict[str, str]]:
    """Where a machine may start, in parameters that RunInstances (below Placement) and CreateFleet share."""
    subnets = template.get("subnet_ids") or ([template["subnet_id"]] if "subnet_id" in template else [])
    place = {"AvailabilityZone": template["availability_zone"]} if "availability_zone" in template else {}
    return [{"SubnetId": subnet, **place} for subnet in dict.fromkeys(subnets)] or [place]


def is_fleet(instance_type: str, template: Mapping[str, Any]) -> bool:
    """True where EC2 has a choice, which only CreateFleet gives it."""
    return len(types(instance_type, template)) * len(places(template)) > 1


# -- parameters --


def needs_root_device(template: Mapping[str, Any]) -> bool:
    """True when the name of the image's root device must be looked up for `machine`."""
    return "root_volume_gb" in template or any(each["device"] == ROOT for each in template.get("block_devices", ()))


def machine(request: LaunchRequest, tags: Mapping[str, str], root_device: str) -> dict[str, Any]:
    """What every machine of a launch has wherever it starts: RunInstances and a launch template's data both take it.

    Its volumes end with it, its shutdown ends it, and its metadata service asks for a token that one hop carries.
    """
    template: Mapping[str, Any] = request.template
    parameters: dict[str, Any] = {
        "ImageId": request.image,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "TagSpecifications": tagged(tags, "network-interface"),
    }
    if is_spot(template):  # EC2 refuses tags for spot requests where it makes none
        parameters["TagSpecifications"] += tagged(tags, "spot-instances-request")
    if "key_name" in template:
        parameters["KeyName"] = template["key_name"]
    if "security_group_ids" in template:
        parameters["SecurityGroupIds"] = list(template["security_group_ids"])
    if profile := template.get("instance_profile"):
        parameters["IamInstanceProfile"] = {"Arn" if profile.startswith("arn:") else "Name": profile}
    if devices := _devices(template, root_device):
        parameters["BlockDeviceMappings"] = devices
    return parameters


def run_instances(request: LaunchRequest, tags: Mapping[str, str], root_device: str) -> dict[str, Any]:
    """The parameters of the one RunInstances for a launch whose type and place are settled."""
    (instance_type,), (place,) = types(request.instance_type, request.template), places(request.template)
    parameters = machine(request, tags, root_device) | {
        "InstanceType": instance_type,
        "MinCount": 1,
        "MaxCount": request.count,
        "ClientToken": request.launch_id,
    }
    parameters["TagSpecifications"] += tagged(tags, "instance", "volume")
    if request.user_data:
        parameters["UserData"] = request.user_data
    if "SubnetId" in place:
        parameters["SubnetId"] = place["SubnetId"]
    if "AvailabilityZone" in place:
        parameters["Placement"] = {"AvailabilityZone": place["AvailabilityZone"]}
    if is_spot(request.template):
        options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate", **_price(request.template)}
        parameters["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
    return parameters


def template_data(request: LaunchRequest, tags: Mapping[str, str], root_device: str) -> dict[str, Any]:
    """The data of the launch template by which CreateFleet starts the same machines."""
    data = machine(request, tags, root_device)
    if request.user_data:
        data["UserData"] = base64.b64encode(request.user_data).decode()  # the SDK does it for RunInstances only
    return data


def create_fleet(request: LaunchRequest, tags: Mapping[str, str], template_name: str) -> dict[str, Any]:
    """The parameters of the one CreateFleet for a launch that has a choice of types or places.

    The fleet is `instant`: EC2 starts what it can at once, answers with it, and does nothing more.
    """
    template: Mapping[str, Any] = request.template
    spot = is_spot(template)
    strategy = template.get("allocation_strategy", (SPOT_STRATEGIES if spot else ON_DEMAND_STRATEGIES)[0])
    options: dict[str, Any] = {"AllocationStrategy": strategy}
    market = "spot" if spot else "on-demand"
    if spot:
        options["InstanceInterruptionBehavior"] = "terminate"
    choices: Sequence[dict[str, Any]] = [
        {"InstanceType": kind, **place, **_price(template)}
        for kind in types(request.instance_type, template)
        for place in places(template)
    ]
    if strategy.endswith("prioritized"):
        order = types(request.instance_type, template)
        choices = [choice | {"Priority": float(order.index(choice["InstanceType"]))} for choice in choices]
    specification = {"LaunchTemplateName": template_name, "Version": "1"}
    return {
        "Type": "instant",
        "ClientToken": request.launch_id,
        "LaunchTemplateConfigs": [{"LaunchTemplateSpecification": specification, "Overrides": choices}],
        "TargetCapacitySpecification": {"TotalTargetCapacity": request.count, "DefaultTargetCapacityType": market},
        "SpotOptions" if spot else "OnDemandOptions": options,
        "TagSpecifications": tagged(tags, "instance", "volume", "fleet"),
    }


def tagged(tags: Mapping[str, str], *kinds: str) -> list[dict[str, Any]]:
    """Tags as EC2 takes them for what it creates."""
    marks = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": kind, "Tags": marks} for kind in kinds]


def _price(template: Mapping[str, Any]) -> dict[str, str]:
    return {"MaxPrice": str(template["max_price"])} if "max_price" in template else {}


def _devices(template: Mapping[str, Any], root_device: str) -> list[dict[str, Any]]:
    """Every volume is deleted with its machine: one that outlived it would be paid for and belong to nobody."""
    wanted = list(template.get("block_devices", ()))
    if "root_volume_gb" in template:
        wanted.insert(0, {"device": ROOT, "size_gb": template["root_volume_gb"]})
    return [
        {
            "DeviceName": root_device if each["device"] == ROOT else each["device"],
            "Ebs": {_EBS[key]: value for key, value in each.items() if key in _EBS} | {"DeleteOnTermination": True},
        }
        for each in wanted
    ]
