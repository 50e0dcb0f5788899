"""Amazon EC2, and what speaks its language.

One call a verb: a launch is one RunInstances for all its machines, its `ClientToken` the launch id; the listing is
filtered by the cloud and checked again here. The SDK is imported when a provider is made: it costs over half a second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .base import (
    TAG_INSTALLATION,
    TAG_LAUNCH,
    TAG_POOL,
    CatalogueItem,
    Finding,
    Instance,
    InstanceState,
    LaunchRequest,
    Misconfigured,
    OutcomeUnknown,
)
from .ec2_errors import translate

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import FilterTypeDef, ImageTypeDef, InstanceTypeDef, InstanceTypeInfoTypeDef

_STATES = {
    "pending": InstanceState.PENDING,
    "running": InstanceState.RUNNING,
    "stopping": InstanceState.STOPPING,
    "stopped": InstanceState.STOPPED,
    "shutting-down": InstanceState.ENDING,
    "terminated": InstanceState.ENDED,
}
_TOKEN = re.compile(r"[\x21-\x7e]{1,64}")
_PAGE = 1000
_BATCH = 500  # ids in one TerminateInstances; EC2 advises to keep below a thousand
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_text, value))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65536


# What a pool's launch template may hold: key → (is it well-formed, what it should be).
_TEMPLATE: dict[str, tuple[Callable[[object], bool], str]] = {
    "subnet_id": (_is_text, "the id of a subnet"),
    "security_group_ids": (_is_texts, "a list of security group ids"),
    "key_name": (_is_text, "the name of a key pair"),
    "instance_profile": (_is_text, "the name or the ARN of an IAM instance profile"),
    "availability_zone": (_is_text, "the name of an availability zone"),
    "root_volume_gb": (_is_size, "the size of the root volume in GiB, 1 to 65536"),
    "market": (lambda value: value in ("on-demand", "spot"), '"on-demand" or "spot"'),
}


class Ec2Provider:
    """One account in one region. Thread-safe; keeps nothing but the root device names of images it has looked up.

    Without explicit keys (they are for the local cloud) the SDK finds credentials in its own usual places: variables,
    profile, instance role. Raises Misconfigured or Unauthorised when region or profile do not exist.
    """

    user_data_limit = 16384
    rents = True

    def __init__(
        self,
        *,
        installation: str,
        region: str = "us-east-1",
        profile: str | None = None,
        endpoint_url: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        timeout_s: float = 20,
    ) -> None:
        import boto3
        import botocore.session
        from botocore.config import Config

        self._installation = installation
        self._root_devices: dict[str, str] = {}
        config = Config(
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            retries={"total_max_attempts": 1},  # when to try again is decided above, where the intent is known
            max_pool_connections=16,
            proxies={} if endpoint_url and urlsplit(endpoint_url).hostname in _LOOPBACK else None,
        )
        with _translated("connect"):
            core = botocore.session.get_session()
            core.register_component("data_loader", _descriptions())
            session = boto3.session.Session(profile_name=profile, region_name=region, botocore_session=core)
            self._ec2: EC2Client = session.client(
                "ec2",
                endpoint_url=endpoint_url,
                aws_access_key_id=access_key_id,
                aws_secret_access_key=secret_access_key,
                config=config,
            )

    # -- the contract --

    def validate(self, template: Mapping[str, object]) -> None:
        """Misconfigured naming the key of a launch template that is unknown or ill-formed. Makes no call."""
        for key, value in template.items():
            if key not in _TEMPLATE:
                raise Misconfigured(f"{key!r} is not a setting of an EC2 pool; there are {', '.join(sorted(_TEMPLATE))}")
            well_formed, wanted = _TEMPLATE[key]
            if not well_formed(value):
                raise Misconfigured(f"{key} of an EC2 pool must be {wanted}, not {value!r}")

    def check(self) -> None:
        """One small listing: it needs the region, the credentials and the right that every tick needs."""
        with _translated("list instances"):
            self._ec2.describe_instances(Filters=self._ours(), MaxResults=5)

    def inspect(self, image: str, instance_type: str, template: Mapping[str, object]) -> list[Finding]:  # noqa: ARG002
        return []

    def impaired(self) -> Mapping[str, str]:
        return {}

    def launch(self, request: LaunchRequest) -> list[Instance]:
        """One RunInstances for up to `count` machines. Too large user data are refused here, before any call."""
        from botocore.exceptions import ClientError

        self._refuse_unlaunchable(request)
        tags = self._tags(request)
        with _translated(f"look up the image {request.image}"):
            asked = self._run_instances(request, tags)
        with _translated(f"launch {request.count} of {request.instance_type}", launching=True):
            try:
                reply = self._ec2.run_instances(**asked)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "IdempotentInstanceTerminated":
                    raise
                return self._launched_before(request.launch_id)
        return [replace(_instance(each), tags=tags) for each in reply["Instances"]]

    def instances(self) -> list[Instance]:
        """Every page of what bears our tag, looked at again here: a filter that was ignored must cost no stranger."""
        with _translated("list instances"):
            return self._listed(self._ours())

    def terminate(self, ids: Iterable[str]) -> None:
        """In batches; EC2 refuses a whole batch for one id it does not know, which is then found and left out."""
        wanted = list(dict.fromkeys(ids))
        with _translated("terminate instances"):
            for start in range(0, len(wanted), _BATCH):
                self._terminate(wanted[start : start + _BATCH])

    def console(self, instance_id: str) -> str:
        """The last 64 KiB of the boot log, which EC2 shows some minutes after the boot; "" before, or when absent."""
        from botocore.exceptions import ClientError

        with _translated("read the console"):
            try:
                return self._ec2.get_console_output(InstanceId=instance_id).get("Output", "")
            except ClientError as error:
                if _is_absent(error):
                    return ""
                raise

    def catalogue(self, kind: str) -> list[CatalogueItem]:
        """`images` of this account, `sizes` offered in this region, its zones as `locations`."""
        with _translated(f"list {kind}"):
            match kind:
                case "images":
                    images = self._ec2.get_paginator("describe_images").paginate(Owners=["self"])
                    return [_image(each) for page in images for each in page["Images"]]
                case "sizes":
                    sizes = self._ec2.get_paginator("describe_instance_types").paginate()
                    return [_size(each) for page in sizes for each in page["InstanceTypes"]]
                case "locations":
                    zones = self._ec2.describe_availability_zones()["AvailabilityZones"]
                    return [CatalogueItem(zone["ZoneName"], zone["ZoneName"], zone.get("State", "")) for zone in zones]
        raise Misconfigured(f"there is no catalogue of {kind!r}; ask for images, sizes or locations")

    # -- how --

    def _refuse_unlaunchable(self, request: LaunchRequest) -> None:
        size = len(request.user_data)
        if size > self.user_data_limit:
            raise Misconfigured(
                f"the user data have {size} bytes, EC2 takes {self.user_data_limit}: shorten the pool's own additions, "
                "or let the machine fetch them at boot"
            )
        if not _TOKEN.fullmatch(request.launch_id):
            raise Misconfigured(f"the launch id {request.launch_id!r} must be 1 to 64 printable ASCII characters")

    def _tags(self, request: LaunchRequest) -> dict[str, str]:
        """Those asked for, and those without which the machine would not be found again."""
        name = f"elastic-orchestrator {request.tags.get(TAG_POOL, '')}".strip()
        return {
            "Name": name,
            **request.tags,
            TAG_INSTALLATION: self._installation,
            TAG_LAUNCH: request.launch_id,
        }

    def _run_instances(self, request: LaunchRequest, tags: Mapping[str, str]) -> dict[str, Any]:
        """The parameters of the one call; may look up the image's root device first."""
        marks = [{"Key": key, "Value": value} for key, value in tags.items()]
        return {
            "ImageId": request.image,
            "InstanceType": request.instance_type,
            "MinCount": 1,
            "MaxCount": request.count,
            "ClientToken": request.launch_id,
            "TagSpecifications": [{"ResourceType": kind, "Tags": marks} for kind in ("instance", "volume")],
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            **({"UserData": request.user_data} if request.user_data else {}),
            **self._placed(request.image, request.template),
        }

    def _placed(self, image: str, template: Mapping[str, Any]) -> dict[str, Any]:
        placed: dict[str, Any] = {}
        for key, name in {
            "subnet_id": "SubnetId",
            "security_group_ids": "SecurityGroupIds",
            "key_name": "KeyName",
        }.items():
            if key in template:
                placed[name] = template[key]
        if profile := template.get("instance_profile"):
            placed["IamInstanceProfile"] = {"Arn" if profile.startswith("arn:") else "Name": profile}
        if zone := template.get("availability_zone"):
            placed["Placement"] = {"AvailabilityZone": zone}
        if template.get("market") == "spot":
            placed["InstanceMarketOptions"] = {"MarketType": "spot"}
        if size := template.get("root_volume_gb"):
            volume = {"VolumeSize": size, "DeleteOnTermination": True}
            placed["BlockDeviceMappings"] = [{"DeviceName": self._root_device(image), "Ebs": volume}]
        return placed

    def _root_device(self, image: str) -> str:
        if image not in self._root_devices:
            found = self._ec2.describe_images(ImageIds=[image])["Images"]
            if not found:
                raise Misconfigured(f"the image {image} does not exist in this region: correct the pool's image")
            self._root_devices[image] = found[0].get("RootDeviceName", "/dev/xvda")
        return self._root_devices[image]

    def _launched_before(self, launch_id: str) -> list[Instance]:
        """The machines of a launch some of which have ended; EC2 then no longer repeats its first answer."""
        for name in ("client-token", f"tag:{TAG_LAUNCH}"):
            if found := self._listed([*self._ours(), {"Name": name, "Values": [launch_id]}]):
                return found
        raise OutcomeUnknown(
            f"the machines of launch {launch_id} have ended and EC2 shows them no longer; launch under another id"
        )

    def _ours(self) -> list[FilterTypeDef]:
        return [{"Name": f"tag:{TAG_INSTALLATION}", "Values": [self._installation]}]

    def _listed(self, filters: Sequence[FilterTypeDef]) -> list[Instance]:
        pages = self._ec2.get_paginator("describe_instances").paginate(
            Filters=filters, PaginationConfig={"PageSize": _PAGE}
        )
        found = [
            _instance(each)
            for page in pages
            for reservation in page["Reservations"]
            for each in reservation.get("Instances", [])
        ]
        return [instance for instance in found if instance.tags.get(TAG_INSTALLATION) == self._installation]

    def _terminate(self, ids: list[str]) -> None:
        """End one batch. An id that EC2 does not know is found by halving: each call says only that there is one."""
        from botocore.exceptions import ClientError

        try:
            self._ec2.terminate_instances(InstanceIds=ids)
        except ClientError as error:
            if not _is_absent(error):
                raise
            half = len(ids) // 2
            if half:
                self._terminate(ids[:half])
                self._terminate(ids[half:])


@cache
def _descriptions() -> Any:
    """The SDK's descriptions of its services, read once for all providers: EC2's alone takes 23 MB and 0.2 s."""
    from botocore.loaders import create_loader

    return create_loader()


@contextmanager
def _translated(doing: str, *, launching: bool = False) -> Iterator[None]:
    """The SDK's errors as ours."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (BotoCoreError, ClientError, ResponseParserError) as error:
        raise translate(error, doing, launching=launching) from error


def _is_absent(error: Any) -> bool:
    return error.response.get("Error", {}).get("Code") in ("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed")


def _instance(seen: InstanceTypeDef) -> Instance:
    return Instance(
        id=seen["InstanceId"],
        state=_STATES.get(seen["State"]["Name"], InstanceState.UNKNOWN),
        tags={tag["Key"]: tag["Value"] for tag in seen.get("Tags", [])},
        address=seen.get("PrivateIpAddress") or None,
        launched_at=seen.get("LaunchTime"),
        fault=seen.get("StateReason", {}).get("Message") or seen.get("StateTransitionReason") or None,
        launch_index=seen.get("AmiLaunchIndex", 0),
    )


def _image(seen: ImageTypeDef) -> CatalogueItem:
    return CatalogueItem(seen["ImageId"], seen.get("Name") or seen["ImageId"], seen.get("Description") or "")


def _size(seen: InstanceTypeInfoTypeDef) -> CatalogueItem:
    name = seen["InstanceType"]
    cpus = seen.get("VCpuInfo", {}).get("DefaultVCpus", 0)
    memory_gib = seen.get("MemoryInfo", {}).get("SizeInMiB", 0) / 1024
    return CatalogueItem(name, name, f"{cpus} vCPU, {memory_gib:g} GiB")
