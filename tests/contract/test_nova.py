"""What only Nova has: its statuses and texts, its launch template, its micro-versions, and no idempotency token."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from nova_lab import QUOTA_TEXT, TEMPLATE, NovaLab, account, nova_lab
from openstack_http import Fault

from providers.base import (
    Cause,
    InstanceState,
    Misconfigured,
    OutcomeUnknown,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    Unauthorised,
    Unavailable,
    Verdict,
)
from providers.contract.lab import Tenant, ids
from providers.nova import NovaProvider

ROOT = Path(__file__).resolve().parents[2]
POST = NovaLab.calls_of["launch"]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NovaLab]:
    with nova_lab(tmp_path_factory.mktemp("nova")) as lab:
        yield lab


@pytest.fixture
def nova(lab: NovaLab) -> NovaLab:
    return lab


def posts(nova: NovaLab) -> int:
    return sum(call == POST for call in nova.server.calls)


# -- what it says no with --


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "Invalid availability zone", Misconfigured),
        (401, "The request you have made requires authentication.", Unauthorised),
        (403, QUOTA_TEXT, QuotaExceeded),
        (403, "Maximum number of ports exceeded", QuotaExceeded),
        (403, "Project p is over a limit for [servers]", QuotaExceeded),
        (403, "Policy doesn't allow os_compute_api:servers:create to be performed.", Unauthorised),
        (403, "Only volume-backed servers are allowed for flavors with zero disk.", Misconfigured),
        (404, "Flavor could not be found.", Misconfigured),
        (409, "Multiple possible networks found", Misconfigured),
        (413, "Over limit", RateLimited),
        (429, "Too many requests", RateLimited),
        (500, "Unexpected API Error.", OutcomeUnknown),
        (503, "Service Unavailable", OutcomeUnknown),
    ],
)
def test_statuses_of_a_refused_launch(
    tenant: Tenant, nova: NovaLab, status: int, text: str, kind: type[ProviderError]
) -> None:
    nova.server.faults.append(Fault(POST, status=status, text=text, times=2))
    with pytest.raises(ProviderError) as caught:
        tenant.provider.launch(tenant.request())
    assert type(caught.value) is kind
    assert text.rstrip(".") in str(caught.value)
    assert nova.launched(tenant.installation) == set()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("No valid host was found. There are not enough hosts available.", Cause.NO_CAPACITY),
        ("Exceeded maximum number of retries. Exhausted all hosts available", Cause.NO_CAPACITY),
        ("Build of instance x aborted: No more IP addresses available on network n.", Cause.NO_CAPACITY),
        ("Quota exceeded for instances: Requested 1, but already used 2 of 2 instances", Cause.QUOTA),
        (
            "Build of instance x aborted: VolumeLimitExceeded: Maximum number of volumes allowed (10) exceeded for quota",
            Cause.QUOTA,
        ),
        ("Build of instance x aborted: no boot device", None),
    ],
)
def test_fault_of_a_server_tells_what_it_died_of(tenant: Tenant, nova: NovaLab, fault: str, cause: Cause | None) -> None:
    nova.cloud.full, nova.cloud.fault = 1, fault
    (given,) = tenant.provider.launch(tenant.request())
    assert (given.state, given.fault, given.cause) == (InstanceState.ERROR, fault, cause)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"auth": {"application_credential_secret": "wrong"}}, Unauthorised, "credentials"),
        ({"region_name": "nowhere"}, Misconfigured, "nowhere"),
        ({"auth": {"auth_url": "http://127.0.0.1:9/identity/v3"}}, Unavailable, "127.0.0.1"),
        ({"compute_default_microversion": "2.50"}, Misconfigured, "2.51"),
    ],
)
def test_wrong_entries_of_clouds_yaml_are_told_by_check(
    nova: NovaLab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    kind: type[ProviderError],
    words: str,
) -> None:
    provider = written(nova, tmp_path, monkeypatch, **settings)
    with pytest.raises(ProviderError, match=words) as caught:
        provider.check()
    assert type(caught.value) is kind


def test_cloud_that_clouds_yaml_does_not_have_is_named(nova: NovaLab) -> None:
    with pytest.raises(Misconfigured, match="nobody"):
        NovaProvider(installation="x", cloud="nobody")


def test_token_that_ran_out_is_renewed_in_silence(tenant: Tenant, nova: NovaLab) -> None:
    tenant.provider.check()
    nova.server.tokens.clear()
    assert tenant.provider.instances() == []


# -- launching without a token --


def test_unanswered_launch_is_waited_for_by_its_repeat(tenant: Tenant, nova: NovaLab) -> None:
    request = tenant.request(count=2)
    nova.slow("launch", 0.8)
    with pytest.raises(OutcomeUnknown):
        tenant.impatient.launch(request)
    before = posts(nova)
    again = tenant.provider.launch(request)  # while the first is on its way
    assert ids(again) == nova.launched(tenant.installation)
    assert (len(again), posts(nova)) == (2, before)


def test_retries_of_clouds_yaml_do_not_repeat_a_launch(
    nova: NovaLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = Tenant(nova)
    provider = written(nova, tmp_path, monkeypatch, connect_retries=3, status_code_retries=3)
    before = posts(nova)
    provider._installation = tenant.installation
    nova.server.faults.append(Fault(POST, drop="reply", times=2))
    with pytest.raises(OutcomeUnknown):
        provider.launch(tenant.request())
    assert posts(nova) == before + 1


def test_large_launch_is_made_in_parts_and_a_lost_one_made_up_for(tenant: Tenant, nova: NovaLab) -> None:
    request = tenant.request(count=120)
    nova.server.faults.append(Fault(POST, drop="reply", skip=1))
    with pytest.raises(OutcomeUnknown):
        tenant.provider.launch(request)
    before = posts(nova)
    given = tenant.provider.launch(request)
    assert posts(nova) == before + 1  # the second part was made, and its reply lost
    assert sorted(each.launch_index for each in given) == list(range(120))
    assert ids(given) == nova.launched(tenant.installation)


def test_quota_that_ends_between_two_parts_gives_the_first(tenant: Tenant, nova: NovaLab) -> None:
    nova.scarce(50)
    assert len(tenant.provider.launch(tenant.request(count=70))) == 50


def test_servers_of_a_group_are_asked_for_one_by_one(tenant: Tenant, nova: NovaLab) -> None:
    before = posts(nova)
    given = tenant.provider.launch(tenant.request(count=3, template={**TEMPLATE, "server_group": "apart"}))
    assert posts(nova) == before + 3
    assert sorted(each.launch_index for each in given) == [0, 1, 2]
    assert {nova.cloud.servers[each.id].hints["group"] for each in given} == {nova.cloud.server_groups[0]["id"]}


def test_renamed_servers_stay_ours(tenant: Tenant, nova: NovaLab) -> None:
    given = tenant.provider.launch(tenant.request(count=2))
    for each in given:
        nova.cloud.servers[each.id].name = "renamed by hand"
    assert ids(tenant.provider.instances()) == ids(given)


def test_ignored_filters_make_no_stranger_ours(tenant: Tenant, nova: NovaLab, monkeypatch: pytest.MonkeyPatch) -> None:
    strangers = nova.strangers() | ids(Tenant(nova).provider.launch(tenant.request()))
    listing = nova.cloud.listing
    monkeypatch.setattr(nova.cloud, "listing", lambda _, version: listing({}, version))
    given = ids(tenant.provider.launch(tenant.request()))
    assert not given & strangers
    assert ids(tenant.provider.instances()) == given


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"launch_id": "no good"}, "launch id"), ({"tags": {"note": "x" * 256}}, "note.*255")],
)
def test_what_nova_cannot_take_is_refused_before_any_call(
    tenant: Tenant, nova: NovaLab, wrong: dict[str, Any], words: str
) -> None:
    before = nova.calls()
    with pytest.raises(Misconfigured, match=words):
        tenant.provider.launch(replace(tenant.request(), **wrong))
    assert nova.calls() == before


# -- what is asked for --


@pytest.mark.parametrize(
    "template",
    [
        {"networks": "private"},
        {"networks": []},
        {"security_groups": [1]},
        {"key_name": ""},
        {"config_drive": "yes"},
        {"boot_volume_gb": "8"},
        {"boot_volume_gb": True},
        {"boot_volume_type": "fast"},
        {"delete_on_termination": False, "boot_volume_gb": 8},
    ],
)
def test_ill_typed_settings_are_named(tenant: Tenant, template: dict[str, object]) -> None:
    with pytest.raises(Misconfigured, match=next(iter(template))):
        tenant.provider.validate(template)


def test_settings_reach_the_server(tenant: Tenant, nova: NovaLab) -> None:
    template = {
        "networks": ["private", nova.cloud.networks[1]["id"]],
        "security_groups": ["default"],
        "key_name": "a-key",
        "availability_zone": "az1",
        "config_drive": True,
    }
    tenant.provider.validate(template)
    (given,) = tenant.provider.launch(tenant.request(template=template))
    body = nova.cloud.servers[given.id].body
    assert body["networks"] == [{"uuid": network["id"]} for network in nova.cloud.networks[:2]]
    assert body["security_groups"] == [{"name": "default"}]
    assert (body["key_name"], body["availability_zone"], body["config_drive"]) == ("a-key", "az1", True)
    assert body["imageRef"] == nova.cloud.images[0]["id"]


def test_volume_to_boot_from_goes_with_its_server(tenant: Tenant, nova: NovaLab) -> None:
    template = {**TEMPLATE, "boot_volume_gb": 8, "boot_volume_type": "fast", "delete_on_termination": True}
    tenant.provider.validate(template)
    (given,) = tenant.provider.launch(tenant.request(instance_type="volume.small", template=template))
    body = nova.cloud.servers[given.id].body
    assert "imageRef" not in body
    (volume,) = body["block_device_mapping_v2"]
    assert (volume["uuid"], volume["volume_size"], volume["volume_type"]) == (nova.cloud.images[0]["id"], 8, "fast")
    assert volume["delete_on_termination"] is True


def test_name_that_stands_for_two_images_is_refused_and_a_retired_one_is_passed_over(tenant: Tenant, nova: NovaLab) -> None:
    with pytest.raises(Misconfigured, match=r"2 images are named 'twice'.*id"):
        tenant.provider.launch(tenant.request(image="twice"))
    (given,) = tenant.provider.launch(tenant.request(image="replaced"))
    assert nova.cloud.servers[given.id].body["imageRef"] == nova.cloud.images[4]["id"]


def test_ids_are_looked_up_once_and_again_after_a_refusal(nova: NovaLab) -> None:
    provider = NovaProvider(installation="names", cloud="small")
    tenant = Tenant(nova)

    def looked_up() -> int:
        before = sum("/images" in call for call in nova.server.calls)
        provider.launch(tenant.request())
        return sum("/images" in call for call in nova.server.calls) - before

    assert looked_up() > 0
    assert looked_up() == 0
    nova.server.faults.append(Fault(POST, status=400, text="Can not find requested image"))
    with pytest.raises(Misconfigured):
        provider.launch(tenant.request())
    assert looked_up() > 0


# -- micro-versions --


@pytest.mark.parametrize(
    ("newest", "tags"), [((2, 104), ["elastic-orchestrator"]), ((2, 120), ["elastic-orchestrator"]), ((2, 51), None)]
)
def test_newest_micro_version_that_both_know_is_spoken(
    tenant: Tenant, nova: NovaLab, monkeypatch: pytest.MonkeyPatch, newest: tuple[int, int], tags: list[str] | None
) -> None:
    monkeypatch.setattr(nova.cloud, "newest", newest)
    nova.server.versions.clear()
    provider = NovaProvider(installation=tenant.installation, cloud="small")
    given = provider.launch(tenant.request(count=2))
    assert nova.server.versions == {min(newest, (2, 104))}
    assert [nova.cloud.servers[each.id].body.get("tags") for each in given] == [tags] * 2
    assert ids(provider.instances()) == ids(given)


def test_boot_volume_type_needs_a_newer_nova(tenant: Tenant, nova: NovaLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nova.cloud, "newest", (2, 51))
    provider = NovaProvider(installation=tenant.installation, cloud="small")
    template = {**TEMPLATE, "boot_volume_gb": 8, "boot_volume_type": "fast"}
    with pytest.raises(Misconfigured, match="boot_volume_type"):
        provider.launch(tenant.request(template=template))


# -- listing and ending --


def test_cell_that_is_down_fails_the_listing_rather_than_hide_its_servers(tenant: Tenant, nova: NovaLab) -> None:
    tenant.provider.launch(tenant.request())
    nova.cloud.cell_down = True
    with pytest.raises(Unavailable, match="cell"):
        tenant.provider.instances()


def test_page_that_cannot_go_on_fails_the_listing(tenant: Tenant, nova: NovaLab) -> None:
    tenant.provider.launch(tenant.request(count=4))
    nova.short_pages(2)
    nova.server.faults.append(Fault(nova.calls_of["instances"], status=400, text="marker not found", skip=1))
    with pytest.raises(Unavailable):
        tenant.provider.instances()


def test_locked_servers_are_unlocked_and_ended(tenant: Tenant, nova: NovaLab) -> None:
    given = ids(tenant.provider.launch(tenant.request(count=2)))
    for id_ in given:
        nova.cloud.servers[id_].locked = True
    tenant.provider.terminate(given)
    assert nova.alive(given) == set()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, Misconfigured), (409, Unavailable)],
    ids=["locked by an administrator", "in the midst of a resize"],
)
def test_lock_that_stays_is_told_after_all_others_were_ended(
    tenant: Tenant, nova: NovaLab, status: int, kind: type[ProviderError]
) -> None:
    given = ids(tenant.provider.launch(tenant.request(count=3)))
    stuck = min(given)
    nova.cloud.servers[stuck].locked = True
    nova.server.faults.append(Fault(f"POST .*/servers/{stuck}/action", status=status, text="Policy doesn't allow it"))
    with pytest.raises(ProviderError, match=stuck) as caught:
        tenant.provider.terminate(given)
    assert type(caught.value) is kind
    assert nova.alive(given) == {stuck}


def test_server_on_a_host_that_is_down_is_impaired(tenant: Tenant, nova: NovaLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nova tells the host's status to those whose role may see it, and leaves the server ACTIVE."""
    (given,) = tenant.provider.launch(tenant.request())
    tenant.wait_for(lambda seen: seen[0].state is InstanceState.RUNNING)
    shown = nova.cloud.shown
    monkeypatch.setattr(nova.cloud, "shown", lambda server, version: shown(server, version) | {"host_status": "DOWN"})
    assert tenant.provider.impaired() == {given.id: "its host is down"}


# -- looking --


def test_inspect_tells_the_quota_left_and_warns_when_there_is_none(tenant: Tenant, nova: NovaLab) -> None:
    def quota() -> tuple[Verdict, str]:
        found = tenant.provider.inspect(nova.image, nova.instance_type, TEMPLATE)
        return next((each.verdict, each.told) for each in found if each.subject == "quota")

    nova.scarce(3)
    assert quota()[0] is Verdict.OK
    assert "room for 3 more" in quota()[1]
    nova.scarce(0)
    assert quota()[0] is Verdict.WARNING


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image": "twice"}, "by its id"),
        ({"image": "retired"}, "deactivated"),
        ({"instance_type": "m1.tiny"}, "needs 3 GiB.*boot_volume_gb"),
        ({"instance_type": "volume.small"}, "no disk.*boot_volume_gb"),
        ({"template": {**TEMPLATE, "boot_volume_gb": 2}}, "boot_volume_gb is 2 GiB.*needs 3"),
        ({"template": {}}, "bare, other, private"),
        ({"template": {"networks": ["bare"]}}, "no subnet"),
        ({"template": {**TEMPLATE, "availability_zone": "none"}}, "az1, az2"),
    ],
)
def test_inspect_says_what_is_wrong_and_the_fix(
    tenant: Tenant, nova: NovaLab, settings: dict[str, Any], words: str
) -> None:
    usual = {"image": nova.image, "instance_type": nova.instance_type, "template": TEMPLATE}
    (wrong,) = [each for each in tenant.provider.inspect(**{**usual, **settings}) if each.verdict is Verdict.WRONG]
    assert re.search(words, wrong.told), wrong.told


# -- the documents --


def documented(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "openstack.md").read_text(), re.DOTALL)


def test_documented_clouds_yaml_and_settings_make_a_provider(
    nova: NovaLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (entry,) = yaml.safe_load(documented("yaml")[0])["clouds"].values()
    ours = account(nova.server.url)
    assert {**entry, "auth": set(entry["auth"])} == {**ours, "auth": set(ours["auth"]), "region_name": "RegionOne"}
    written(nova, tmp_path, monkeypatch).check()
    (settings,) = tomllib.loads(documented("toml")[0])["clouds"].values()
    assert settings.pop("provider") == "nova"
    assert set(settings) <= set(inspect.signature(NovaProvider).parameters)


def test_documented_pool_can_be_created(tenant: Tenant) -> None:
    (command,) = [block for block in documented("sh") if "orchestrator pool create" in block]
    words = shlex.split(command.replace("\\\n", " "))
    pairs = [words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "--launch"]
    template = {key: json.loads(value) for key, value in pairs}
    assert template
    tenant.provider.validate(template)


# -- the provider as such --


def test_sdk_is_imported_when_a_provider_is_made() -> None:
    program = "import sys, providers.nova; sys.exit('openstack' in sys.modules or 'keystoneauth1' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_making_a_provider_makes_no_call(nova: NovaLab) -> None:
    before = len(nova.server.calls)
    NovaProvider(installation="x", cloud="small")
    assert len(nova.server.calls) == before


def test_one_launch_id_waits_for_its_turn_and_others_do_not(tenant: Tenant, nova: NovaLab) -> None:
    slow, quick = tenant.request(), tenant.request()
    nova.slow("launch", 0.6)
    first = threading.Thread(target=tenant.provider.launch, args=(slow,))
    first.start()
    while POST not in nova.server.calls[-1:]:
        assert first.is_alive()
    assert len(tenant.provider.launch(quick)) == 1
    assert first.is_alive()
    assert len(tenant.provider.launch(slow)) == 1
    first.join()
    assert len(nova.launched(tenant.installation)) == 2


def written(nova: NovaLab, folder: Path, patch: pytest.MonkeyPatch, **settings: Any) -> NovaProvider:
    """A provider of a clouds.yaml with these settings instead of the right ones."""
    entry = account(nova.server.url)
    auth = {**entry["auth"], **settings.pop("auth", {})}
    (folder / "clouds.yaml").write_text(json.dumps({"clouds": {"mine": {**entry, **settings, "auth": auth}}}))
    patch.setenv("OS_CLIENT_CONFIG_FILE", str(folder / "clouds.yaml"))
    return NovaProvider(installation="x", cloud="mine")
