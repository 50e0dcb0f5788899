"""The labs of our own providers. A new provider joins the suite by a lab of its own in `LABS`."""

from __future__ import annotations

import base64
import copy
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
        self._ec2 = boto3.client("ec2", region_name=REGION, endpoint_url=cloud.endpoint_url, **keys)

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
        reply = self._ec2.run_instances(ImageId=self.image, InstanceType="t3.micro", MinCount=1, MaxCount=1, **more)
        return reply["Instances"][0]["InstanceId"]

    def alive(self, ids: set[str]) -> set[str]:
        machines = self.cloud.machines()
        return {name for name in ids if machines[name]["state"] not in ("shutting-down", "terminated")}

    def launched(self, installation: str) -> set[str]:
        ours = [{"Name": f"tag:{TAG_INSTALLATION}", "Values": [installation]}]
        pages = self._ec2.get_paginator("describe_instances").paginate(Filters=ours)
        return {each["InstanceId"] for page in pages for part in page["Reservations"] for each in part["Instances"]}

    def user_data(self, instance_id: str) -> bytes:
        reply = self._ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
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

    def inert(self) -> None:
        self.cloud.faults({"no_boot": True})

    def heal(self) -> None:
        self.cloud.clear_faults()


@contextmanager
def ec2_lab(folder: Path) -> Iterator[Lab]:
    with localcloud.start(folder, boot_delay_s=0.1, stop_delay_s=0.1, forget_s=5) as cloud:
        yield Ec2Lab(cloud)


LABS = {"ec2": ec2_lab}
