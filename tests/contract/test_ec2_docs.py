"""docs/aws.md holds: its policy allows what the provider calls and no more, its commands and tables are the code's."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from labs import Ec2Lab, own_cloud

from orchestrator.cli.pools import _launch
from orchestrator.clouds import Clouds
from orchestrator.fleet.pools import check_launch
from orchestrator.fleet.rungs import OURS
from orchestrator.settings import CloudSettings, Settings
from providers import ec2_fleet, ec2_template
from providers.contract.lab import Tenant, ids, is_up

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "aws.md").read_text()
POLICY: dict[str, Any] = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.strip().splitlines()]
OUR_TAG = "elastic-orchestrator:installation"


cloud = own_cloud()


def words(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def allowed() -> set[str]:
    return {action for statement in POLICY["Statement"] for action in words(statement["Action"])}


def test_the_policy_allows_each_call_of_the_provider_and_none_besides(
    lab: Ec2Lab, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ec2_fleet, "KEPT_S", 0.0)
    before = lab.cloud.calls()
    tenant.provider.check()
    given = tenant.provider.launch(tenant.request(template={"root_volume_gb": 9}))
    given += tenant.provider.launch(tenant.request(template={"instance_types": ["t3.micro", "t3.small"]}))
    tenant.wait_for(lambda seen: all(map(is_up, seen)))
    tenant.provider.impaired()
    tenant.provider.console(given[0].id)
    settings = {"key_name": "k", "security_group_ids": ["sg-0000000000000000a"]}
    tenant.provider.inspect(lab.image, lab.instance_type, settings)
    for kind in ("images", "sizes", "locations"):
        tenant.provider.catalogue(kind)
    tenant.provider.terminate(ids(given))
    called = {f"ec2:{action}" for action, count in lab.cloud.calls().items() if count > before.get(action, 0)}
    assert called == allowed() - {"ec2:CreateTags"}, "CreateTags is no call: EC2 asks for it where a launch has tags"


def test_the_policy_is_broad_in_nothing_that_changes_anything() -> None:
    assert not [action for action in allowed() if "*" in action]
    for statement in POLICY["Statement"]:
        actions = words(statement["Action"])
        assert statement["Effect"] == "Allow"
        if all(action.startswith("ec2:Describe") for action in actions):
            continue
        assert "*" not in words(statement["Resource"])
        makes_machines = any("instance/*" in resource for resource in words(statement["Resource"]))
        tags_only = actions == ["ec2:CreateTags"]
        if makes_machines or tags_only or any(re.match("ec2:(Terminate|Delete)", action) for action in actions):
            told = json.dumps(statement["Condition"])
            assert OUR_TAG in told or "ec2:CreateAction" in told


def test_the_table_of_settings_is_the_one_of_the_code() -> None:
    table = PAGE[PAGE.index("| key of `--launch`") :]
    rows = re.findall(r"^\| ([^|]+) \|", table[: table.index("\n\n")], re.MULTILINE)[2:]
    told = {key for cell in rows for key in re.findall(r"`([a-z_]+)`", cell)}
    assert told == set(ec2_template.TEMPLATE) | (set(OURS) - {"image", "instance_type"}) | {"rungs"}
    assert set(re.findall(r"`([a-z_]+)`", PAGE[PAGE.index("A volume of") : PAGE.index("A volume of") + 400])) >= set(
        ec2_template.DEVICE
    )


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("orchestrator pool create")])
def test_the_pools_of_the_page_can_be_made(command: str) -> None:
    clouds = Clouds({"aws": CloudSettings(provider="ec2", region="eu-west-1")}, "eo-docs")
    given = shlex.split(command)
    options = list(pairwise(given))
    launch = _launch([value for option, value in options if option == "--launch"])
    named = {key: dict(options)[f"--{key.replace('_', '-')}"] for key in ("image", "instance_type")}
    check_launch(clouds, dict(options)["--cloud"], launch | named)


def test_the_settings_of_the_page_are_known() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    settings = Settings(**tomllib.loads(text))
    assert settings.clouds["aws"].options == {"region": "eu-west-1", "profile": "batch"}
