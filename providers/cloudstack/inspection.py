"""A look at each thing a launch needs, before one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..base import Finding, Misconfigured, Verdict
from .errors import NOT_ALLOWED, NOT_OURS, Refusal, translate
from .names import (
    ACCOUNT,
    AFFINITY_GROUP,
    KEY_PAIR,
    NETWORK,
    OFFERING,
    PROJECT,
    SECURITY_GROUP,
    TEMPLATE,
    ZONE,
    Kind,
    Names,
)
from .template import SIZES

Judge = Callable[[Mapping[str, Any]], str | None]
"""What is wrong with a thing, from its row."""

_LIMITS = {"vm": "machines", "cpu": "CPUs", "memory": "MiB of memory", "volume": "volumes"}


def inspect(names: Names, image: str, instance_type: str, template: Mapping[str, Any]) -> list[Finding]:
    """A finding for each thing; only a cloud that cannot be asked at all raises."""
    findings: list[Finding] = []
    zone = _look(findings, names, "zone", ZONE, template.get("zone"), None, _zone)
    zone_id = str(zone["id"]) if zone else None
    offering = _look(findings, names, "size", OFFERING, instance_type, None, lambda row: _offering(row, template))
    _look(findings, names, "image", TEMPLATE, image, zone_id, _image)
    for value in template.get("networks", []):
        _look(findings, names, "network", NETWORK, value, None, lambda row: _network(row, zone_id))
    for value in template.get("security_groups", []):
        _look(findings, names, "security group", SECURITY_GROUP, value, None, lambda _: _grouped(zone))
    for value in template.get("affinity_groups", []):
        _look(findings, names, "affinity group", AFFINITY_GROUP, value, None, lambda _: None)
    if key := template.get("key_name"):
        _look(findings, names, "key", KEY_PAIR, key, None, lambda _: None)
    return [*findings, *_quota(names, offering or {})]


def server_side(capable: Mapping[str, Any], template: Mapping[str, Any]) -> Iterator[Finding]:
    """What depends on the server's own settings."""
    if capable.get("allowuserexpungerecovervm"):
        yield Finding("expunge", Verdict.OK, "Ended machines are expunged at once.")
    else:
        yield Finding(
            "expunge",
            Verdict.WARNING,
            "This account may not expunge: ended machines keep their disks and names until the cloud expunges them by "
            "itself (expunge.delay, a day by default). To end that, have allow.user.expunge.recover.vm set.",
        )
    if "lease_days" in template and not capable.get("instanceleaseenabled"):
        yield Finding(
            "lease",
            Verdict.WRONG,
            "The server ends no machines by lease: have instance.lease.enabled set, or drop lease_days.",
        )


def _look(
    findings: list[Finding], names: Names, subject: str, kind: Kind, value: str | None, zone: str | None, judge: Judge
) -> Mapping[str, Any] | None:
    """Find one thing and write down what is to be said of it. None where it is not to be had."""
    try:
        row = names.row(kind, value or names.zone(None), zone)
    except Misconfigured as error:
        findings.append(Finding(subject, Verdict.WRONG, f"{error}."))
        return None
    except Refusal as refusal:
        if refusal.code not in (NOT_ALLOWED, NOT_OURS):
            raise
        findings.append(Finding(subject, Verdict.WARNING, str(translate(refusal, f"show the {kind.called} {value}"))))
        return None
    called = f"{kind.called} {row.get('name')}"
    if wrong := judge(row):
        findings.append(Finding(subject, Verdict.WRONG, f"The {called} {wrong}."))
    else:
        findings.append(Finding(subject, Verdict.OK, f"The {called} is there."))
    return row


def _zone(row: Mapping[str, Any]) -> str | None:
    return "is disabled: name another zone" if row.get("allocationstate") == "Disabled" else None


def _offering(row: Mapping[str, Any], template: Mapping[str, Any]) -> str | None:
    given = [key for key in SIZES if key in template]
    if row.get("iscustomized"):
        missing = [key for key, name in SIZES.items() if key not in template and name.lower() not in row]
        return f"is custom: give {', '.join(missing)} in the launch template" if missing else None
    return f"has a fixed size: take {', '.join(given)} out of the launch template" if given else None


def _image(row: Mapping[str, Any]) -> str | None:
    return None if row.get("isready") else "is not ready in this zone: wait for its download, or copy it to the zone"


def _network(row: Mapping[str, Any], zone_id: str | None) -> str | None:
    if zone_id and row.get("zoneid") != zone_id:
        return f"is in the zone {row.get('zonename')}: name one of the pool's zone"
    if "UserData" not in {service.get("name") for service in row.get("service", [])}:
        return "does not give machines their user data: use one whose offering has the UserData service"
    return None


def _grouped(zone: Mapping[str, Any] | None) -> str | None:
    if zone and not zone.get("securitygroupsenabled"):
        return "cannot be used: its zone has no security groups; take it out of the launch template"
    return None


def _quota(names: Names, offering: Mapping[str, Any]) -> Iterator[Finding]:
    """What is left of the account's limits, against one machine of this size."""
    try:
        scope = names.scope()
        kind = PROJECT if "projectid" in scope else ACCOUNT
        narrowed = {"id": scope["projectid"]} if kind is PROJECT else _of_account(scope)
        rows = names.rows(kind, **narrowed)
    except Refusal as refusal:
        yield Finding("quota", Verdict.WARNING, str(translate(refusal, "tell what is left of the account's limits")))
        return
    need = {"vm": 1, "volume": 1, "cpu": offering.get("cpunumber", 1), "memory": offering.get("memory", 1)}
    left = {name: str(rows[0].get(f"{name}available", "Unlimited")) for name in need} if len(rows) == 1 else {}
    short = [name for name, value in left.items() if value.lstrip("-").isdigit() and int(value) < need[name]]
    for name in short:
        yield Finding(
            "quota",
            Verdict.WRONG,
            f"{left[name]} {_LIMITS[name]} are left of the account's limit, a machine takes {need[name]}.",
        )
    if left and not short:
        told = ", ".join(f"{value} {_LIMITS[name]}" for name, value in left.items())
        yield Finding("quota", Verdict.OK, f"Left of the account's limits: {told}.")


def _of_account(scope: Mapping[str, str]) -> dict[str, str]:
    return {"name": scope["account"], "domainid": scope["domainid"]} if scope else {}
