"""What `inspect` finds on EC2 before the first launch, each with its fix."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from labs import REGION, Ec2Lab, own_cloud

from providers.base import Finding, Unauthorised, Unavailable, Verdict
from providers.contract.lab import Tenant
from providers.ec2 import Ec2Provider

FLEET = {"instance_types": ["t3.micro", "t3.small"]}


cloud = own_cloud()


def found(tenant: Tenant, template: dict[str, Any], verdict: Verdict, **settings: str) -> list[Finding]:
    image, kind = settings.get("image", tenant.lab.image), settings.get("instance_type", tenant.lab.instance_type)
    return [each for each in tenant.provider.inspect(image, kind, template) if each.verdict is verdict]


def the_one(findings: list[Finding], subject: str) -> str:
    (finding,) = (each for each in findings if each.subject == subject)
    return finding.told


def test_all_in_order_is_said_of_each_thing(tenant: Tenant, ec2: Any) -> None:
    subnet = ec2.describe_subnets()["Subnets"][0]
    name = f"key-{uuid.uuid4().hex}"
    ec2.create_key_pair(KeyName=name)
    group = ec2.create_security_group(GroupName=name, Description="x", VpcId=subnet["VpcId"])["GroupId"]
    template = {"subnet_id": subnet["SubnetId"], "security_group_ids": [group], "key_name": name}
    told = found(tenant, template, Verdict.OK)
    subjects = {each.subject for each in told}
    assert subjects == {"image", "instance type", "subnet", "zone", "security group", "key", "rights"}
    assert found(tenant, template, Verdict.WRONG) == []
    assert subnet["AvailabilityZone"] in the_one(told, "zone")


def test_an_image_for_another_processor_than_the_type(tenant: Tenant) -> None:
    told = the_one(found(tenant, {}, Verdict.WRONG, instance_type="m6g.medium"), "instance type")
    assert "arm64" in told and "x86_64" in told and "choose" in told


def test_a_root_volume_smaller_than_the_image(tenant: Tenant, ec2: Any) -> None:
    for template in ({"root_volume_gb": 1}, {"block_devices": [{"device": "root", "size_gb": 1}]}):
        assert "make the root volume at least" in the_one(found(tenant, template, Verdict.WRONG), "root volume")


def test_a_type_that_its_zone_does_not_offer(tenant: Tenant, ec2: Any) -> None:
    offered: dict[str, set[str]] = {}
    for each in ec2.describe_instance_type_offerings(LocationType="availability-zone")["InstanceTypeOfferings"]:
        offered.setdefault(each["InstanceType"], set()).add(each["Location"])
    zones = set().union(*offered.values())
    x86 = ("c5", "m5", "r5", "c6i", "m6i", "r6i", "i3", "z1", "x1", "d3", "h1", "c4", "m4", "p3", "g4")
    kind = next(name for name, where in sorted(offered.items()) if where != zones and name.startswith(x86))
    missing, there = min(zones - offered[kind]), min(offered[kind])
    told = the_one(found(tenant, {"availability_zone": missing}, Verdict.WRONG, instance_type=kind), "zone")
    assert missing in told and there in told and "choose another zone" in told
    subnets = {each["AvailabilityZone"]: each["SubnetId"] for each in ec2.describe_subnets()["Subnets"]}
    both = {"subnet_ids": [subnets[missing], subnets[there]]}
    assert missing in the_one(found(tenant, both, Verdict.WARNING, instance_type=kind), "zone")


def test_a_subnet_that_runs_out_of_addresses(lab: Ec2Lab, tenant: Tenant, ec2: Any) -> None:
    lab.inert()
    network = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=network, CidrBlock="10.77.1.0/28")["Subnet"]
    template = {"subnet_id": subnet["SubnetId"]}
    told = the_one(found(tenant, template, Verdict.WARNING), "subnet")
    assert f"{subnet['AvailableIpAddressCount']} free addresses" in told and "larger" in told
    tenant.provider.launch(tenant.request(count=subnet["AvailableIpAddressCount"], template=template))
    assert "no free address" in the_one(found(tenant, template, Verdict.WRONG), "subnet")


def test_a_group_of_another_network_than_the_subnets(tenant: Tenant, ec2: Any) -> None:
    network = ec2.create_vpc(CidrBlock="10.78.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(GroupName="theirs", Description="x", VpcId=network)["GroupId"]
    subnet = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"][0]
    template = {"subnet_id": subnet["SubnetId"], "security_group_ids": [group]}
    told = the_one(found(tenant, template, Verdict.WRONG), "security group")
    assert network in told and subnet["VpcId"] in told and "same VPC" in told


def test_subnets_of_two_networks(tenant: Tenant, ec2: Any) -> None:
    network = ec2.create_vpc(CidrBlock="10.79.0.0/16")["Vpc"]["VpcId"]
    other = ec2.create_subnet(VpcId=network, CidrBlock="10.79.1.0/24")["Subnet"]["SubnetId"]
    mine = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"][0]["SubnetId"]
    assert network in the_one(found(tenant, {"subnet_ids": [mine, other]}, Verdict.WRONG), "subnet")


def test_a_subnet_in_another_zone_than_the_one_named(tenant: Tenant, ec2: Any) -> None:
    one, other = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"][:2]
    template = {"subnet_id": one["SubnetId"], "availability_zone": other["AvailabilityZone"]}
    assert "correct one of the two" in the_one(found(tenant, template, Verdict.WRONG), "subnet")


def test_a_zone_without_default_subnet(tenant: Tenant) -> None:
    assert "subnet_id" in the_one(found(tenant, {"availability_zone": "eu-west-1z"}, Verdict.WRONG), "subnet")


def test_what_cannot_be_seen_is_said_so(tenant: Tenant) -> None:
    told = found(tenant, {"market": "spot"}, Verdict.WARNING)
    assert "Spot" in the_one(told, "quota")
    assert "first one" in the_one(told, "rights")


def test_types_that_count_for_nothing(tenant: Tenant) -> None:
    told = the_one(found(tenant, FLEET, Verdict.WARNING, instance_type="m6i.large"), "instance type")
    assert "add it" in told


@pytest.mark.parametrize(
    ("action", "rights"),
    [
        ("RunInstances", "ec2:RunInstances and ec2:CreateTags"),
        ("CreateLaunchTemplate", "ec2:CreateLaunchTemplate"),
        ("CreateFleet", "ec2:CreateFleet"),
    ],
)
def test_rights_that_lack_are_named_by_a_dry_run(lab: Ec2Lab, tenant: Tenant, action: str, rights: str) -> None:
    lab.cloud.faults({"action": action, "error": "UnauthorizedOperation", "status": 403})
    assert the_one(found(tenant, FLEET, Verdict.WRONG), "rights").startswith(f"{rights}: refused; allow it")
    assert tenant.launched() == set()


def test_the_right_to_end_machines_is_tried_on_one_of_ours(lab: Ec2Lab, tenant: Tenant) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    lab.cloud.faults({"action": "TerminateInstances", "error": "UnauthorizedOperation", "status": 403})
    assert "ec2:TerminateInstances: refused" in the_one(found(tenant, {}, Verdict.WRONG), "rights")
    lab.heal()
    assert found(tenant, {}, Verdict.WRONG) == []
    assert lab.alive({given.id}) == {given.id}


def test_a_profile_needs_a_right_on_its_role(lab: Ec2Lab, tenant: Tenant) -> None:
    lab.cloud.faults({"action": "RunInstances", "error": "UnauthorizedOperation", "status": 403})
    template = {"instance_profile": "worker"}
    assert "iam:PassRole" in the_one(found(tenant, template, Verdict.WRONG), "rights")
    assert "iam:PassRole" in the_one(found(tenant, template, Verdict.WARNING), "instance profile")


def test_a_launch_that_ec2_would_refuse_is_told_in_its_words(lab: Ec2Lab, tenant: Tenant) -> None:
    lab.cloud.faults({"action": "RunInstances", "error": "VPCIdNotSpecified", "status": 400})
    assert "VPCIdNotSpecified" in the_one(found(tenant, {}, Verdict.WRONG), "launch")


def test_what_may_not_be_looked_at_is_a_warning_with_the_right(lab: Ec2Lab, tenant: Tenant) -> None:
    lab.cloud.faults({"action": "DescribeKeyPairs", "error": "UnauthorizedOperation", "status": 403})
    assert "ec2:DescribeKeyPairs" in the_one(found(tenant, {"key_name": "k"}, Verdict.WARNING), "key")


@pytest.mark.parametrize(
    ("action", "code", "status", "kind"),
    [
        ("DescribeImages", "AuthFailure", 401, Unauthorised),
        ("DescribeSubnets", "RequestLimitExceeded", 503, Unavailable),
        ("RunInstances", "InternalError", 500, Unavailable),
    ],
)
def test_a_cloud_that_cannot_be_asked_is_no_finding(
    lab: Ec2Lab, tenant: Tenant, action: str, code: str, status: int, kind: type[Exception]
) -> None:
    lab.cloud.faults({"action": action, "error": code, "status": status})
    with pytest.raises(kind):
        tenant.provider.inspect(lab.image, lab.instance_type, {})


def test_check_of_a_region_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import EndpointConnectionError

    provider = Ec2Provider(installation="x", region="eu-nowhere-1", access_key_id="x", secret_access_key="x")

    def nobody(**_: object) -> None:
        raise EndpointConnectionError(endpoint_url="https://ec2.eu-nowhere-1.example")

    monkeypatch.setattr(provider._ec2, "describe_instances", nobody)
    with pytest.raises(Exception, match="correct `region`"):
        provider.check()


def test_check_of_a_cloud_that_is_not_there() -> None:
    provider = Ec2Provider(
        installation="x", region=REGION, endpoint_url="http://127.0.0.1:9", access_key_id="x", secret_access_key="x"
    )
    with pytest.raises(Unavailable):
        provider.check()
