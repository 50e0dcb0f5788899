"""The API's commands on a cloud: parameters in, the reply's content out, or a refusal."""

from __future__ import annotations

import base64
import binascii
import copy
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import rows
from .cloud import CLOUDSTACK_ADMIN, CLOUDSTACK_USER, Account, Cloud, Machine
from .errors import INVALID, ApiError, denied, invalid, unauthenticated, unknown

CATALOGUE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "catalogue.json").read_text(encoding="utf-8"))
ZONE, NETWORK, TEMPLATE = (CATALOGUE[name][0] for name in ("listZones", "listNetworks", "listTemplates"))
OFFERINGS = {each["id"]: each for each in CATALOGUE["listServiceOfferings"]}
PROJECT = {"id": "5d0f3c55-3f0e-4d9f-8f43-0a2d5a1b0001", "name": "batch", "vmavailable": "3", "cpuavailable": "Unlimited"}
_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CHANGING = ("deploy", "destroy", "create", "register", "update", "reboot")

Params = Mapping[str, str]


class Commands:
    """What one server offers. `gate`, if set, is passed between the check of a deployment and its doing: with a barrier
    there, tests let several deployments of one name through, as the real server does."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.gate: Callable[[], None] = lambda: None
        self.hide_new_s = 0.0  # listings do not show what is younger

    def find(self, command: str) -> Callable[[Params, Account], dict[str, Any]] | None:
        """The method of a command; its name's case counts."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", command)
        return getattr(self, f"do_{words.lower()}", None) if command[:1].islower() else None

    def run(self, command: str, params: Params, account: Account, method: str) -> dict[str, Any]:
        act = self.find(command)
        if command == "listHosts" and not account.admin:
            text = f"The API [{command}] does not exist or is not available for the account for user id [{self.cloud.new_id()}]."
            raise ApiError(432, text, wrapper="errorresponse")
        if act is None:
            raise unauthenticated("errorresponse")
        if self.cloud.settings.enforce_post and method != "POST" and command.startswith(_CHANGING):
            raise ApiError(400, f"State changing command {command} needs to be sent using POST request")
        if command == "deployVirtualMachine":
            return self.do_deploy_virtual_machine({**params, "_method": method}, account)
        with self.cloud.lock:
            return act(params, account)

    # -- the catalogue --

    def do_list_zones(self, params: Params, account: Account) -> dict[str, Any]:
        shown = [CATALOGUE["adminZone"][0] if account.admin else ZONE]
        return self._page("listZones", "zone", _matching(shown, params), params)

    def do_list_service_offerings(self, params: Params, account: Account) -> dict[str, Any]:
        return self._page("listServiceOfferings", "serviceoffering", _matching(OFFERINGS.values(), params), params)

    def do_list_templates(self, params: Params, account: Account) -> dict[str, Any]:
        if "templatefilter" not in params:
            raise _missing("listTemplates", "templatefilter")
        return self._page("listTemplates", "template", _matching(CATALOGUE["listTemplates"], params), params)

    def do_list_networks(self, params: Params, account: Account) -> dict[str, Any]:
        mine = [
            {**NETWORK, "id": id_, "name": f"n-{id_[:4]}"} for id_, owner in self.cloud.networks.items() if owner is account
        ]
        return self._page("listNetworks", "network", _matching([NETWORK, *mine], params), params)

    def do_list_security_groups(self, params: Params, account: Account) -> dict[str, Any]:
        return self._page("listSecurityGroups", "securitygroup", CATALOGUE["listSecurityGroups"], params)

    def do_list_affinity_groups(self, params: Params, account: Account) -> dict[str, Any]:
        return {}

    def do_list_accounts(self, params: Params, account: Account) -> dict[str, Any]:
        row = copy.deepcopy(CATALOGUE["listAccounts"][0])
        most = self.cloud.limits.get("user_vm")
        if most is not None:
            row |= {"vmlimit": str(most), "vmavailable": str(most - len(self._counted(account)))}
        return self._page("listAccounts", "account", [row], params)

    def do_list_projects(self, params: Params, account: Account) -> dict[str, Any]:
        return self._page("listProjects", "project", _matching([PROJECT], params), params)

    def do_list_domains(self, params: Params, account: Account) -> dict[str, Any]:
        row = {"id": rows.DOMAIN["domainid"], "name": "ROOT", "path": "ROOT"}
        return self._page("listDomains", "domain", _matching([row], params), params)

    def do_list_users(self, params: Params, account: Account) -> dict[str, Any]:
        return {"count": 1, "user": CATALOGUE["listUsers"]}

    def do_list_capabilities(self, params: Params, account: Account) -> dict[str, Any]:
        may = account.admin or self.cloud.settings.user_may_expunge
        return {"capability": {**CATALOGUE["listCapabilities"], "allowuserexpungerecovervm": may}}

    def do_list_resource_limits(self, params: Params, account: Account) -> dict[str, Any]:
        found = [
            {**each, "max": self.cloud.limits.get(each["resourcetypename"], each["max"])}
            for each in CATALOGUE["listResourceLimits"]
        ]
        return {"count": len(found), "resourcelimit": found}

    def do_update_resource_limit(self, params: Params, account: Account) -> dict[str, Any]:
        kind = {"0": "user_vm", "8": "cpu"}[params["resourcetype"]]
        self.cloud.limits[kind] = int(params["max"])
        limit = {"account": params["account"], **rows.DOMAIN, "domainpath": "/"}
        return {
            "resourcelimit": {
                **limit,
                "resourcetype": params["resourcetype"],
                "resourcetypename": kind,
                "max": int(params["max"]),
            }
        }

    def do_get_api_limit(self, params: Params, account: Account) -> dict[str, Any]:
        most = self.cloud.settings.throttle or 0
        return {
            "apilimit": {
                "accountid": self.cloud.new_id(),
                "account": account.name,
                "apiIssued": 1,
                "apiAllowed": most - 1,
                "expireAfter": int(self.cloud.settings.throttle_interval_s * 1000),
            }
        }

    # -- key pairs --

    def do_list_ssh_key_pairs(self, params: Params, account: Account) -> dict[str, Any]:
        found = [pair for pair in reversed(self.cloud.keypairs.values()) if params.get("name") in (None, pair["name"])]
        return self._page("listSSHKeyPairs", "sshkeypair", found, params)

    def do_create_ssh_key_pair(self, params: Params, account: Account) -> dict[str, Any]:
        return {"keypair": {"privatekey": "<private>", **self._keypair(params["name"], account)}}

    def do_register_ssh_key_pair(self, params: Params, account: Account) -> dict[str, Any]:
        return {"keypair": self._keypair(params["name"], account)}

    def _keypair(self, name: str, account: Account) -> dict[str, Any]:
        if name in self.cloud.keypairs:
            raise invalid(f"A key pair with name '{name}' already exists.")
        made = {"id": self.cloud.new_id(), "name": name, "account": account.name, **rows.DOMAIN}
        made |= {"fingerprint": "0b:c2:0a:f1:8f:7e:93:5f:d8:c6:1c:46:a9:09:59:3e", "hasannotations": False}
        self.cloud.keypairs[name] = made
        return made

    # -- machines --

    def do_deploy_virtual_machine(self, params: Params, account: Account) -> dict[str, Any]:
        with self.cloud.lock:
            self._check_deployment(params, account)
        self.gate()
        with self.cloud.lock:
            return self._deploy(params, account)

    def _check_deployment(self, params: Params, account: Account) -> None:
        command, name = "deployVirtualMachine", params.get("name")
        if "serviceofferingid" not in params:
            raise _missing(command, "serviceofferingid")
        if name is not None and not _NAME.fullmatch(name):
            raise ApiError(
                431,
                f"Unable to execute API command {command.lower()} due to invalid value. Invalid value provided for API arg: "
                "name - it can contain ASCII letters 'a' through 'z', the digits '0' through '9', and the hyphen ('-'), must be "
                "between 1 and 63 characters long, and can't start or end with \"-\" and can't start with digit",
            )
        known = {"zoneid": [ZONE["id"]], "serviceofferingid": OFFERINGS, "templateid": [TEMPLATE["id"]]}
        for key, there in known.items():
            if key in params and params[key] not in there:
                raise unknown(command, key, params[key])
        if "templateid" not in params:
            raise ApiError(530, "Internal error executing command, please contact your system administrator", 4250)
        offering = OFFERINGS[params["serviceofferingid"]]
        if offering["iscustomized"] and "details[0].cpuNumber" not in params:
            raise invalid("Need to specify custom parameter values cpu, cpu speed and memory when using custom offering")
        if "securitygroupids" in params and not ZONE["securitygroupsenabled"]:
            raise invalid("Can't create vm with security groups; security group feature is not enabled per zone")
        self._check_networks(params, account)
        self._check_custom_id(params, account)
        self._check_user_data(params)
        if "keypair" in params and params["keypair"] not in self.cloud.keypairs:
            raise invalid("Not all specified keypairs exist")
        self._check_limits(offering, account)
        taken = next((vm for vm in self.cloud.machines.values() if vm.name == name and vm.exists), None)
        if taken:
            raise invalid(
                f"The vm with hostName {name} already exists in the network domain: cs3cloud.internal; network=n1"
            )

    def _check_networks(self, params: Params, account: Account) -> None:
        wanted = [id_ for id_ in params.get("networkids", "").split(",") if id_]
        for id_ in wanted:
            if id_ != NETWORK["id"] and self.cloud.networks.get(id_) is not account:
                raise denied(f"Unable to use network with id= {id_}, permission denied")
        if not wanted and account in self.cloud.networks.values():
            told = json.dumps({"accountName": account.name, "id": 3, "uuid": account.id}, separators=(",", ":"))
            raise invalid(
                f"More than 1 default Isolated networks are found for account Account [{told}]; please specify networkIds"
            )

    def _check_custom_id(self, params: Params, account: Account) -> None:
        custom = params.get("customid")
        if custom and not account.admin:
            raise denied("Please check your permissions, you are not allowed to create/update custom id")
        if custom and custom in self.cloud.machines:
            if self.cloud.machines[custom].exists:
                raise invalid(f"UUID: {custom} already exists so can't create/update with custom id")
            raise ApiError(530, "Entity already exists ", 0)

    def _check_user_data(self, params: Params) -> None:
        data = params.get("userdata", "")
        if params["_method"] == "GET" and len(data) > 4096:
            raise invalid("User data is too long for http GET request")
        if len(data) > self.cloud.settings.user_data_limit:
            raise invalid(f"User data has exceeded configurable max length: {self.cloud.settings.user_data_limit}")
        try:
            base64.b64decode(data, validate=True)
        except binascii.Error:
            raise invalid("User data is not base64 encoded.") from None

    def _check_limits(self, offering: dict[str, Any], account: Account) -> None:
        """Before the name: the order in which the real one does it was not seen."""
        counted = self._counted(account)
        used = {"user_vm": len(counted), "cpu": sum(vm.offering.get("cpunumber", 1) for vm in counted)}
        for kind, asked in (("user_vm", 1), ("cpu", offering.get("cpunumber", 1))):
            most = self.cloud.limits.get(kind)
            if most is not None and used[kind] + asked > most:
                raise ApiError(
                    535,
                    f"Maximum amount of resources of Type = '{kind}', tag = 'null' for Account Name = {account.name} in Domain "
                    f"Id = 1 is exceeded: Account Resource Limit = {most}, Current Account Resource Amount = {used[kind]}, "
                    f"Current Account Resource Reservation = 0, Requested Resource Amount = {asked}.",
                )

    def _counted(self, account: Account) -> list[Machine]:
        return [vm for vm in self.cloud.machines.values() if vm.owner is account and vm.counts]

    def _deploy(self, params: Params, account: Account) -> dict[str, Any]:
        cloud, number = self.cloud, self.cloud.new_number()
        owner = next(each for each in cloud.accounts if each.name == params.get("account", account.name))
        id_ = params.get("customid") or cloud.new_id()
        name = params.get("name") or f"VM-{id_}"
        details = {key[11:]: value for key, value in params.items() if key.startswith("details[0].")}
        offering = OFFERINGS[params["serviceofferingid"]]
        sizes = {"cpunumber": "cpuNumber", "cpuspeed": "cpuSpeed", "memory": "memory"}
        vm = Machine(
            id=id_,
            name=name,
            displayname=params.get("displayname", name),
            owner=owner,
            offering={**offering, **{key: int(details[detail]) for key, detail in sizes.items() if detail in details}},
            created=cloud.now(),
            number=number,
            address=f"10.1.{1 + number // 250}.{number % 250 + 2}",
            details={**details, "deployvm": "true"},
            made_with=details,
            group=params.get("group"),
            group_id=cloud.new_id() if "group" in params else None,
            keypair=params.get("keypair"),
            user_data=params.get("userdata"),
            networks=tuple(params.get("networkids", NETWORK["id"]).split(",")),
        )
        if vm.keypair:
            vm.details |= {"SSH.PublicKey": "ssh-rsa <…> \n", "SSH.KeyPairNames": vm.keypair}
        cloud.machines[vm.id] = vm
        start = params.get("startvm", "true").lower() == "true"
        cmd = f"{CLOUDSTACK_ADMIN}.vm.DeployVMCmdByAdmin" if account.admin else f"{CLOUDSTACK_USER}.vm.DeployVMCmd"
        job = cloud.submit(cmd, account, vm, cloud.deploying(vm, self._in_job(account), start))
        return {"id": vm.id, "jobid": job.id}

    def _in_job(self, viewer: Account) -> Callable[[Machine], dict[str, Any]]:
        return lambda vm: rows.machine(vm, viewer, in_job=vm.jobs[0])

    def do_list_virtual_machines(self, params: Params, account: Account) -> dict[str, Any]:
        details = params.get("details", "all")
        allowed = rows.ALLOWED_DETAILS.split(", ")
        if any(each not in allowed for each in details.split(",")):
            raise invalid(
                f"The details parameter contains a non permitted value. The allowed values are [{rows.ALLOWED_DETAILS}]"
            )
        named = [(key, id_) for key in ("id", "ids") if key in params for id_ in params[key].split(",")]
        for key, id_ in named:
            if not id_.isdigit() and id_ not in self.cloud.machines:
                raise unknown("listVirtualMachines", key, id_)
        ids = [id_ for _, id_ in named]
        found = [vm for vm in self.cloud.machines.values() if self._sees(account, vm, params, ids) and _fits(vm, params)]
        shown = [rows.machine(vm, account, details, user_data=params.get("userdata") == "true") for vm in found]
        return self._page("listVirtualMachines", "virtualmachine", shown, params)

    def _sees(self, account: Account, vm: Machine, params: Params, ids: list[str]) -> bool:
        if not vm.exists or (ids and vm.id not in ids):
            return False
        if self.hide_new_s and (self.cloud.clock() - vm.created).total_seconds() < self.hide_new_s:
            return False
        if account.admin:
            return bool(ids) or params.get("listall") == "true" or vm.owner is account
        return vm.owner is account and vm.counts

    def do_destroy_virtual_machine(self, params: Params, account: Account) -> dict[str, Any]:
        vm = self.cloud.machines.get(params["id"])
        if vm is None:
            raise unknown("destroyVirtualMachine", "id", params["id"])
        if not vm.exists:
            raise ApiError(431, f"Unable to find UUID for id [{vm.number}] of type [VirtualMachine]", INVALID)
        if vm.owner is not account and not account.admin:
            raise denied("Caller does not have permission to operate with provided resource.")
        if vm.protected:
            raise invalid(f"Instance [id = {vm.id}, name = {vm.name}] has delete protection enabled and cannot be deleted.")
        cmd = f"{CLOUDSTACK_ADMIN}.vm.DestroyVMCmdByAdmin" if account.admin else f"{CLOUDSTACK_USER}.vm.DestroyVMCmd"
        work = self.cloud.destroying(vm, self._in_job(account), params.get("expunge") == "true")
        return {"jobid": self.cloud.submit(cmd, account, vm, work).id}

    def do_reboot_virtual_machine(self, params: Params, account: Account) -> dict[str, Any]:
        vm = self.cloud.machines[params["id"]]
        work = lambda job: iter([(1.0, lambda: self.cloud.finish(job, {}))])  # noqa: E731
        return {"jobid": self.cloud.submit(f"{CLOUDSTACK_ADMIN}.vm.RebootVMCmdByAdmin", account, vm, work).id}

    def do_query_async_job_result(self, params: Params, account: Account) -> dict[str, Any]:
        job = self.cloud.jobs.get(params["jobid"])
        if job is None:
            raise unknown("queryAsyncJobResult", "jobid", params["jobid"])
        if job.account is not account and not account.admin:
            told = json.dumps({"accountName": account.name, "id": 3, "uuid": self.cloud.new_id()}, separators=(",", ":"))
            raise denied(f"Account Account [{told}] is not authorized to see job id={job.number}")
        return rows.job(job)

    # -- tags --

    def do_create_tags(self, params: Params, account: Account) -> dict[str, Any]:
        ids = params["resourceids"].split(",")
        count = sum(key.endswith("].key") for key in params)
        tags = {params[f"tags[{i}].key"]: params.get(f"tags[{i}].value", "") for i in range(count)}

        def work(job: Any) -> Any:
            yield 0.5, lambda: self._tag(job, ids, tags, account)

        return {"jobid": self.cloud.submit(f"{CLOUDSTACK_USER}.tag.CreateTagsCmd", account, None, work).id}

    def _tag(self, job: Any, ids: list[str], tags: dict[str, str], account: Account) -> None:
        for key, value in tags.items():
            if not value:
                return self.cloud.fail(job, 431, f"Value for the key {key} is either null or empty")
        for id_ in ids:
            vm = self.cloud.machines.get(id_)
            if vm is None:
                return self.cloud.fail(job, 431, f"Unable to find resource by uuid {id_} and type UserVm")
            if vm.owner is not account:
                return self.cloud.fail(job, 530, "Caller does not have permission to operate with provided resource.")
            if there := next((key for key in tags if key in vm.tags), None):
                return self.cloud.fail(job, 530, f"tag {there} already on UserVm with id {id_}")
        for id_ in ids:
            self.cloud.machines[id_].tags |= tags
        return self.cloud.finish(job, {"success": True})

    def do_list_tags(self, params: Params, account: Account) -> dict[str, Any]:
        vm = self.cloud.machines[params["resourceid"]]
        return self._page("listTags", "tag", [{"key": key, "value": value} for key, value in vm.tags.items()], params)

    # -- pages --

    def _page(self, command: str, noun: str, found: Any, params: Params) -> dict[str, Any]:
        """Nothing is an empty object; past the end there is a count and no list."""
        found, most = list(found), self.cloud.settings.largest_page
        if "page" in params and "pagesize" not in params:
            raise ApiError(431, '"pagesize" parameter is required when "page" is specified')
        size, page = int(params.get("pagesize", most)), int(params.get("page", 1))
        if size > most:
            raise invalid(f"Page size can't exceed max allowed page size value: {most}")
        if not found:
            return {}
        part = found[(page - 1) * size : page * size]
        return {"count": len(found), noun: part} if part else {"count": len(found)}


def _missing(command: str, name: str) -> ApiError:
    return ApiError(431, f"Unable to execute API command {command.lower()} due to missing parameter {name}")


def _matching(found: Any, params: Params) -> list[dict[str, Any]]:
    """By id, name and zone, as far as the rows have them."""
    narrowed = {key: params[key] for key in ("id", "name", "zoneid") if key in params}
    return [row for row in found if all(row.get(key, value) == value for key, value in narrowed.items())]


def _fits(vm: Machine, params: Params) -> bool:
    if "name" in params and vm.name.lower() != params["name"].lower():
        return False
    if "keyword" in params and params["keyword"].lower() not in f"{vm.name}\n{vm.displayname}".lower():
        return False
    if "state" in params and vm.state != params["state"]:
        return False
    wanted = [(params[f"tags[{i}].key"], params[f"tags[{i}].value"]) for i in range(9) if f"tags[{i}].key" in params]
    return not wanted or any(vm.tags.get(key) == value for key, value in wanted)
