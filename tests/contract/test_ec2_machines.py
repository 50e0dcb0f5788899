"""What EC2 machines are given, and what they tell of their state and their end."""

from __future__ import annotations

from typing import Any

import pytest
from labs import Ec2Lab, own_cloud

from providers import ec2_template
from providers.base import Cause, InstanceState, LaunchRequest, Misconfigured
from providers.contract.lab import Tenant, ids, is_up

cloud = own_cloud()


# -- settings --


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ({"instance_types": []}, "instance_types"),
        ({"instance_types": "t3.micro"}, "instance_types"),
        ({"subnet_ids": ["subnet-1", ""]}, "subnet_ids"),
        ({"subnet_id": "subnet-1", "subnet_ids": ["subnet-2"]}, "subnet_id and subnet_ids"),
        ({"subnet_ids": ["subnet-2"], "availability_zone": "eu-west-1a"}, "availability_zone"),
        ({"allocation_strategy": "cheapest"}, "allocation_strategy"),
        ({"allocation_strategy": "prioritized", "market": "spot"}, "allocation_strategy"),
        ({"allocation_strategy": "diversified"}, "allocation_strategy"),
        ({"max_price": 0.1}, "market: spot"),
        ({"max_price": "dear", "market": "spot"}, "max_price"),
        ({"max_price": -1, "market": "spot"}, "max_price"),
        ({"max_price": True, "market": "spot"}, "max_price"),
        ({"block_devices": [{}]}, r"block_devices\[0\].device .* missing"),
        ({"block_devices": [{"device": "/dev/sdf"}]}, r"block_devices\[0\].size_gb .* missing"),
        ({"block_devices": [{"device": "root", "size": 8}]}, r"block_devices\[0\].size"),
        ({"block_devices": [{"device": "root", "type": "fast"}]}, r"block_devices\[0\].type"),
        ({"block_devices": [{"device": "root", "type": "io2"}]}, r"block_devices\[0\].iops .* missing"),
        ({"block_devices": [{"device": "root", "kms_key_id": "k"}]}, r"block_devices\[0\].encrypted .* missing"),
        ({"block_devices": [{"device": "root"}, {"device": "root"}]}, "twice"),
        ({"block_devices": [{"device": "root"}], "root_volume_gb": 8}, "twice"),
        ({"block_devices": ["/dev/sdf"]}, "block_devices"),
    ],
)
def test_settings_that_make_no_sense_are_named(tenant: Tenant, template: dict[str, Any], told: str) -> None:
    with pytest.raises(Misconfigured, match=told):
        tenant.provider.validate(template)


def test_block_devices_come_as_asked_tagged_and_go_with_the_machine(tenant: Tenant, ec2: Any) -> None:
    snapshot = ec2.create_snapshot(VolumeId=ec2.create_volume(Size=5, AvailabilityZone="eu-west-1a")["VolumeId"])
    template = {
        "block_devices": [
            {"device": "root", "size_gb": 30, "type": "gp3", "iops": 4000, "throughput": 200, "encrypted": True},
            {"device": "/dev/sdf", "size_gb": 100, "type": "st1"},
            {"device": "/dev/sdg", "size_gb": 6, "snapshot_id": snapshot["SnapshotId"]},
        ]
    }
    tenant.provider.validate(template)
    (given,) = tenant.provider.launch(tenant.request(template=template))
    seen = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [given.id]}])["Volumes"]
    volumes = {each["Attachments"][0]["Device"]: each for each in seen}
    root, data, copy = volumes["/dev/sda1"], volumes["/dev/sdf"], volumes["/dev/sdg"]
    assert (root["Size"], root["VolumeType"], root["Iops"], root["Throughput"]) == (30, "gp3", 4000, 200)
    assert root["Encrypted"]
    assert (data["Size"], data["VolumeType"]) == (100, "st1")
    assert copy["SnapshotId"] == snapshot["SnapshotId"]
    assert all({tag["Key"]: tag["Value"] for tag in volume["Tags"]} == given.tags for volume in seen)
    tenant.provider.terminate([given.id])
    tenant.wait_for(lambda seen: seen[0].state is InstanceState.ENDED)
    names = [volume["VolumeId"] for volume in seen]
    assert ec2.describe_volumes(Filters=[{"Name": "volume-id", "Values": names}])["Volumes"] == []


def test_network_interfaces_bear_the_tags(tenant: Tenant, ec2: Any) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    seen = ec2.describe_network_interfaces(Filters=[{"Name": "attachment.instance-id", "Values": [given.id]}])
    (interface,) = seen["NetworkInterfaces"]
    assert {tag["Key"]: tag["Value"] for tag in interface["TagSet"]} == given.tags


def test_a_spot_machine_is_asked_for_once_at_no_more_than_the_price() -> None:
    template = {"market": "spot", "max_price": "0.031", "instance_profile": "arn:aws:iam::1:instance-profile/x"}
    asked = ec2_template.run_instances(LaunchRequest("launch-1", 2, "ami-1", "t3.micro", b"", {}, template), {"a": "b"}, "")
    assert asked["InstanceMarketOptions"] == {
        "MarketType": "spot",
        "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate", "MaxPrice": "0.031"},
    }
    assert asked["IamInstanceProfile"] == {"Arn": "arn:aws:iam::1:instance-profile/x"}
    assert (asked["MinCount"], asked["MaxCount"]) == (1, 2)
    tagged = {each["ResourceType"] for each in asked["TagSpecifications"]}
    assert tagged == {"instance", "volume", "network-interface", "spot-instances-request"}


def test_one_subnet_and_one_type_need_no_fleet(lab: Ec2Lab, tenant: Tenant, ec2: Any) -> None:
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    before = lab.calls()
    template = {"subnet_ids": [subnet, subnet], "instance_types": ["t3.micro"]}
    tenant.provider.launch(tenant.request(template=template))
    assert lab.calls() == before + 1


# -- ends --


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("Server.InsufficientInstanceCapacity", Cause.NO_CAPACITY),
        ("Client.VolumeLimitExceeded", Cause.QUOTA),
        ("Client.InstanceLimitExceeded", Cause.QUOTA),
        ("Client.InternalError", None),
        ("Server.InternalError", None),
        ("Client.InvalidSnapshot.NotFound", None),
    ],
)
def test_a_machine_that_never_came_up_tells_the_cause_by_its_code(
    lab: Ec2Lab, tenant: Tenant, code: str, cause: Cause | None
) -> None:
    lab.cloud.faults({"stillborn": code, "times": 1})
    tenant.provider.launch(tenant.request())
    (seen,) = tenant.wait_for(lambda seen: seen[0].state is InstanceState.ENDED)
    assert seen.cause is cause
    assert seen.fault and code in seen.fault


@pytest.mark.parametrize("how", ["by us", "by its guest"])
def test_a_machine_that_was_wanted_no_more_has_no_cause(lab: Ec2Lab, tenant: Tenant, how: str) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    tenant.wait_for_console(given.id, "up")
    if how == "by us":
        tenant.provider.terminate([given.id])
    else:
        lab.power_off(given.id)
    (seen,) = tenant.wait_for(lambda seen: seen[0].state is InstanceState.ENDED)
    assert seen.cause is None
    assert seen.fault


def test_the_console_can_be_read_after_the_end(tenant: Tenant) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    tenant.wait_for_console(given.id, "up")
    tenant.provider.terminate([given.id])
    tenant.wait_for(lambda seen: seen[0].state is InstanceState.ENDED)
    assert "up" in tenant.provider.console(given.id)


# -- status checks --


def test_impaired_machines_are_found_on_every_page_in_one_listing(lab: Ec2Lab, tenant: Tenant) -> None:
    given = sorted(ids(tenant.provider.launch(tenant.request(count=6))))
    tenant.wait_for(lambda seen: all(map(is_up, seen)))
    lab.cloud.faults({"action": "DescribeInstanceStatus", "page_size": 2})
    for name in given[::2]:
        lab.impair(name)
    assert set(tenant.provider.impaired()) == set(given[::2])
    assert "instance status check failed since" in tenant.provider.impaired()[given[0]]
