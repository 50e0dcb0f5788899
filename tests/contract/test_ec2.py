"""What only EC2 has: its error codes, its launch template, its own parameters, as they travel over HTTP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labs import REGION, Ec2Lab, own_cloud

from providers.base import (
    TAG_POOL,
    Misconfigured,
    NoCapacity,
    OutcomeUnknown,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    Unauthorised,
    Unavailable,
)
from providers.contract.lab import Tenant
from providers.ec2 import Ec2Provider
from providers.ec2_errors import _KIND_BY_CODE

cloud = own_cloud()


LAUNCH_CODES: list[tuple[type[ProviderError], int, str]] = [
    (RateLimited, 503, "RequestLimitExceeded Throttling SlowDown RequestThrottled BandwidthLimitExceeded"),
    (RateLimited, 503, "ThrottledException EC2ThrottledException RequestThrottledException PriorRequestNotComplete"),
    (RateLimited, 400, "ThrottlingException TooManyRequestsException"),
    (NoCapacity, 500, "InsufficientInstanceCapacity InsufficientHostCapacity InsufficientReservedInstanceCapacity"),
    (NoCapacity, 500, "InsufficientCapacity InsufficientAddressCapacity InsufficientVolumeCapacity"),
    (NoCapacity, 400, "Unsupported SpotMaxPriceTooLow InsufficientFreeAddressesInSubnet UnfulfillableCapacity"),
    (NoCapacity, 400, "ReservationCapacityExceeded InsufficientCapacityOnHost"),
    (QuotaExceeded, 400, "InstanceLimitExceeded VcpuLimitExceeded MaxSpotInstanceCountExceeded VolumeLimitExceeded"),
    (QuotaExceeded, 400, "MaxIOPSLimitExceeded ResourceLimitExceeded NetworkInterfaceLimitExceeded HostLimitExceeded"),
    (QuotaExceeded, 400, "AddressLimitExceeded MaxFleetCountExceeded MaxSpotFleetRequestCountExceeded"),
    (QuotaExceeded, 400, "TargetCapacityLimitExceededException"),
    (Unauthorised, 401, "AuthFailure InvalidAccessKeyId"),
    (Unauthorised, 403, "UnauthorizedOperation InvalidClientTokenId ExpiredToken SignatureDoesNotMatch AccessDenied"),
    (Unauthorised, 403, "ExpiredTokenException InvalidSignatureException IncompleteSignature InvalidToken"),
    (Unauthorised, 403, "MissingAuthenticationToken UnrecognizedClientException AccessDeniedException"),
    (Unauthorised, 400, "RequestExpired OptInRequired Blocked"),
    (Misconfigured, 400, "InvalidAMIID.NotFound InvalidAMIID.Malformed InvalidParameterValue InvalidSubnetID.NotFound"),
    (Misconfigured, 400, "InvalidGroup.NotFound InvalidKeyPair.NotFound InvalidParameterCombination ANewCode"),
    (OutcomeUnknown, 400, "IdempotentParameterMismatch"),
    (OutcomeUnknown, 500, "InternalError InternalFailure ServerInternal ANewCode"),
    (OutcomeUnknown, 503, "Unavailable ServiceUnavailable RequestTimeout"),
]


CASES = [(code, status, kind) for kind, status, codes in LAUNCH_CODES for code in codes.split()]


def test_every_code_that_is_known_is_tried() -> None:
    assert set(_KIND_BY_CODE) <= {code for code, _, _ in CASES}


@pytest.mark.parametrize(("code", "status", "kind"), CASES)
def test_codes_of_a_refused_launch(tenant: Tenant, lab: Ec2Lab, code: str, status: int, kind: type[ProviderError]) -> None:
    lab.cloud.faults({"action": "RunInstances", "times": 1, "error": code, "status": status})
    with pytest.raises(ProviderError) as caught:
        tenant.provider.launch(tenant.request())
    assert type(caught.value) is kind
    assert code in str(caught.value)
    assert tenant.launched() == set()


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("InternalError", 500, Unavailable),
        ("ANewCode", 502, Unavailable),
        ("ANewCode", 400, Misconfigured),
        ("UnauthorizedOperation", 403, Unauthorised),
        ("RequestLimitExceeded", 503, RateLimited),
    ],
)
def test_codes_of_a_refused_listing(tenant: Tenant, lab: Ec2Lab, code: str, status: int, kind: type[ProviderError]) -> None:
    lab.cloud.faults({"action": "DescribeInstances", "times": 1, "error": code, "status": status})
    with pytest.raises(ProviderError) as caught:
        tenant.provider.instances()
    assert type(caught.value) is kind


def test_nobody_there_is_unavailable_even_for_a_launch(tenant: Tenant) -> None:
    provider = Ec2Provider(
        installation="x", region=REGION, endpoint_url="http://127.0.0.1:9", access_key_id="x", secret_access_key="x"
    )
    with pytest.raises(Unavailable):
        provider.launch(tenant.request())


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield


@pytest.mark.usefixtures("no_credentials")
def test_no_credentials_at_all(lab: Ec2Lab) -> None:
    provider = Ec2Provider(installation="x", region=REGION, endpoint_url=lab.cloud.endpoint_url)
    with pytest.raises(Unauthorised, match="Check the credentials"):
        provider.check()


@pytest.mark.usefixtures("no_credentials")
def test_a_profile_that_is_not_there() -> None:
    with pytest.raises(Unauthorised, match="nobody"):
        Ec2Provider(installation="x", region=REGION, profile="nobody")


def test_a_region_that_cannot_be() -> None:
    with pytest.raises(Misconfigured, match="region"):
        Ec2Provider(installation="x", region="not a region")


@pytest.mark.parametrize(
    "template",
    [
        {"subnet_id": ""},
        {"security_group_ids": "sg-1"},
        {"security_group_ids": [1]},
        {"key_name": 1},
        {"root_volume_gb": "8"},
        {"root_volume_gb": True},
        {"root_volume_gb": 0},
        {"market": "cheap"},
    ],
)
def test_ill_typed_settings_are_named(tenant: Tenant, template: dict[str, object]) -> None:
    with pytest.raises(Misconfigured, match=next(iter(template))):
        tenant.provider.validate(template)


def test_settings_and_safeguards_reach_the_machine(tenant: Tenant, ec2: Any) -> None:
    subnet = ec2.describe_subnets()["Subnets"][0]
    group = ec2.create_security_group(GroupName=tenant.installation, Description="x", VpcId=subnet["VpcId"])
    template = {
        "subnet_id": subnet["SubnetId"],
        "availability_zone": subnet["AvailabilityZone"],
        "security_group_ids": [group["GroupId"]],
        "key_name": "a-key",
        "root_volume_gb": 21,
        "market": "spot",
    }
    tenant.provider.validate(template)
    (given,) = tenant.provider.launch(tenant.request(template=template, tags={TAG_POOL: "night"}))
    seen = ec2.describe_instances(InstanceIds=[given.id])["Reservations"][0]["Instances"][0]
    assert seen["SubnetId"] == subnet["SubnetId"]
    assert seen["Placement"]["AvailabilityZone"] == subnet["AvailabilityZone"]
    assert [each["GroupId"] for each in seen["SecurityGroups"]] == [group["GroupId"]]
    assert seen["KeyName"] == "a-key"
    assert seen["InstanceLifecycle"] == "spot"
    assert seen["MetadataOptions"]["HttpTokens"] == "required"
    assert seen["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert given.tags["Name"] == "elastic-orchestrator night"
    behaviour = ec2.describe_instance_attribute(InstanceId=given.id, Attribute="instanceInitiatedShutdownBehavior")
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    (volume,) = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [given.id]}])["Volumes"]
    assert volume["Size"] == 21
    assert {tag["Key"]: tag["Value"] for tag in volume["Tags"]} == given.tags


def test_root_volume_of_an_unknown_image(tenant: Tenant) -> None:
    request = tenant.request(image="ami-00000000000000000", template={"root_volume_gb": 8})
    with pytest.raises(Misconfigured, match="InvalidAMIID"):
        tenant.provider.launch(request)


def test_launch_id_that_is_no_token(tenant: Tenant, lab: Ec2Lab) -> None:
    before = lab.calls()
    with pytest.raises(Misconfigured, match="64"):
        tenant.provider.launch(tenant.request(launch_id="x" * 65))
    assert lab.calls() == before


def test_the_sdk_is_not_imported_before_a_provider_is_made() -> None:
    program = "import sys, providers.ec2; sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
