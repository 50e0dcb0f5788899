"""Amazon EC2, and what speaks its language.

One call a verb: a launch is one RunInstances for all its machines, its `ClientToken` the launch id (CreateFleet where
EC2 may choose among types or zones, see `ec2_fleet`); the listing is filtered by the cloud and checked again here. The
SDK is imported when a provider is made: it costs over half a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from . import ec2_fleet, ec2_inspect, ec2_template
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
from .ec2_errors import cause_of, code_of, translated

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import (
        FilterTypeDef,
        ImageTypeDef,
        InstanceStatusTypeDef,
        InstanceTypeDef,
        InstanceTypeInfoTypeDef,
    )

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
_VALUES = 200  # of one filter, at most
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_ABSENT = {"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"}


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
        self._endpoint_url = endpoint_url
        self._root_devices: dict[str, str] = {}
        config = Config(
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            retries={"total_max_attempts": 1},  # when to try again is decided above, where the intent is known
            max_pool_connections=16,
            proxies={} if endpoint_url and urlsplit(endpoint_url).hostname in _LOOPBACK else None,
        )
        with translated("connect"):
            core = botocore.session.get_session()
            core.register_component("data_loader", _descriptions())
            self._session = boto3.session.Session(profile_name=profile, region_name=region, botocore_session=core)
            self._ec2: EC2Client = self._session.client(
                "ec2",
                endpoint_url=endpoint_url,
                aws_access_key_id=access_key_id,
                aws_secret_access_key=secret_access_key,
                config=config,
            )
        self.endpoint = self._ec2.meta.endpoint_url

    # -- the contract --

    def validate(self, template: Mapping[str, object]) -> None:
        """Misconfigured naming the key of a launch template that is unknown, ill-formed or at odds with another."""
        ec2_template.validate(template)

    def check(self) -> None:
        """One small listing: it needs the region, the credentials and the right that every tick needs."""
        from botocore.exceptions import EndpointConnectionError

        with translated("list instances"):
            try:
                self._ec2.describe_instances(Filters=self._ours(), MaxResults=5)
            except EndpointConnectionError as error:
                if self._endpoint_url or self._is_known_region():
                    raise
                told = f"EC2 has no region {self._ec2.meta.region_name!r} that this SDK knows: correct `region`"
                raise Misconfigured(f"{told} ({error})") from error

    def inspect(self, image: str, instance_type: str, template: Mapping[str, object]) -> list[Finding]:
        """Image, types, subnets, zones, groups, key, rights by dry runs; quotas and roles are not EC2's to tell."""
        with translated("look at what a launch needs"):
            return ec2_inspect.inspect(self._ec2, self._installation, image, instance_type, template)

    def launch(self, request: LaunchRequest) -> list[Instance]:
        """One call for up to `count` machines. Too large user data are refused here, before any call."""
        from botocore.exceptions import ClientError

        self._refuse_unlaunchable(request)
        tags = self._tags(request)
        root_device = self._root_device(request.image) if ec2_template.needs_root_device(request.template) else ""
        with translated(f"launch {request.count} of {request.instance_type}", launching=True):
            try:
                if ec2_template.is_fleet(request.instance_type, request.template):
                    return ec2_fleet.launch(self._ec2, request, tags, root_device)
                reply = self._ec2.run_instances(**ec2_template.run_instances(request, tags, root_device))
            except ClientError as error:
                if code_of(error) != "IdempotentInstanceTerminated":
                    raise
                return self._launched_before(request.launch_id)
        return [replace(_instance(each), tags=tags) for each in reply["Instances"]]

    def instances(self) -> list[Instance]:
        """Every page of what bears our tag, looked at again here: a filter that was ignored must cost no stranger."""
        with translated("list instances"):
            return self._listed(self._ours())

    def impaired(self) -> Mapping[str, str]:
        """One paged listing of the status checks, which EC2 cannot filter by tag: it shows strangers' machines as well.
        Only where any is impaired, those are asked for by id whether they are ours."""
        with translated("read the status checks"):
            pages = self._ec2.get_paginator("describe_instance_status").paginate(PaginationConfig={"PageSize": _PAGE})
            failing = {
                each["InstanceId"]: told for page in pages for each in page["InstanceStatuses"] if (told := _failing(each))
            }
            ours: set[str] = set()
            for start in range(0, len(failing), _VALUES):
                some = {"Name": "instance-id", "Values": list(failing)[start : start + _VALUES]}
                ours |= {instance.id for instance in self._listed([*self._ours(), some])}  # type: ignore[list-item]
            return {name: told for name, told in failing.items() if name in ours}

    def terminate(self, ids: Iterable[str]) -> None:
        """In batches; EC2 refuses a whole batch for one id it does not know, which is then found and left out."""
        wanted = list(dict.fromkeys(ids))
        with translated("terminate instances"):
            for start in range(0, len(wanted), _BATCH):
                self._terminate(wanted[start : start + _BATCH])

    def console(self, instance_id: str) -> str:
        """The last 64 KiB of the boot log, which EC2 shows some minutes after the boot; "" before, or when absent."""
        from botocore.exceptions import ClientError

        with translated("read the console"):
            try:
                return self._ec2.get_console_output(InstanceId=instance_id).get("Output", "")
            except ClientError as error:
                if code_of(error) in _ABSENT:
                    return ""
                raise

    def catalogue(self, kind: str) -> list[CatalogueItem]:
        """`images` of this account, `sizes` offered in this region, its zones as `locations`."""
        with translated(f"list {kind}"):
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

    def _is_known_region(self) -> bool:
        partitions = self._session.get_available_partitions()
        return any(self._ec2.meta.region_name in self._session.get_available_regions("ec2", each) for each in partitions)

    def _refuse_unlaunchable(self, request: LaunchRequest) -> None:
        request.refuse_user_data_over(self.user_data_limit, "EC2")
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

    def _root_device(self, image: str) -> str:
        if image not in self._root_devices:
            with translated(f"look up the image {image}"):
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
            if code_of(error) not in _ABSENT:
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


def _failing(seen: InstanceStatusTypeDef) -> str:
    """What the status checks say of a machine that fails one, or "" where all is well or nothing is known yet."""
    checks = {"instance": "InstanceStatus", "system": "SystemStatus", "volumes": "AttachedEbsStatus"}
    told = []
    for name, key in checks.items():
        summary: Any = seen.get(key, {})
        if summary.get("Status") == "impaired":
            since = [each["ImpairedSince"] for each in summary.get("Details", ()) if "ImpairedSince" in each]
            told.append(f"{name} status check failed" + (f" since {min(since):%Y-%m-%d %H:%M} UTC" if since else ""))
    return ", ".join(told)


def _instance(seen: InstanceTypeDef) -> Instance:
    reason = seen.get("StateReason", {})
    return Instance(
        id=seen["InstanceId"],
        state=_STATES.get(seen["State"]["Name"], InstanceState.UNKNOWN),
        tags={tag["Key"]: tag["Value"] for tag in seen.get("Tags", [])},
        address=seen.get("PrivateIpAddress") or None,
        launched_at=seen.get("LaunchTime"),
        fault=reason.get("Message") or seen.get("StateTransitionReason") or None,
        launch_index=seen.get("AmiLaunchIndex", 0),
        cause=cause_of(reason.get("Code")),
    )


def _image(seen: ImageTypeDef) -> CatalogueItem:
    return CatalogueItem(seen["ImageId"], seen.get("Name") or seen["ImageId"], seen.get("Description") or "")


def _size(seen: InstanceTypeInfoTypeDef) -> CatalogueItem:
    name = seen["InstanceType"]
    cpus = seen.get("VCpuInfo", {}).get("DefaultVCpus", 0)
    memory_gib = seen.get("MemoryInfo", {}).get("SizeInMiB", 0) / 1024
    return CatalogueItem(name, name, f"{cpus} vCPU, {memory_gib:g} GiB")
