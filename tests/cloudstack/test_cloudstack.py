"""What only CloudStack has: its codes, jobs, names, rights and pages, as they travel over HTTP."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from certificates import self_signed
from cloudstack_lab import CloudStackLab, cloud, lab, write_profile
from managementserver import ADMIN, USER, Fault, serve
from managementserver.commands import NETWORK, PROJECT, TEMPLATE
from managementserver.errors import ApiError

from providers.base import (
    TAG_POOL,
    Cause,
    Instance,
    InstanceState,
    Misconfigured,
    NoCapacity,
    OutcomeUnknown,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    Unauthorised,
    Unavailable,
    Verdict,
)
from providers.cloudstack import CloudStackProvider
from providers.cloudstack.listing import Lists
from providers.cloudstack.template import machine_name
from providers.contract.fixtures import tenant
from providers.contract.lab import Tenant, ids

if TYPE_CHECKING:
    from conftest import MovableClock

__all__ = ["cloud", "lab", "tenant"]
ROOT = Path(__file__).parents[2]


def only(tenant: Tenant) -> Instance:
    (seen,) = tenant.provider.instances()
    return seen


# -- codes --


@pytest.mark.parametrize(
    ("code", "launching", "looking"),
    [
        (400, Misconfigured, Misconfigured),
        (401, Unauthorised, Unauthorised),
        (429, RateLimited, RateLimited),
        (430, Misconfigured, Misconfigured),
        (431, Misconfigured, Misconfigured),
        (432, Unauthorised, Unauthorised),
        (503, OutcomeUnknown, Unavailable),
        (530, OutcomeUnknown, Unavailable),
        (531, Unauthorised, Unauthorised),
        (532, QuotaExceeded, QuotaExceeded),
        (533, NoCapacity, NoCapacity),
        (534, OutcomeUnknown, Unavailable),
        (535, QuotaExceeded, QuotaExceeded),
        (536, OutcomeUnknown, Unavailable),
        (599, OutcomeUnknown, Unavailable),
    ],
)
def test_codes_are_named_by_what_comes_next(
    tenant: Tenant, lab: CloudStackLab, code: int, launching: type[ProviderError], looking: type[ProviderError]
) -> None:
    lab.server.faults += [
        Fault("deployVirtualMachine", error=ApiError(code, "words")),
        Fault(
            "listVirtualMachines",
            skip=1 if launching in (NoCapacity, QuotaExceeded) else 0,
            times=9,
            error=ApiError(code, "words"),
        ),
    ]
    for kind, act in ((launching, lambda: tenant.provider.launch(tenant.request())), (looking, tenant.provider.instances)):
        with pytest.raises(ProviderError) as caught:
            act()
        assert type(caught.value) is kind
        assert str(code) in str(caught.value)


def test_wait_that_no_text_tells_is_a_second(tenant: Tenant, lab: CloudStackLab) -> None:
    lab.server.faults.append(Fault("listVirtualMachines", error=ApiError(429, "slow down, 5 minutes")))
    with pytest.raises(RateLimited) as caught:
        tenant.provider.instances()
    assert caught.value.retry_after_s == 1


def test_nobody_there_is_unavailable_even_for_a_launch(tenant: Tenant, lab: CloudStackLab) -> None:
    nobody = CloudStackProvider(installation="x", url="http://127.0.0.1:9/client/api", config_file=lab.profile)
    with pytest.raises(Unavailable):
        nobody.launch(tenant.request())


def test_another_web_server_is_told_as_one(lab: CloudStackLab) -> None:
    url = lab.server.url.replace("/client/api", "/client/apix")
    with pytest.raises(Misconfigured, match="404"):
        CloudStackProvider(installation="x", url=url, config_file=lab.profile).check()


def test_a_redirect_is_not_followed(lab: CloudStackLab) -> None:
    url = lab.server.url.replace("/client/api", "/elsewhere")
    with pytest.raises(Misconfigured):
        CloudStackProvider(installation="x", url=url, config_file=lab.profile).check()


# -- credentials --


def test_keys_are_found_in_the_environment(lab: CloudStackLab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOUDSTACK_ENDPOINT", lab.server.url)
    monkeypatch.setenv("CLOUDSTACK_KEY", USER.api_key)
    monkeypatch.setenv("CLOUDSTACK_SECRET", USER.secret_key)
    CloudStackProvider(installation="x", config_file=str(tmp_path / "none")).check()


@pytest.mark.parametrize(
    ("text", "profile", "kind", "told"),
    [
        (None, None, Unauthorised, "CLOUDSTACK_KEY"),
        ("[core]\nprofile = a\n", None, Misconfigured, "no profile 'a'"),
        ("[a]\nurl = http://x/client/api\napikey = k\nsecretkey = s\n", "b", Misconfigured, "there are: a"),
        ("[a]\nurl = http://x/client/api\napikey = k\n", "a", Unauthorised, "secretkey"),
        ("[a]\napikey = k\nsecretkey = s\n", "a", Misconfigured, "set url"),
        ("no ini\n", None, Misconfigured, "not a CloudMonkey configuration"),
    ],
)
def test_missing_credentials_are_told_with_the_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    profile: str | None,
    kind: type[ProviderError],
    told: str,
) -> None:
    monkeypatch.delenv("CLOUDSTACK_KEY", raising=False)
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(kind, match=told):
        CloudStackProvider(installation="x", profile=profile, config_file=str(path))


def test_wrong_secret_and_wrong_clock_are_refused_with_the_fix(
    lab: CloudStackLab, tmp_path: Path, clock: MovableClock
) -> None:
    wrong = write_profile(tmp_path, lab.server, secret="other")
    with pytest.raises(Unauthorised, match="credentials"):
        CloudStackProvider(installation="x", config_file=wrong).check()
    lab.server.cloud.clock = lambda: clock().replace(year=2030)
    with pytest.raises(Unauthorised, match="clock"):
        lab.provider("x").check()


def test_libcloud_is_imported_for_the_first_provider_and_not_before() -> None:
    code = "import sys, providers.cloudstack; sys.exit('libcloud' in sys.modules or 'requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_certificate_is_checked_against_the_authority_that_is_named(lab: CloudStackLab, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "cloudstack")
    with serve(lab.server.cloud, tls=(certificate, key)) as server:
        profile = write_profile(tmp_path, server)
        with pytest.raises(Misconfigured, match=r"(?i)certificate"):
            CloudStackProvider(installation="x", config_file=profile).check()
        CloudStackProvider(installation="x", config_file=profile, ca_file=str(certificate)).check()
        CloudStackProvider(installation="x", config_file=profile, verify=False).check()


# -- launching --


def test_what_a_pool_says_travels_with_the_deployment(tenant: Tenant, lab: CloudStackLab) -> None:
    lab.server.cloud.keypairs["batch key"] = {"id": "1", "name": "batch key"}
    settings = {"zone": "sim1", "networks": ["n1"], "key_name": "batch key", "root_disk_gb": 20, "lease_days": 2}
    tenant.provider.validate(settings)
    odd = {"purpose": 'x[1]~{"k":["v"]} ü+&= é*', TAG_POOL: "nightly", "cpuNumber": "not a size"}
    (given,) = tenant.provider.launch(tenant.request(template=settings, tags=odd))
    sent = lab.server.last["deployVirtualMachine"]
    assert (sent["networkids"], sent["templateid"]) == (NETWORK["id"], TEMPLATE["id"])
    assert (sent["keypair"], sent["rootdisksize"]) == ("batch key", "20")
    assert (sent["leaseduration"], sent["leaseexpiryaction"]) == ("2", "DESTROY")
    assert {key: only(tenant).tags[key] for key in odd} == odd
    assert lab.machine(given.id).displayname == "elastic-orchestrator nightly"


def test_a_custom_offering_gets_its_size(tenant: Tenant, lab: CloudStackLab) -> None:
    size = {"cpu_number": 2, "cpu_speed_mhz": 500, "memory_mb": 256}
    (given,) = tenant.provider.launch(tenant.request(instance_type="Custom", template=size))
    assert lab.machine(given.id).offering["cpunumber"] == 2
    wrong = tenant.provider.inspect(lab.image, "Custom", {})
    assert any("give cpu_number, cpu_speed_mhz, memory_mb" in each.told for each in wrong if each.verdict is Verdict.WRONG)


def test_project_and_other_account_travel_with_every_call(tenant: Tenant, lab: CloudStackLab) -> None:
    project = CloudStackProvider(installation="x", config_file=lab.profile, project="batch")
    project.launch(tenant.request())
    project.instances()
    for command in ("deployVirtualMachine", "listVirtualMachines", "listTemplates"):
        assert lab.server.last[command]["projectid"] == PROJECT["id"]
    other = CloudStackProvider(installation="x", config_file=lab.profile, account="alice", domain="ROOT")
    other.instances()
    assert lab.server.last["listVirtualMachines"]["account"] == "alice"
    with pytest.raises(Misconfigured, match="both"):
        CloudStackProvider(installation="x", config_file=lab.profile, account="alice")


def test_names_are_looked_up_once_and_anew_after_a_refusal(tenant: Tenant, lab: CloudStackLab) -> None:
    for _ in range(3):
        tenant.provider.launch(tenant.request())
    assert lab.server.calls["listTemplates"] == lab.server.calls["listZones"] == 1
    lab.server.faults.append(Fault("deployVirtualMachine", error=ApiError(431, "no such entity")))
    with pytest.raises(Misconfigured):
        tenant.provider.launch(tenant.request())
    tenant.provider.launch(tenant.request())
    assert lab.server.calls["listTemplates"] == 2


def test_names_are_legal_host_names_that_others_do_not_have() -> None:
    names = {machine_name(installation, launch, i) for installation in "ab" for launch in "cd" for i in (0, 9999)}
    assert len(names) == 8
    assert all(re.fullmatch(r"[a-z][a-z0-9-]{0,61}[a-z0-9]", name) for name in names)


def test_a_restarted_master_finds_what_its_launch_made(tenant: Tenant, lab: CloudStackLab) -> None:
    request = tenant.request(count=4)
    lab.server.faults.append(Fault("deployVirtualMachine", skip=2, drop="reply"))
    with pytest.raises(OutcomeUnknown):
        tenant.provider.launch(request)
    again = lab.provider(tenant.installation).launch(request)
    assert len(again) == 4
    assert [each.launch_index for each in again] == [0, 1, 2, 3]
    assert ids(again) == tenant.launched()


def test_a_restarted_master_knows_another_request_from_its_own(tenant: Tenant, lab: CloudStackLab) -> None:
    tenant.provider.launch(tenant.request(launch_id="one"))
    with pytest.raises(OutcomeUnknown, match="other settings"):
        lab.provider(tenant.installation).launch(tenant.request(launch_id="one", user_data=b"other"))
    assert len(tenant.launched()) == 1


def test_a_name_held_by_an_ended_machine_makes_nothing_and_says_so(
    tenant: Tenant, lab: CloudStackLab, clock: MovableClock
) -> None:
    request = tenant.request()
    (given,) = tenant.provider.launch(request)
    clock.move(10)
    tenant.provider.instances()
    tenant.provider.terminate([given.id])
    clock.move(10)
    assert tenant.provider.instances() == []
    with pytest.raises(OutcomeUnknown, match="under another id"):
        lab.provider(tenant.installation).launch(request)
    assert tenant.launched() == {given.id}


def test_two_masters_at_once_may_make_two_and_both_are_seen(tenant: Tenant, lab: CloudStackLab) -> None:
    """The cloud's own race: a name is no lock. Nothing of it is hidden from those who clean up."""
    barrier = threading.Barrier(2)
    lab.server.commands.gate = lambda: barrier.wait(10) and None
    masters, request = [tenant.provider, lab.provider(tenant.installation)], tenant.request()
    with ThreadPoolExecutor(2) as pool:
        given = list(pool.map(lambda master: master.launch(request)[0].id, masters))
    assert set(given) == ids(tenant.provider.instances())
    lab.server.commands.gate = lambda: None
    assert len({lab.provider(tenant.installation).launch(request)[0].id for _ in range(3)}) == 1


def test_launches_of_one_id_take_turns_where_the_cloud_would_make_two(tenant: Tenant, lab: CloudStackLab) -> None:
    second, inside = threading.Event(), iter(range(99))

    def gate() -> None:
        """Between the check of a name and its taking: wait whether another comes."""
        if next(inside) == 1:
            second.set()
        second.wait(0.2)

    lab.server.commands.gate = gate
    request = tenant.request()
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda _: tenant.provider.launch(request)[0].id, range(4)))
    assert set(given) == tenant.launched()
    assert not second.is_set()


def test_limit_in_the_middle_keeps_what_was_made_and_asks_no_more(tenant: Tenant, lab: CloudStackLab) -> None:
    lab.server.cloud.limits["user_vm"] = 2
    request = tenant.request(count=50)
    given = tenant.provider.launch(request)
    assert len(given) == 2
    assert lab.server.calls["deployVirtualMachine"] < 20
    assert ids(lab.provider(tenant.installation).launch(request)) == ids(given)


def test_throttled_launch_waits_as_told_and_goes_on(tenant: Tenant, lab: CloudStackLab) -> None:
    told = ApiError(429, "please retry after [20] ms.")
    lab.server.faults.append(Fault("deployVirtualMachine", skip=3, times=5, error=told))
    assert len(tenant.provider.launch(tenant.request(count=12))) == 12


# -- what becomes of machines --


def test_new_machine_is_pending_until_it_was_started(tenant: Tenant, lab: CloudStackLab, clock: MovableClock) -> None:
    tenant.provider.launch(tenant.request())
    states = []
    for _ in range(6):
        states.append((lab.machine(only(tenant).id).state, only(tenant).state))
        clock.move(1)
    assert states[0] == ("Stopped", InstanceState.PENDING)
    assert ("Starting", InstanceState.PENDING) in states
    assert states[-1] == ("Running", InstanceState.RUNNING)


def test_stopped_machine_without_a_job_is_pending_for_a_moment_only(
    tenant: Tenant, lab: CloudStackLab, clock: MovableClock
) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    lab.machine(given.id).jobs.clear()  # its job died with a management server
    lab.server.cloud._due.clear()
    assert only(tenant).state is InstanceState.PENDING
    clock.move(300)
    assert only(tenant).state is InstanceState.STOPPED
    assert "never started" in str(only(tenant).fault)


def test_machine_that_powered_itself_off_keeps_its_disk_until_the_master_ends_it(
    tenant: Tenant, lab: CloudStackLab, clock: MovableClock
) -> None:
    """The lease, as far as CloudStack has it: off is Stopped, and a master that looks ends it."""
    (given,) = tenant.provider.launch(tenant.request())
    clock.move(10)
    assert only(tenant).state is InstanceState.RUNNING
    lab.power_off(given.id)
    assert only(tenant).state is InstanceState.STOPPED
    assert only(tenant).state.exists
    lab.provider(tenant.installation).terminate([given.id])
    clock.move(10)
    assert tenant.provider.instances() == []


def test_reason_of_a_failed_start_is_asked_once(tenant: Tenant, lab: CloudStackLab, clock: MovableClock) -> None:
    lab.fault("launch", "no capacity")
    tenant.provider.launch(tenant.request())
    clock.move(10)
    assert [only(tenant).cause for _ in range(5)] == [Cause.NO_CAPACITY] * 5
    assert lab.server.calls["queryAsyncJobResult"] == 1


def test_a_restarted_master_sees_the_error_without_its_cause_and_ends_it(
    tenant: Tenant, lab: CloudStackLab, clock: MovableClock
) -> None:
    lab.fault("launch", "no capacity")
    (given,) = tenant.provider.launch(tenant.request())
    clock.move(10)
    restarted = lab.provider(tenant.installation)
    (seen,) = restarted.instances()
    assert (seen.state, seen.cause) == (InstanceState.ERROR, None)
    assert seen.fault
    restarted.terminate([given.id])
    assert restarted.instances() == []
    assert not lab.alive({given.id})


def test_error_whose_job_is_not_over_waits_for_its_cause(tenant: Tenant, lab: CloudStackLab, clock: MovableClock) -> None:
    tenant.provider.launch(tenant.request())
    vm = lab.machine(only(tenant).id)
    lab.server.cloud.move(vm, "Error")
    assert only(tenant).state is InstanceState.PENDING  # who acts on an error should know what it was
    lab.server.cloud.fail(vm.jobs[0], 533, "No destination found")
    assert only(tenant).cause is Cause.NO_CAPACITY


def test_many_errors_cost_a_bounded_number_of_looks_and_none_is_told_without_its_cause(
    tenant: Tenant, lab: CloudStackLab, clock: MovableClock
) -> None:
    lab.fault("launch", "no capacity")
    tenant.provider.launch(tenant.request(count=45))
    clock.move(10)
    told = [[each.cause for each in tenant.provider.instances() if each.state is InstanceState.ERROR] for _ in range(3)]
    assert told == [[Cause.NO_CAPACITY] * count for count in (20, 40, 45)]


@pytest.mark.parametrize(
    ("code", "state"), [(429, InstanceState.PENDING), (431, InstanceState.ERROR), (432, InstanceState.ERROR)]
)
def test_job_that_cannot_be_looked_at_fails_no_listing(
    tenant: Tenant, lab: CloudStackLab, clock: MovableClock, code: int, state: InstanceState
) -> None:
    lab.fault("launch", "no capacity")
    tenant.provider.launch(tenant.request())
    clock.move(10)
    lab.server.faults.append(Fault("queryAsyncJobResult", error=ApiError(code, "words")))
    assert (only(tenant).state, lab.server.faults[0].times) == (state, 0)


def test_end_of_a_starting_machine_is_seen_as_one_by_any_master(
    tenant: Tenant, lab: CloudStackLab, clock: MovableClock
) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    clock.move(3)
    assert only(tenant).state is InstanceState.PENDING
    tenant.provider.terminate([given.id])
    assert only(tenant).state is InstanceState.ENDING
    clock.move(2)  # it runs, and its end has its turn
    assert lab.machine(given.id).state in ("Running", "Stopping")
    assert [each.state for each in lab.provider(tenant.installation).instances()] == [InstanceState.ENDING]
    clock.move(10)
    assert tenant.provider.instances() == []


# -- ending --


def test_user_without_the_right_is_not_sent_into_a_failing_expunge(
    tenant: Tenant, lab: CloudStackLab, clock: MovableClock
) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    clock.move(10)
    tenant.provider.terminate([given.id])
    assert "expunge" not in lab.server.last["destroyVirtualMachine"]
    clock.move(10)
    assert tenant.provider.instances() == []
    assert lab.machine(given.id).state == "Destroyed"


def test_user_with_the_right_expunges(tenant: Tenant, lab: CloudStackLab, clock: MovableClock) -> None:
    lab.server.cloud.settings.user_may_expunge = True
    (given,) = tenant.provider.launch(tenant.request())
    clock.move(10)
    tenant.provider.terminate([given.id])
    clock.move(10)
    assert tenant.provider.instances() == []
    assert lab.machine(given.id).state == "Gone"
    tenant.provider.terminate([given.id])


def test_right_that_was_withdrawn_leaves_no_machine_running(
    tenant: Tenant, lab: CloudStackLab, clock: MovableClock
) -> None:
    lab.server.cloud.settings.user_may_expunge = True
    (given,) = tenant.provider.launch(tenant.request())
    clock.move(10)
    tenant.provider.inspect(lab.image, lab.instance_type, lab.template)
    lab.server.cloud.settings.user_may_expunge = False
    tenant.provider.terminate([given.id])
    clock.move(10)
    assert only(tenant).state is InstanceState.RUNNING  # and no word of an end that never comes
    tenant.provider.terminate([given.id])
    clock.move(10)
    assert tenant.provider.instances() == []


def test_role_that_may_not_ask_what_it_may_ends_machines_all_the_same(tenant: Tenant, lab: CloudStackLab) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    lab.server.faults.append(Fault("listCapabilities", error=ApiError(432, "not available")))
    tenant.provider.terminate([given.id])
    assert not lab.alive({given.id})


@pytest.mark.parametrize("which", [0, 1])
def test_protected_machine_is_not_taken_for_an_absent_one_and_saves_no_other(
    tenant: Tenant, lab: CloudStackLab, which: int
) -> None:
    given = [each.id for each in tenant.provider.launch(tenant.request(count=3))]
    protected = lab.machine(given[which])
    protected.protected = True
    with pytest.raises(Misconfigured, match="protection"):
        tenant.provider.terminate(given)
    assert lab.alive(set(given)) == {protected.id}
    protected.protected = False


def test_machine_of_another_account_is_refused(tenant: Tenant, lab: CloudStackLab) -> None:
    (given,) = tenant.provider.launch(tenant.request())
    lab.machine(given.id).owner = ADMIN
    with pytest.raises(Unauthorised):
        tenant.provider.terminate([given.id])


# -- pages --


def test_no_machine_is_missed_while_others_go(tenant: Tenant, lab: CloudStackLab) -> None:
    """Rows move forward between the pages when one before them goes."""
    given = [each.id for each in tenant.provider.launch(tenant.request(count=20))]
    lab.short_pages(5)
    tenant.provider.instances()
    going = iter(sorted(given, key=lambda id_: lab.machine(id_).number)[:3])

    def one_goes(command: str) -> None:
        if command == "listVirtualMachines" and (id_ := next(going, None)):
            lab.machine(id_).state = "Gone"

    lab.server.after = one_goes
    seen = ids(tenant.provider.instances())
    assert seen >= lab.alive(set(given))


def test_list_with_missing_rows_is_no_list(clock: MovableClock) -> None:
    pages = {"1": {"count": 7, "x": [{"id": str(i)} for i in range(5)]}}
    lists = Lists(lambda _, params: (pages.get(params["page"], {"count": 7}), clock()))
    lists._page_size = 5
    with pytest.raises(Unavailable, match="5 of 7"):
        lists.all("listX", "x", {})


# -- looking --


def test_inspect_tells_of_limits_other_zones_and_what_the_server_is_not_set_to(
    tenant: Tenant, lab: CloudStackLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verdicts(**template: Any) -> dict[str, Verdict]:
        found = tenant.provider.inspect(lab.image, lab.instance_type, {**lab.template, **template})
        return {each.subject: each.verdict for each in found}

    assert verdicts()["quota"] is Verdict.OK
    assert verdicts()["expunge"] is Verdict.WARNING
    lab.server.cloud.limits["user_vm"] = 0
    assert verdicts()["quota"] is Verdict.WRONG
    assert verdicts(security_groups=["default"])["security group"] is Verdict.WRONG
    assert verdicts(affinity_groups=["none"])["affinity group"] is Verdict.WRONG
    assert verdicts(lease_days=2)["lease"] is Verdict.WRONG
    monkeypatch.setitem(NETWORK, "zoneid", "another")
    assert verdicts(networks=[NETWORK["id"]])["network"] is Verdict.WRONG
    monkeypatch.setitem(TEMPLATE, "isready", False)
    assert verdicts()["image"] is Verdict.WRONG


@pytest.mark.parametrize(
    "template",
    [{"zone": ""}, {"networks": "n1"}, {"networks": []}, {"root_disk_gb": 0}, {"root_disk_gb": True}, {"memory_mb": "512"}],
)
def test_ill_formed_settings_are_named(tenant: Tenant, template: dict[str, object]) -> None:
    with pytest.raises(Misconfigured, match=next(iter(template))):
        tenant.provider.validate(template)


def test_the_documented_role_allows_just_the_commands_that_are_called() -> None:
    text = (ROOT / "docs/cloudstack.md").read_text()
    documented = set(re.search(r"for command in (.*?)\ndo ", text, re.DOTALL)[1].replace("\\", "").split())  # type: ignore[index]
    sources = "".join(path.read_text() for path in (ROOT / "providers/cloudstack").glob("*.py"))
    assert documented == set(re.findall(r'"((?:list|deploy|destroy|query)[A-Z]\w+)"', sources))


def test_the_documented_pool_is_well_formed(tenant: Tenant) -> None:
    text = (ROOT / "docs/cloudstack.md").read_text()
    keys = {key for cell in re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE) for key in re.findall(r"`([a-z_]+)`", cell)}
    from providers.cloudstack.template import _TEMPLATE

    assert keys == set(_TEMPLATE) | {"sizes", "agent"}
