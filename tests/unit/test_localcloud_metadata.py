"""A machine of the local cloud asks its cloud about itself, as IMDSv2 has it, and is told when it is taken back."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from test_localcloud import client, cloud, launch, machine, root, shared, until

from providers.localcloud import LocalCloud

__all__ = ["cloud", "shared"]

ASK = """#!/bin/sh
python3 - <<'PYTHON'
import os, urllib.request
base = os.environ["ORCHESTRATOR_IMDS"] + "/latest/"
ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
token = urllib.request.urlopen(urllib.request.Request(base + "api/token", headers=ttl, method="PUT")).read().decode()
ask = urllib.request.Request(base + "meta-data/instance-id", headers={"X-aws-ec2-metadata-token": token})
open("who", "wb").write(urllib.request.urlopen(ask).read())
PYTHON
"""
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(url: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(
        url, headers={key.replace("_", "-"): each for key, each in headers.items()}, method=method
    )
    try:
        with DIRECT.open(request, timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def booted(cloud: LocalCloud, **more: Any) -> tuple[str, str]:
    """A machine that is up: its id and the address of its metadata."""
    (name,) = launch(cloud, "#!/bin/sh\necho up\n", **more)
    until(lambda: machine(cloud, name)["init"])
    return name, f"{machine(cloud, name)['metadata']}/latest"


def token(metadata: str) -> str:
    status, text = call(f"{metadata}/api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="21600")
    assert status == 200
    return text


def ask(metadata: str, path: str) -> tuple[int, str]:
    return call(f"{metadata}/meta-data/{path}", X_aws_ec2_metadata_token=token(metadata))


def end_of(cloud: LocalCloud, name: str) -> dict[str, Any]:
    until(lambda: machine(cloud, name)["state"] == "terminated")
    seen: dict[str, Any] = client(cloud.endpoint_url).describe_instances(InstanceIds=[name])["Reservations"][0][
        "Instances"
    ][0]
    return seen


def test_a_guest_finds_itself(cloud: LocalCloud) -> None:
    names = launch(cloud, ASK, count=2)
    places: list[Path] = [root(cloud, name) / "who" for name in names]
    until(lambda: all(place.exists() and place.read_text() for place in places))
    assert [place.read_text() for place in places] == names


def test_nothing_is_told_without_a_token(cloud: LocalCloud) -> None:
    _, metadata = booted(cloud)
    assert call(f"{metadata}/meta-data/instance-id")[0] == 401
    assert call(f"{metadata}/meta-data/instance-id", X_aws_ec2_metadata_token="made-up")[0] == 401
    assert call(f"{metadata}/api/token", "PUT")[0] == 400
    assert ask(metadata, "spot/instance-action")[0] == 404
    assert ask(metadata, "instance-life-cycle") == (200, "on-demand")


def test_a_spot_machine_is_told_and_then_taken(cloud: LocalCloud) -> None:
    name, metadata = booted(cloud, InstanceMarketOptions={"MarketType": "spot"})
    cloud.reclaim(name, 1)
    status, text = ask(metadata, "spot/instance-action")
    told = json.loads(text)
    assert (status, told["action"]) == (200, "terminate")
    ends = datetime.strptime(told["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(ends - datetime.now(UTC)) < timedelta(seconds=10)
    assert machine(cloud, name)["state"] == "running", "it has its notice still"
    assert end_of(cloud, name)["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert machine(cloud, name)["metadata"] is None


def test_spot_machines_are_reclaimed_by_a_fault(cloud: LocalCloud) -> None:
    cloud.faults({"reclaim_s": 0.1, "where": {"Market": "spot"}, "times": 1})
    stays, _ = booted(cloud)
    (goes,) = launch(cloud, "#!/bin/sh\n", InstanceMarketOptions={"MarketType": "spot"})
    assert end_of(cloud, goes)["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert machine(cloud, stays)["state"] == "running"


def test_who_is_not_there_cannot_be_reclaimed(cloud: LocalCloud) -> None:
    with pytest.raises(ValueError, match="no machine i-0"):
        cloud.reclaim("i-0")


def test_a_slow_guest_does_not_hold_up_others(cloud: LocalCloud) -> None:
    import socket

    (_, slow), (_, other) = booted(cloud), booted(cloud)
    port = int(slow.removesuffix("/latest").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.sendall(b"GET /latest/")
        assert ask(other, "instance-type") == (200, "t3.micro")


@pytest.mark.parametrize(
    "wrong", [{"shortage": "X", "where": "t3.micro"}, {"shortage": "X", "where": {"InstanceType": 3}}, {"where": {}}]
)
def test_faults_without_sense_are_refused(cloud: LocalCloud, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        cloud.faults(wrong)


def test_a_shortage_strikes_only_where_it_is(cloud: LocalCloud) -> None:
    cloud.faults({"shortage": "InsufficientInstanceCapacity", "where": {"InstanceType": "m6i.large"}})
    with pytest.raises(Exception, match="InsufficientInstanceCapacity"):
        client(cloud.endpoint_url).run_instances(ImageId="ami-local", InstanceType="m6i.large", MinCount=1, MaxCount=2)
    assert launch(cloud, "#!/bin/sh\n")


def test_spot_requests_are_tagged_for_spot_machines_only(cloud: LocalCloud) -> None:
    marks = [{"ResourceType": "spot-instances-request", "Tags": [{"Key": "a", "Value": "b"}]}]
    with pytest.raises(Exception, match="InvalidParameterValue"):
        launch(cloud, "#!/bin/sh\n", TagSpecifications=marks)
    assert launch(cloud, "#!/bin/sh\n", TagSpecifications=marks, InstanceMarketOptions={"MarketType": "spot"})
