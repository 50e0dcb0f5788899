"""The things that a pool names, by name or by id, each looked up once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..base import Misconfigured
from .errors import PARAMETER, Refusal
from .listing import Lists
from .template import is_id


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing: what people call it, where the cloud lists it, and what the list can be narrowed by."""

    called: str
    command: str
    noun: str
    params: Mapping[str, str] = field(default_factory=dict)
    of_account: bool = True  # it may belong to a project or to another account that the settings name
    by_name: str | None = "name"
    by_zone: bool = False


ZONE = Kind("zone", "listZones", "zone", of_account=False)
OFFERING = Kind("service offering", "listServiceOfferings", "serviceoffering", of_account=False)
TEMPLATE = Kind("template", "listTemplates", "template", {"templatefilter": "executable"}, by_zone=True)
NETWORK = Kind("network", "listNetworks", "network", by_name=None, by_zone=True)
SECURITY_GROUP = Kind("security group", "listSecurityGroups", "securitygroup", by_name="securitygroupname")
AFFINITY_GROUP = Kind("affinity group", "listAffinityGroups", "affinitygroup")
KEY_PAIR = Kind("SSH key pair", "listSSHKeyPairs", "sshkeypair")
PROJECT = Kind("project", "listProjects", "project", of_account=False)
DOMAIN = Kind("domain", "listDomains", "domain", {"listall": "true"}, of_account=False, by_name=None)
ACCOUNT = Kind("account", "listAccounts", "account", of_account=False)


class Names:
    """What names mean to one account. `scope` is on whose behalf it acts."""

    def __init__(self, lists: Lists, project: str | None, account: str | None, domain: str | None) -> None:
        if (account is None) != (domain is None):
            raise Misconfigured("account and domain of a CloudStack cloud belong together: give both, or neither")
        if project and account:
            raise Misconfigured("a CloudStack cloud acts for a project or for an account: give one of them")
        self._lists = lists
        self._project, self._account, self._domain = project, account, domain
        self._ids: dict[tuple[str, str, str], str] = {}

    def scope(self) -> dict[str, str]:
        """The parameters that say on whose behalf: a project, another account, or the caller itself."""
        if self._project:
            return {"projectid": self.id(PROJECT, self._project)}
        if self._account and self._domain:
            return {"account": self._account, "domainid": self.id(DOMAIN, self._domain)}
        return {}

    def id(self, kind: Kind, value: str, zone: str | None = None) -> str:
        """The id of what is named so. Raises Misconfigured where nothing is, or more than one thing."""
        if is_id(value):
            return value
        key = (kind.called, value, zone or "")
        if key not in self._ids:
            self._ids[key] = str(self.row(kind, value, zone)["id"])
        return self._ids[key]

    def forget(self) -> None:
        """Look everything up anew: the cloud did not know what an id stood for."""
        self._ids.clear()

    def row(self, kind: Kind, value: str, zone: str | None = None) -> dict[str, Any]:
        """What is named so, as the cloud lists it: by id, else by its name as it is written."""
        by_id = is_id(value)
        narrowed = {"id": value} if by_id else {kind.by_name: value} if kind.by_name else {}
        try:
            rows = self.rows(kind, zone, **narrowed)
        except Refusal as refusal:
            if not by_id or refusal.code != PARAMETER:
                raise
            rows = []
        found = [row for row in rows if by_id or value in (row.get("name"), row.get("path"))]
        there = {row.get("id") or row.get("name") for row in found}
        if not found:
            raise Misconfigured(f"there is no {kind.called} {value!r} for this account{' in its zone' if zone else ''}")
        if len(there) > 1:
            raise Misconfigured(f"{len(there)} of the account's {kind.called}s are named {value!r}: give the id instead")
        return found[0]

    def rows(self, kind: Kind, zone: str | None = None, **params: str) -> list[dict[str, Any]]:
        """All of a kind that the account may use."""
        scope = self.scope() if kind.of_account else {}
        narrowed = {"zoneid": zone} if zone and kind.by_zone else {}
        return self._lists.all(kind.command, kind.noun, {**kind.params, **scope, **narrowed, **params})

    def zone(self, value: str | None) -> str:
        """The id of the pool's zone, or of the only one there is."""
        if value:
            return self.id(ZONE, value)
        key = (ZONE.called, "", "")
        if key not in self._ids:
            there = self.rows(ZONE)
            if len(there) != 1:
                names = ", ".join(sorted(str(row.get("name")) for row in there)) or "none"
                raise Misconfigured(f"the launch template must name a zone; there are {names}")
            self._ids[key] = str(there[0]["id"])
        return self._ids[key]
