"""1,000 machines launched, listed and terminated: API calls and seconds of our EC2 provider, beside a plain boto3 loop.

Both in one run against one local cloud, each in a region of its own, where the other's machines cost it nothing. The
loop is as people write it: RunInstances, CreateTags, DescribeInstances and TerminateInstances for each machine.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3

from benchmarks.lab import report
from providers import localcloud
from providers.base import TAG_INSTALLATION, TAG_POOL, LaunchRequest
from providers.ec2 import Ec2Provider

MACHINES = 1000
LAUNCHED_AT_ONCE = 100
FLOOR = 1 / 20


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="eo-bench-"))
    try:
        with localcloud.start(folder, boot_delay_s=0, stop_delay_s=0) as cloud:
            cloud.faults({"no_boot": True})
            ours_calls, ours_s = _measured(cloud, _ours)
            plain_calls, plain_s = _measured(cloud, _plain)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ratio = ours_calls / plain_calls
    return report(
        "providers",
        ratio <= FLOOR,
        machines=MACHINES,
        calls=ours_calls,
        plain_calls=plain_calls,
        seconds=ours_s,
        plain_seconds=plain_s,
        ratio=ratio,
        ratio_most=FLOOR,
    )


def _measured(cloud: localcloud.LocalCloud, run: Callable[[str], None]) -> tuple[int, float]:
    """How many calls it took, and how many seconds."""
    before, began = sum(cloud.calls().values()), time.perf_counter()
    run(cloud.endpoint_url)
    return sum(cloud.calls().values()) - before, time.perf_counter() - began


def _ours(endpoint_url: str) -> None:
    provider = Ec2Provider(
        installation="eo-bench",
        region="eu-west-1",
        endpoint_url=endpoint_url,
        access_key_id="local",
        secret_access_key="local",
    )
    given = set()
    for number in range(MACHINES // LAUNCHED_AT_ONCE):
        request = LaunchRequest(
            launch_id=f"eo-bench-{number}",
            count=LAUNCHED_AT_ONCE,
            image="ami-local",
            instance_type="t3.micro",
            user_data=b"#!/bin/sh\n",
            tags={TAG_POOL: "bench"},
        )
        given |= {instance.id for instance in provider.launch(request)}
    listed = {instance.id for instance in provider.instances()}
    assert listed == given and len(given) == MACHINES
    provider.terminate(given)


def _plain(endpoint_url: str) -> None:
    keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    ec2: Any = boto3.client("ec2", region_name="eu-west-2", endpoint_url=endpoint_url, **keys)
    tags = [{"Key": TAG_INSTALLATION, "Value": "eo-bench"}, {"Key": TAG_POOL, "Value": "bench"}]
    given = []
    for _ in range(MACHINES):
        asked = {"ImageId": "ami-local", "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
        name = ec2.run_instances(**asked, UserData="#!/bin/sh\n")["Instances"][0]["InstanceId"]
        ec2.create_tags(Resources=[name], Tags=tags)
        given.append(name)
    for name in given:
        ec2.describe_instances(InstanceIds=[name])
    for name in given:
        ec2.terminate_instances(InstanceIds=[name])


if __name__ == "__main__":
    sys.exit(main())
