"""The labs of our own providers. A new provider joins the suite by a lab of its own in `LABS`."""

from __future__ import annotations

import base64
import copy
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from nova_lab import nova_lab

from providers import localcloud
from providers.base import TAG_INSTALLATION
from providers.contract.lab import Lab, unable
from providers.ec2 import Ec2Provider

REGION = "eu-west-1"


class Ec2Lab(Lab):
    """The EC2 provider against the local cloud, over HTTP."""

    image = "ami-local"
    instance_type = "t3.micro"
    absent_ids = ("i-0000000000000000a", "i-0000000000000000b")
    retry_after_s = 7
    crowd = 250
    _verbs = {
        "check": "DescribeInstances",
        "launch": "RunInstances",
        "instances": "DescribeInstances",
        "terminate": "TerminateInstances",
        "console": "GetConsoleOutput",
        "inspect": "DescribeImages",
        "impaired": "DescribeInstanceStatus",
    }
    wrong_settings = {
        "image": {"image": "ami-0000000000000000a"},
        "instance type": {"instance_type": "t3.none"},
        "subnet": {"template": {"subnet_id": "subnet-0000000000000000a"}},
        "security group": {"template": {"security_group_ids": ["sg-0000000000000000a"]}},
        "key": {"template": {"key_name": "none"}},
    }
    _faults: dict[str, dict[str, Any]] = {
        "lost reply": {"drop": "reply"},
        "lost request": {"drop": "request"},
        "no capacity": {"error": "InsufficientInstanceCapacity", "status": 500},
        "quota": {"error": "VcpuLimitExceeded", "status": 400},
        "throttled": {"error": "RequestLimitExceeded", "status": 503, "retry_after_s": retry_after_s},
        "refused": {"error": "AuthFailure", "status": 401},
        "expired": {"error": "ExpiredToken", "status": 403},
        "broken": {"error": "InternalError", "status": 500},
    }

    def __init__(self, cloud: localcloud.LocalCloud) -> None:
        import boto3

        self.cloud = cloud
        keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
        self.sdk = boto3.client("ec2", region_name=REGION, endpoint_url=cloud.endpoint_url, **keys)

        self._clients: dict[float, Ec2Provider] = {}

    def provider(self, installation: str, *, timeout_s: float = 10) -> Ec2Provider:
        if timeout_s not in self._clients:
            self._clients[timeout_s] = Ec2Provider(
                installation="",
                region=REGION,
                endpoint_url=self.cloud.endpoint_url,
                access_key_id="local",
                secret_access_key="local",
                timeout_s=timeout_s,
            )
        # The SDK takes a tenth of a second to make a client; a hundred tests share one.
        provider = copy.copy(self._clients[timeout_s])
        provider._installation = installation
        return provider

    def strangers(self) -> set[str]:
        theirs = [{"Key": TAG_INSTALLATION, "Value": f"other-{uuid.uuid4().hex}"}]
        marked = self._start(TagSpecifications=[{"ResourceType": "instance", "Tags": theirs}])
        return {marked, self._start()}

    def _start(self, **more: Any) -> str:
        reply = self.sdk.run_instances(ImageId=self.image, InstanceType="t3.micro", MinCount=1, MaxCount=1, **more)
        return reply["Instances"][0]["InstanceId"]

    def alive(self, ids: set[str]) -> set[str]:
        machines = self.cloud.machines()
        return {name for name in ids if machines[name]["state"] not in ("shutting-down", "terminated")}

    def launched(self, installation: str) -> set[str]:
        ours = [{"Name": f"tag:{TAG_INSTALLATION}", "Values": [installation]}]
        pages = self.sdk.get_paginator("describe_instances").paginate(Filters=ours)
        return {each["InstanceId"] for page in pages for part in page["Reservations"] for each in part["Instances"]}

    def user_data(self, instance_id: str) -> bytes:
        reply = self.sdk.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
        return base64.b64decode(reply["UserData"]["Value"])

    def power_off(self, instance_id: str) -> None:
        (Path(self.cloud.machines()[instance_id]["root"]) / "run/initctl").write_text("poweroff\n")

    def calls(self) -> int:
        return sum(self.cloud.calls().values())

    def fault(self, verb: str, what: str, *, after: int = 0) -> None:
        if what not in self._faults:
            unable(f"let {verb} fail by {what}")
        self.cloud.faults({"action": self._verbs[verb], "times": 1, "skip": after, **self._faults[what]})

    def slow(self, verb: str, delay_s: float) -> None:
        self.cloud.faults({"action": self._verbs[verb], "times": 1, "delay_s": delay_s})

    def hide_new(self, age_s: float) -> None:
        self.cloud.faults({"action": "DescribeInstances", "hide_new_s": age_s})

    def short_pages(self, length: int) -> None:
        self.cloud.faults({"action": "DescribeInstances", "page_size": length})

    def scarce(self, count: int) -> None:
        self.cloud.faults({"action": "RunInstances", "max_given": count, "times": 1})

    def impair(self, instance_id: str) -> None:
        self.cloud.faults({"impaired": True, "where": {"InstanceId": instance_id}})

    def reclaim(self, instance_id: str) -> None:
        self.cloud.reclaim(instance_id, 0.1)

    def inert(self) -> None:
        self.cloud.faults({"no_boot": True})

    def heal(self) -> None:
        self.cloud.clear_faults()


class Ec2FleetLab(Ec2Lab):
    """The same where EC2 has a choice of types: every launch is a CreateFleet."""

    template = {"instance_types": ["t3.micro", "t3.small"]}
    wrong_settings = {}  # those that differ are of one type or place
    _verbs = Ec2Lab._verbs | {"launch": "CreateFleet"}

    def may_cost(self, verb: str, machines: int) -> int:
        return super().may_cost(verb, machines) + (2 if verb == "launch" else 0)  # its template, and the old ones

    def fault(self, verb: str, what: str, *, after: int = 0) -> None:
        shortages = {"no capacity": "UnfulfillableCapacity", "quota": "VcpuLimitExceeded"}
        if what in shortages:
            self.cloud.faults({"action": "CreateFleet", "shortage": shortages[what], "times": 2})
        else:
            super().fault(verb, what, after=after)

    def scarce(self, count: int) -> None:
        first, second = ({"InstanceType": name} for name in self.template["instance_types"])
        self.cloud.faults(
            {"max_given": count, "where": first, "times": 1},
            {"shortage": "InsufficientInstanceCapacity", "where": second, "times": 1},
        )


@contextmanager
def ec2_lab(folder: Path, lab: type[Ec2Lab] = Ec2Lab) -> Iterator[Ec2Lab]:
    with localcloud.start(folder, boot_delay_s=0.1, stop_delay_s=0.1, forget_s=5) as cloud:
        yield lab(cloud)


LABS = {"ec2": ec2_lab, "ec2-fleet": partial(ec2_lab, lab=Ec2FleetLab), "nova": nova_lab}


def own_cloud(kind: type[Ec2Lab] = Ec2Lab) -> Any:
    """The fixture `cloud` of a module that tests EC2 only."""

    @pytest.fixture(scope="module")
    def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ec2Lab]:
        with ec2_lab(tmp_path_factory.mktemp("ec2"), kind) as lab:
            yield lab

    return cloud
