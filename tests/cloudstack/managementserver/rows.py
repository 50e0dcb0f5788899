"""How machines and jobs are shown: to their user, to the admin, whole or with less detail."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from .cloud import FREED, Account, Job, Machine

DOMAIN = {"domainid": "04327ee8-e4f7-11f1-9bab-02fc00000001", "domain": "ROOT"}
_TEMPLATE = "CentOS 5.6 (64-bit) no GUI (Simulator)"
ALLOWED_DETAILS = "all, group, nics, stats, secgrp, tmpl, servoff, diskoff, backoff, iso, volume, min, affgrp, vnfnics"


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S+0000")


def machine(
    vm: Machine, viewer: Account, details: str = "all", *, user_data: bool = False, in_job: Job | None = None
) -> dict[str, Any]:
    wanted = set(details.split(","))
    has = wanted.__contains__ if "all" not in wanted else lambda _: True
    row: dict[str, Any] = {
        "id": vm.id,
        "name": vm.name,
        "displayname": vm.displayname,
        "account": vm.owner.name,
        "userid": vm.owner.user_id,
        "username": vm.owner.name,
        **DOMAIN,
        "domainpath": "/",
        "created": stamp(vm.created),
    }
    if vm.updated:
        row["lastupdated"] = stamp(vm.updated)
    row |= {"state": vm.state, "haenable": False}
    if vm.group and has("group"):
        row |= {"groupid": vm.group_id, "group": vm.group}
    row |= {"zoneid": "70b72dc8-78ea-47bb-b657-5375b21c1dc8", "zonename": "sim1"}
    on_host = vm.state in ("Starting", "Running", "Stopping")
    if on_host:
        row["hostcontrolstate"] = "Enabled"
    if has("tmpl"):
        row |= {
            "templateid": "1f0208e0-e4f7-11f1-9bab-02fc00000001",
            "templatename": _TEMPLATE,
            "templatetype": "BUILTIN",
            "templateformat": "VHD",
            "templatedisplaytext": _TEMPLATE,
            "passwordenabled": False,
        }
    if has("servoff"):
        size = {key: vm.offering[key] for key in ("cpunumber", "cpuspeed", "memory") if key in vm.offering}
        row |= {"serviceofferingid": vm.offering["id"], "serviceofferingname": vm.offering["name"], **size}
    row["guestosid"] = "042ecedb-e4f7-11f1-9bab-02fc00000001"
    if has("volume"):
        row |= {"rootdeviceid": 0, "rootdevicetype": "ROOT"}
    row |= {
        "securitygroup": [],
        "nic": [_nic(vm, on_host or vm.updated is None)] if has("nics") or vm.tags else [],
        "hypervisor": "Simulator",
    }
    if row["nic"]:
        row["ipaddress"] = vm.address
    row["details"] = {key: value for key, value in vm.details.items() if viewer.admin or key != FREED}
    if not viewer.admin:
        row["readonlydetails"] = "dataDiskController, rootDiskController"
    if vm.keypair:
        row["keypairs"] = vm.keypair
    row |= {"affinitygroup": [], "isdynamicallyscalable": False, "deleteprotection": False}
    row |= {"ostypeid": "042ecedb-e4f7-11f1-9bab-02fc00000001", "osdisplayname": "CentOS 5.6 (64-bit)"}
    if vm.placed:
        row["pooltype"] = "NetworkFilesystem"
    row |= {"receivedbytes": 0, "sentbytes": 0}
    if viewer.admin:
        row |= {"instancename": f"i-3-{vm.number}-VM", "displayvm": True, "arch": "x86_64"}
        if on_host:
            row |= {"hostid": "3e0a1c1b-a9c0-4b19-a0d7-1c1c8c6a0b01", "hostname": "SimulatedAgent.1"}
    if user_data and vm.user_data:
        row["userdata"] = vm.user_data
    row |= {"tags": [_tag(vm, key, value) for key, value in sorted(vm.tags.items())], "hasannotations": False}
    job = in_job or next(iter(vm.jobs), None)
    if job:
        row |= {"jobid": job.id, "jobstatus": 0}
    return row


def _nic(vm: Machine, plugged: bool) -> dict[str, Any]:
    vlan = {"isolationuri": "vlan://525", "broadcasturi": "vlan://525"} if plugged else {}
    return {
        "id": f"dea2ac5b-ab12-4be8-b45d-{vm.number:012x}",
        "networkid": "7ccc7a1a-e0ed-4082-945e-7807825b37e7",
        "networkname": "n1",
        "netmask": "255.255.255.0",
        "gateway": "10.1.1.1",
        "ipaddress": vm.address,
        **vlan,
        "traffictype": "Guest",
        "type": "Isolated",
        "isdefault": True,
        "macaddress": f"02:01:00:cc:{vm.number >> 8 & 255:02x}:{vm.number & 255:02x}",
        "secondaryip": [],
        "extradhcpoption": [],
        "deviceid": "0",
    }


def _tag(vm: Machine, key: str, value: str) -> dict[str, str]:
    return {"key": key, "value": value, "resourcetype": "UserVm", "resourceid": vm.id, "account": vm.owner.name, **DOMAIN}


def job(seen: Job) -> dict[str, Any]:
    row: dict[str, Any] = {
        "accountid": seen.account.id,
        "account": seen.account.name,
        "domainid": DOMAIN["domainid"],
        "domainpath": "ROOT",
        "userid": seen.account.user_id,
        "cmd": seen.cmd,
        "jobprocstatus": 0,
        "jobresultcode": seen.code,
    }
    if seen.result is not None:
        row |= {"jobresulttype": "object", "jobresult": seen.result}
    if seen.machine:
        row |= {"jobinstancetype": "VirtualMachine", "jobinstanceid": seen.machine.id}
    if seen.status == 0:
        row |= {"managementserverid": "9acfc66a-a5d1-416c-b931-0581243bb46e", "managementservername": "localhost"}
    row["created"] = stamp(seen.created)
    if seen.completed:
        row["completed"] = stamp(seen.completed)
    return {**row, "jobid": seen.id, "jobstatus": seen.status}
