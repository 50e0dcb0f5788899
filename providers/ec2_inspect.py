"""What a launch on EC2 needs, looked at before the first one: each thing by the call that shows it, the rights by dry runs.

Lists are asked for by filter, not by id: EC2 answers an unknown id with an error for the whole call, and a filter with
what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from . import ec2_template
from .base import TAG_INSTALLATION, TAG_LAUNCH, Finding, LaunchRequest, Unauthorised, Unavailable, Verdict
from .ec2_errors import code_of, translate

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

_FEW_ADDRESSES = 16
_QUOTAS = {False: "Running On-Demand instances (L-1216C47A)", True: "All Spot Instance Requests (L-34B43A08)"}
_NO_IMAGE = {"InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable"}
_RIGHTS_DOC = "docs/aws.md has the whole policy"

Findings = Iterator[Finding]


def inspect(
    ec2: EC2Client, installation: str, image: str, instance_type: str, template: Mapping[str, Any]
) -> list[Finding]:
    """A finding for each thing. Raises the SDK's errors where EC2 cannot be asked; a missing right to look is a finding."""
    return list(_Inspection(ec2, installation, image, instance_type, template).run())


def _ok(subject: str, told: str) -> Finding:
    return Finding(subject, Verdict.OK, told)


def _warning(subject: str, told: str) -> Finding:
    return Finding(subject, Verdict.WARNING, told)


def _wrong(subject: str, told: str) -> Finding:
    return Finding(subject, Verdict.WRONG, told)


class _Inspection:
    """One look at all of it; what one step finds (architecture, VPC, zones) the next ones compare with."""

    def __init__(
        self, ec2: EC2Client, installation: str, image: str, instance_type: str, template: Mapping[str, Any]
    ) -> None:
        self._ec2: Any = ec2  # its types ask for literal filters
        self._installation = installation
        self._image = image
        self._template = template
        self._types = ec2_template.types(instance_type, template)
        self._instance_type = instance_type
        self._architecture: str | None = None
        self._root_device = ""
        self._vpc: str | None = None
        self._zones: set[str] = set()
        self._existing: list[str] = []

    def run(self) -> Findings:
        wrong = False
        for subject, action, look in self._steps():
            for finding in self._seen(subject, action, look):
                wrong |= finding.verdict is Verdict.WRONG
                yield finding
        if not wrong:  # a dry run would only repeat, in EC2's words, what was said already
            yield from self._launch_rights()
        yield from self._end_rights()
        yield self._quota()

    def _steps(self) -> Iterator[tuple[str, str, Callable[[], Findings]]]:
        yield "image", "DescribeImages", self._check_image
        yield "instance type", "DescribeInstanceTypes", self._check_types
        yield "subnet", "DescribeSubnets", self._check_subnets
        yield "zone", "DescribeInstanceTypeOfferings", self._check_offerings
        if "security_group_ids" in self._template:
            yield "security group", "DescribeSecurityGroups", self._check_groups
        if "key_name" in self._template:
            yield "key", "DescribeKeyPairs", self._check_key
        if "instance_profile" in self._template:
            yield "instance profile", "", self._check_profile

    @staticmethod
    def _seen(subject: str, action: str, look: Callable[[], Findings]) -> Findings:
        """What one step finds. The right to look is asked for here: without it a launch may still work."""
        from botocore.exceptions import ClientError

        try:
            yield from look()
        except ClientError as error:
            if code_of(error) != "UnauthorizedOperation":
                raise
            yield _warning(subject, f"cannot be looked at: allow ec2:{action} to this account's user ({_RIGHTS_DOC})")

    # -- things --

    def _check_image(self) -> Findings:
        from botocore.exceptions import ClientError

        fix = "correct the pool's image, or have it shared with this account"
        try:
            reply = self._ec2.describe_images(ImageIds=[self._image])
        except ClientError as error:
            if code_of(error) not in _NO_IMAGE:
                raise
            reply = {"Images": []}
        if not reply["Images"]:
            yield _wrong("image", f"{self._image} is not to be found in this region: {fix}")
            return
        seen = reply["Images"][0]
        self._architecture = seen.get("Architecture")
        self._root_device = seen.get("RootDeviceName") or ""
        if seen.get("State", "available") != "available":
            yield _wrong("image", f"{self._image} is {seen['State']}, not available: {fix}")
        elif (ends := seen.get("DeprecationTime")) and datetime.fromisoformat(ends) <= _now(reply):
            yield _warning("image", f"{self._image} is deprecated since {ends}: name a newer one before it is withdrawn")
        elif too_small := self._too_small_root(seen):
            yield _wrong("root volume", too_small)
        else:
            yield _ok("image", f"{self._image} is available ({self._architecture})")

    def _too_small_root(self, image: Any) -> str | None:
        wanted = self._template.get("root_volume_gb") or next(
            (
                each.get("size_gb")
                for each in self._template.get("block_devices", ())
                if each["device"] in (ec2_template.ROOT, self._root_device)
            ),
            None,
        )
        for device in image.get("BlockDeviceMappings", ()):
            least = device.get("Ebs", {}).get("VolumeSize", 0)
            if device.get("DeviceName") == self._root_device and wanted and wanted < least:
                return f"{wanted} GiB are less than the image's {least}: make the root volume at least that large"
        return None

    def _check_types(self) -> Findings:
        fix = "correct the pool's instance type"
        if self._types == [self._instance_type] and "instance_types" in self._template:
            yield _warning(
                "instance type",
                f"{self._instance_type} is not among instance_types, which then count for nothing: add it to them",
            )
        filters = [{"Name": "instance-type", "Values": self._types}]
        found = {each["InstanceType"]: each for each in self._ec2.describe_instance_types(Filters=filters)["InstanceTypes"]}
        self._existing = [name for name in self._types if name in found]
        for name in self._types:
            if name not in found:
                yield _wrong("instance type", f"{name} does not exist in this region: {fix}")
                continue
            able = found[name].get("ProcessorInfo", {}).get("SupportedArchitectures", [])
            usages = found[name].get("SupportedUsageClasses", [])
            if self._architecture and able and self._architecture not in able:
                told = f"{name} runs {' and '.join(able)}, the image is made for {self._architecture}"
                yield _wrong("instance type", f"{told}: choose a type, or an image, that fits the other")
            elif ec2_template.is_spot(self._template) and usages and "spot" not in usages:
                yield _wrong("instance type", f"{name} is not sold as spot: choose another type, or market: on-demand")
            else:
                yield _ok("instance type", f"{name} exists and fits the image")

    def _check_subnets(self) -> Findings:
        places = ec2_template.places(self._template)
        wanted = [place["SubnetId"] for place in places if "SubnetId" in place]
        zone = self._template.get("availability_zone")
        if wanted:
            filters = [{"Name": "subnet-id", "Values": wanted}]
        else:
            filters = [{"Name": "default-for-az", "Values": ["true"]}]
            filters += [{"Name": "availability-zone", "Values": [zone]}] if zone else []
        found = {each["SubnetId"]: each for each in self._ec2.describe_subnets(Filters=filters)["Subnets"]}
        if not wanted and not found:
            at = f"in the zone {zone}" if zone else "in this region"
            yield _wrong("subnet", f"there is no default subnet {at}: name one with subnet_id")
        for missing in [each for each in wanted if each not in found]:
            yield _wrong("subnet", f"{missing} does not exist in this region: correct subnet_id or subnet_ids")
        for name, seen in found.items():
            yield self._subnet(name, seen, zone)
        networks = {each["VpcId"] for each in found.values()}
        if len(networks) > 1:
            yield _wrong("subnet", f"the subnets are of several VPCs ({', '.join(sorted(networks))}): take them from one")
        self._vpc = min(networks) if len(networks) == 1 else None
        self._zones = {each["AvailabilityZone"] for each in found.values()}

    @staticmethod
    def _subnet(name: str, seen: Any, zone: str | None) -> Finding:
        free = seen.get("AvailableIpAddressCount", 0)
        if zone and seen["AvailabilityZone"] != zone:
            return _wrong("subnet", f"{name} lies in {seen['AvailabilityZone']}, not in {zone}: correct one of the two")
        if not free:
            return _wrong("subnet", f"{name} has no free address left: name another subnet, or a larger one")
        if free < _FEW_ADDRESSES:
            return _warning("subnet", f"{name} has {free} free addresses left: name a larger one beside it in subnet_ids")
        return _ok("subnet", f"{name} in {seen['AvailabilityZone']} has {free} free addresses")

    def _check_offerings(self) -> Findings:
        if not self._existing:
            return
        filters = [{"Name": "instance-type", "Values": self._existing}]
        pages = self._ec2.get_paginator("describe_instance_type_offerings").paginate(
            LocationType="availability-zone", Filters=filters
        )
        offered = {(each["InstanceType"], each["Location"]) for page in pages for each in page["InstanceTypeOfferings"]}
        for name in self._existing:
            zones = {zone for kind, zone in offered if kind == name}
            missing = sorted(self._zones - zones)
            if self._zones and len(missing) == len(self._zones):
                told = f"{name} is not offered in {', '.join(missing)}"
                where = f"it is in {', '.join(sorted(zones))}" if zones else "nor anywhere in this region"
                yield _wrong("zone", f"{told} ({where}): choose another zone or type")
            elif missing and len(self._zones) > 1 and self._names_places():
                yield _warning("zone", f"{name} is not offered in {', '.join(missing)}: only the others can give it")
            else:
                yield _ok("zone", f"{name} is offered in {', '.join(sorted(self._zones & zones) or sorted(zones))}")

    def _names_places(self) -> bool:
        return ec2_template.places(self._template) != [{}]

    def _check_groups(self) -> Findings:
        wanted = list(self._template["security_group_ids"])
        filters = [{"Name": "group-id", "Values": wanted}]
        found = {each["GroupId"]: each for each in self._ec2.describe_security_groups(Filters=filters)["SecurityGroups"]}
        for name in wanted:
            if name not in found:
                yield _wrong("security group", f"{name} does not exist in this region: correct security_group_ids")
            elif self._vpc and found[name].get("VpcId") != self._vpc:
                told = f"{name} belongs to {found[name].get('VpcId')}, the subnet to {self._vpc}"
                yield _wrong("security group", f"{told}: take both from the same VPC")
            else:
                yield _ok("security group", f"{name} belongs to the subnet's VPC")

    def _check_key(self) -> Findings:
        name = self._template["key_name"]
        found = self._ec2.describe_key_pairs(Filters=[{"Name": "key-name", "Values": [name]}])["KeyPairs"]
        if found:
            yield _ok("key", f"{name} exists")
        else:
            yield _wrong("key", f"{name} does not exist in this region: import it, or correct key_name")

    def _check_profile(self) -> Findings:
        name = self._template["instance_profile"]
        yield _warning(
            "instance profile",
            f"{name} cannot be looked at without rights on IAM: see that it exists and that iam:PassRole is allowed on its "
            "role (the dry run below fails without)",
        )

    # -- rights --

    def _launch_rights(self) -> Findings:
        tags = {TAG_INSTALLATION: self._installation, TAG_LAUNCH: f"{self._installation}-dry-run"}
        request = LaunchRequest(
            launch_id=tags[TAG_LAUNCH],
            count=1,
            image=self._image,
            instance_type=self._types[0],
            user_data=b"",
            tags=tags,
            template=_single(self._template),
        )
        rights = "ec2:RunInstances and ec2:CreateTags"
        yield self._dry_run(rights, self._ec2.run_instances, ec2_template.run_instances(request, tags, self._root_device))
        if not ec2_template.is_fleet(self._instance_type, self._template):
            return
        name = "elastic-orchestrator-dry-run"
        template: dict[str, Any] = {
            "LaunchTemplateName": name,
            "LaunchTemplateData": ec2_template.template_data(request, tags, self._root_device),
            "TagSpecifications": ec2_template.tagged(tags, "launch-template"),
        }
        yield self._dry_run("ec2:CreateLaunchTemplate", self._ec2.create_launch_template, template)
        fleet = ec2_template.create_fleet(replace(request, template=self._template), tags, name)
        yield self._dry_run("ec2:CreateFleet", self._ec2.create_fleet, fleet)

    def _end_rights(self) -> Findings:
        """Machines are ended by a right on our tag, so only a machine of ours can tell."""
        ours = [{"Name": f"tag:{TAG_INSTALLATION}", "Values": [self._installation]}]
        alive = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
        reservations = self._ec2.describe_instances(Filters=ours + alive, MaxResults=5)["Reservations"]
        ids = [each["InstanceId"] for part in reservations for each in part["Instances"]]
        if ids:
            yield self._dry_run("ec2:TerminateInstances", self._ec2.terminate_instances, {"InstanceIds": ids[:1]})
        else:
            told = "whether machines may be ended shows with the first one: allow ec2:TerminateInstances by this tag"
            yield _warning("rights", f"{told} ({_RIGHTS_DOC})")

    def _dry_run(self, rights: str, call: Callable[..., Any], parameters: Mapping[str, Any]) -> Finding:
        """Whether EC2 would let us. It answers a dry run with an error always; which one is the answer."""
        from botocore.exceptions import ClientError

        try:
            call(**parameters, DryRun=True)
        except ClientError as error:
            code = code_of(error)
            if code == "DryRunOperation" or code.startswith("InvalidLaunchTemplate"):  # there is no such template yet
                return _ok("rights", f"{rights}: allowed")
            if code == "UnauthorizedOperation":
                also = " and iam:PassRole" if "IamInstanceProfile" in parameters else ""
                return _wrong("rights", f"{rights}{also}: refused; allow it in this account's policy ({_RIGHTS_DOC})")
            refusal = translate(error, f"take a dry run of {rights}")
            if isinstance(refusal, Unavailable | Unauthorised):
                raise
            return _wrong("launch", str(refusal))
        return _ok("rights", f"{rights}: allowed")

    def _quota(self) -> Finding:
        quota = _QUOTAS[ec2_template.is_spot(self._template)]
        return _warning(
            "quota", f"EC2 does not tell the vCPUs left: compare {quota} in Service Quotas with the pool's most machines"
        )


def _single(template: Mapping[str, Any]) -> dict[str, Any]:
    """The template with one place and one type left of its choices."""
    rest = {key: value for key, value in template.items() if key not in ("subnet_ids", "instance_types")}
    return rest | ({"subnet_id": template["subnet_ids"][0]} if "subnet_ids" in template else {})


def _now(reply: Any) -> datetime:
    """EC2's own clock."""
    return parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"])
