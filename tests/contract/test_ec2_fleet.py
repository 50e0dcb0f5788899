"""Launches where EC2 has a choice: one CreateFleet, in all its outcomes, and the launch templates it needs."""

from __future__ import annotations

from typing import Any

import pytest
from labs import Ec2FleetLab, Ec2Lab, own_cloud
from test_ec2 import CASES

from providers import ec2_fleet, ec2_template
from providers.base import (
    TAG_INSTALLATION,
    InstanceState,
    LaunchRequest,
    Misconfigured,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    Unauthorised,
    Unavailable,
)
from providers.contract.lab import Tenant, ids

FIRST, SECOND = "t3.micro", "t3.small"


cloud = own_cloud(Ec2FleetLab)


def templates(ec2: Any, tenant: Tenant) -> list[Any]:
    ours = [{"Name": f"tag:{TAG_INSTALLATION}", "Values": [tenant.installation]}]
    return list(ec2.describe_launch_templates(Filters=ours, MaxResults=200)["LaunchTemplates"])


def machines(ec2: Any, given: set[str]) -> list[Any]:
    reservations = ec2.describe_instances(InstanceIds=sorted(given))["Reservations"]
    return [each for part in reservations for each in part["Instances"]]


# -- outcomes --


def test_a_fleet_takes_the_next_type_where_the_first_has_no_room(lab: Ec2Lab, tenant: Tenant, ec2: Any) -> None:
    lab.cloud.faults({"shortage": "InsufficientInstanceCapacity", "where": {"InstanceType": FIRST}})
    given = ids(tenant.provider.launch(tenant.request(count=3)))
    assert [each["InstanceType"] for each in machines(ec2, given)] == [SECOND] * 3


def test_a_fleet_takes_from_several_types_what_each_has(lab: Ec2Lab, tenant: Tenant, ec2: Any) -> None:
    lab.cloud.faults({"max_given": 1, "where": {"InstanceType": FIRST}})
    given = ids(tenant.provider.launch(tenant.request(count=3)))
    assert sorted(each["InstanceType"] for each in machines(ec2, given)) == [FIRST, SECOND, SECOND]


def test_a_fleet_over_zones_takes_the_one_with_room(lab: Ec2Lab, tenant: Tenant, ec2: Any) -> None:
    full, free = (each["SubnetId"] for each in ec2.describe_subnets()["Subnets"][:2])
    lab.cloud.faults({"shortage": "InsufficientInstanceCapacity", "where": {"SubnetId": full}})
    given = ids(tenant.provider.launch(tenant.request(count=2, template={"subnet_ids": [full, free]})))
    assert [each["SubnetId"] for each in machines(ec2, given)] == [free] * 2
    assert lab.cloud.calls()["CreateFleet"]


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ("InsufficientInstanceCapacity", "UnfulfillableCapacity", NoCapacity),
        ("VcpuLimitExceeded", "MaxSpotInstanceCountExceeded", QuotaExceeded),
        ("VcpuLimitExceeded", "InsufficientInstanceCapacity", NoCapacity),
        ("InvalidFleetConfiguration", "InsufficientInstanceCapacity", NoCapacity),
        ("InvalidFleetConfiguration", "InvalidParameterValue", Misconfigured),
        ("UnauthorizedOperation", "UnauthorizedOperation", Unauthorised),
        ("RequestLimitExceeded", "InternalError", NoCapacity),
    ],
)
def test_a_fleet_without_machines_is_named_by_what_its_pools_say(
    lab: Ec2Lab, tenant: Tenant, first: str, second: str, kind: type[ProviderError]
) -> None:
    for name, code in ((FIRST, first), (SECOND, second)):
        lab.cloud.faults({"shortage": code, "where": {"InstanceType": name}})
    with pytest.raises(ProviderError) as caught:
        tenant.provider.launch(tenant.request())
    assert type(caught.value) is kind
    assert all(f"{name}: " in str(caught.value) for name in (FIRST, SECOND))
    assert first in str(caught.value) and second in str(caught.value)
    assert tenant.launched() == set()


def test_a_repeat_of_a_fleet_that_made_nothing_makes_nothing_either(lab: Ec2Lab, tenant: Tenant) -> None:
    """EC2 keeps the answer to a token, so room that came meanwhile is for another launch."""
    lab.cloud.faults({"shortage": "UnfulfillableCapacity"})
    request = tenant.request()
    for _ in range(2):
        with pytest.raises(NoCapacity):
            tenant.provider.launch(request)
        lab.heal()
    assert tenant.launched() == set()
    assert len(tenant.provider.launch(tenant.request())) == 1


@pytest.mark.parametrize(("code", "status", "kind"), CASES)
def test_codes_of_a_refused_fleet(lab: Ec2Lab, tenant: Tenant, code: str, status: int, kind: type[ProviderError]) -> None:
    lab.cloud.faults({"action": "CreateFleet", "times": 1, "error": code, "status": status})
    with pytest.raises(ProviderError) as caught:
        tenant.provider.launch(tenant.request())
    assert type(caught.value) is kind
    assert tenant.launched() == set()


def test_machines_of_a_fleet_bear_the_safeguards_and_all_tags(lab: Ec2Lab, tenant: Tenant, ec2: Any) -> None:
    template = {**lab.template, "market": "spot", "root_volume_gb": 21}
    (given,) = tenant.provider.launch(tenant.request(template=template))
    assert given.state is InstanceState.PENDING
    (seen,) = machines(ec2, {given.id})
    assert seen["InstanceLifecycle"] == "spot"
    assert seen["MetadataOptions"]["HttpTokens"] == "required"
    assert seen["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    behaviour = ec2.describe_instance_attribute(InstanceId=given.id, Attribute="instanceInitiatedShutdownBehavior")
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    (volume,) = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [given.id]}])["Volumes"]
    assert volume["Size"] == 21
    assert {tag["Key"]: tag["Value"] for tag in volume["Tags"]} == given.tags


def test_a_job_that_names_another_type_gets_just_that(lab: Ec2Lab, tenant: Tenant, ec2: Any) -> None:
    before = lab.cloud.calls().get("CreateFleet")
    given = ids(tenant.provider.launch(tenant.request(instance_type="m6i.large")))
    assert [each["InstanceType"] for each in machines(ec2, given)] == ["m6i.large"]
    assert lab.cloud.calls().get("CreateFleet") == before


# -- launch templates --


def test_a_launch_has_one_template_however_often_it_is_repeated(tenant: Tenant, ec2: Any) -> None:
    request = tenant.request()
    for _ in range(3):
        tenant.provider.launch(request)
    (template,) = templates(ec2, tenant)
    assert {"Key": TAG_INSTALLATION, "Value": tenant.installation} in template["Tags"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"error": "RequestLimitExceeded", "status": 503}, RateLimited),
        ({"error": "InternalError", "status": 500}, Unavailable),
        ({"drop": "reply"}, Unavailable),
    ],
)
def test_a_template_that_could_not_be_made_means_that_nothing_was(
    lab: Ec2Lab, tenant: Tenant, ec2: Any, fault: dict[str, Any], kind: type[ProviderError]
) -> None:
    lab.cloud.faults({"action": "CreateLaunchTemplate", "times": 1, **fault})
    request = tenant.request()
    with pytest.raises(kind):
        tenant.provider.launch(request)
    assert tenant.launched() == set()
    assert len(tenant.provider.launch(request)) == 1
    assert len(templates(ec2, tenant)) == 1


def test_a_template_that_is_not_visible_yet_means_try_again(lab: Ec2Lab, tenant: Tenant) -> None:
    lab.cloud.faults({"action": "CreateFleet", "times": 1, "error": "InvalidLaunchTemplateName.NotFoundException"})
    request = tenant.request()
    with pytest.raises(Unavailable, match="try again"):
        tenant.provider.launch(request)
    assert len(tenant.provider.launch(request)) == 1


def test_old_templates_are_deleted_and_never_those_of_others(lab: Ec2Lab, tenant: Tenant, ec2: Any) -> None:
    other, unlike = Tenant(lab), f"by-hand-{tenant.installation}"
    other.provider.launch(other.request())
    marks = [{"Key": TAG_INSTALLATION, "Value": tenant.installation}]
    ec2.create_launch_template(
        LaunchTemplateName=unlike,
        LaunchTemplateData={"ImageId": lab.image},
        TagSpecifications=[{"ResourceType": "launch-template", "Tags": marks}],
    )
    tenant.provider.launch(tenant.request())
    ec2_fleet.forget_templates(ec2, tenant.installation, ec2_fleet.KEPT_S)
    assert len(templates(ec2, tenant)) == 2, "what is younger than an hour stays: its launch may be repeated"
    ec2_fleet.forget_templates(ec2, tenant.installation, kept_s=0)
    assert [each["LaunchTemplateName"] for each in templates(ec2, tenant)] == [unlike]
    assert len(templates(ec2, other)) == 1


@pytest.mark.parametrize("action", ["DescribeLaunchTemplates", "DeleteLaunchTemplate"])
def test_a_failed_clean_up_does_not_spoil_a_launch(
    lab: Ec2Lab, tenant: Tenant, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ec2_fleet, "KEPT_S", 0.0)
    lab.cloud.faults({"action": action, "error": "UnauthorizedOperation", "status": 403})
    assert len(tenant.provider.launch(tenant.request())) == 1


# -- parameters --


def request(**template: object) -> LaunchRequest:
    return LaunchRequest("launch-1", 4, "ami-1", FIRST, b"", {}, {"instance_types": [FIRST, SECOND], **template})


def test_a_spot_fleet_asks_by_price_and_capacity_and_never_above_the_price() -> None:
    asked = ec2_template.create_fleet(request(market="spot", max_price=0.25, subnet_ids=["s-1", "s-2"]), {}, "name")
    assert asked["Type"] == "instant"
    assert asked["ClientToken"] == "launch-1"
    assert asked["TargetCapacitySpecification"] == {"TotalTargetCapacity": 4, "DefaultTargetCapacityType": "spot"}
    assert asked["SpotOptions"] == {
        "AllocationStrategy": "price-capacity-optimized",
        "InstanceInterruptionBehavior": "terminate",
    }
    (config,) = asked["LaunchTemplateConfigs"]
    assert [(each["InstanceType"], each["SubnetId"], each["MaxPrice"]) for each in config["Overrides"]] == [
        (kind, subnet, "0.25") for kind in (FIRST, SECOND) for subnet in ("s-1", "s-2")
    ]


def test_a_prioritized_fleet_prefers_types_in_the_order_of_the_list() -> None:
    asked = ec2_template.create_fleet(request(allocation_strategy="prioritized"), {}, "name")
    assert asked["OnDemandOptions"] == {"AllocationStrategy": "prioritized"}
    (config,) = asked["LaunchTemplateConfigs"]
    assert [(each["InstanceType"], each["Priority"]) for each in config["Overrides"]] == [(FIRST, 0.0), (SECOND, 1.0)]


def test_only_spot_requests_are_tagged_as_such() -> None:
    """EC2 refuses a whole fleet for tags of spot requests it does not make."""
    kinds = {
        market: {
            each["ResourceType"] for each in ec2_template.template_data(request(market=market), {}, "")["TagSpecifications"]
        }
        for market in ("spot", "on-demand")
    }
    assert kinds["spot"] - kinds["on-demand"] == {"spot-instances-request"}
    assert kinds["on-demand"] == {"network-interface"}
