"""The EC2 verbs that moto leaves thin: states that take time, filters, pages (launches are in `launching`).

Each is moto's own responder with the missing part added; the rest of EC2 is moto's.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2 import urls
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.amis import Ami
from moto.ec2.models.instances import Instance, Reservation

from .hypervisor import Hypervisor
from .launching import Launching
from .listing import render

IMAGE = "ami-local"
_PAGE = 1000
_FAMILIES = ("t3.", "m6i.", "c6i.", "r6i.")
_Shown = tuple[Reservation, Instance]


class LocalEC2(Launching):
    """moto's EC2 for one process, with its hypervisor. The caller holds the hypervisor's lock."""

    # -- look --

    # moto takes XML as well as a result to write as XML.
    def describe_instances(self) -> str:  # type: ignore[override]
        page, more = self._page(self._shown(), "DescribeInstances")
        return render(page, more)

    def describe_instance_status(self) -> ActionResult:
        """Of what runs, as EC2 has it unless it is told otherwise."""
        running = [(reservation, instance) for reservation, instance in self._shown() if instance.state == "running"]
        page, more = self._page(running, "DescribeInstanceStatus")
        return ActionResult({"InstanceStatuses": [self._status(instance) for _, instance in page], "NextToken": more})

    def _status(self, instance: Instance) -> dict[str, Any]:
        told: dict[str, Any] = {"Status": "ok", "Details": [{"Name": "reachability", "Status": "passed"}]}
        failed: dict[str, Any] = {
            "Status": "impaired",
            "Details": [{"Name": "reachability", "Status": "failed", "ImpairedSince": utcnow()}],
        }
        return {
            "InstanceId": instance.id,
            "AvailabilityZone": instance.availability_zone,
            "InstanceState": {"Code": instance.state_code, "Name": instance.state},
            "InstanceStatus": failed if self.hypervisor.is_impaired(instance) else told,
            "SystemStatus": told,
        }

    def _page(self, shown: list[_Shown], action: str) -> tuple[list[_Shown], str | None]:
        """One page of a listing, and the token of the next one."""
        start = 0
        if after := self._get_param("NextToken"):
            ids = [instance.id for _, instance in shown]
            if after not in ids:
                raise EC2ClientError("InvalidNextToken", "The token is not valid.")
            start = ids.index(after) + 1
        rule = self.hypervisor.faults.take("page_size", action)
        size = min(int(self._get_param("MaxResults") or _PAGE), (rule and rule.page_size) or _PAGE)
        page = shown[start : start + size]
        return page, page[-1][1].id if len(shown) > start + size else None

    def _shown(self) -> list[_Shown]:
        self.error_on_dryrun()
        filters = self._filters_from_querystring()
        tokens = filters.pop("client-token", None)
        markets = filters.pop("instance-lifecycle", None)
        wanted = self._wanted()
        rule = self.hypervisor.faults.take("hide_new_s", "DescribeInstances")
        found = [
            (reservation, instance)
            for reservation in self.ec2_backend.describe_instances(filters=filters)
            for instance in reservation.instances
            if (not wanted or instance.id in wanted)
            and (tokens is None or instance.client_token in tokens)
            and (markets is None or instance.lifecycle in markets)
            and (not rule or (utcnow() - instance.launch_time).total_seconds() >= (rule.hide_new_s or 0))
        ]
        if missing := set(wanted) - {instance.id for _, instance in found} if not filters else set():
            raise EC2ClientError("InvalidInstanceID.NotFound", f"The instance IDs '{', '.join(missing)}' do not exist")
        return found

    def _wanted(self) -> list[str]:
        """The instance ids of this call. EC2 refuses all of them when one is no id at all."""
        ids: list[str] = self._get_param("InstanceIds", [])
        if malformed := [each for each in ids if not re.fullmatch(r"i-[0-9a-f]{8,17}", each)]:
            raise EC2ClientError("InvalidInstanceID.Malformed", f'Invalid id: "{malformed[0]}"')
        return ids

    def get_console_output(self) -> ActionResult:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        output = Base64EncodedString.from_raw_string(self.hypervisor.console(instance))
        return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": output})

    def describe_images(self) -> ActionResult:
        if IMAGE not in self.ec2_backend.amis:
            self.ec2_backend.amis[IMAGE] = Ami(
                self.ec2_backend, IMAGE, name="local", description="a local machine", architecture="x86_64"
            )
        result = super().describe_images()
        assert isinstance(result, ActionResult)
        return result

    def describe_instance_types(self) -> ActionResult:
        """A few families are enough here: to describe the eight hundred types of EC2 takes moto four seconds."""
        result = super().describe_instance_types().result
        assert isinstance(result, dict)
        named = self._get_param("InstanceTypes", []) or self._filters_from_querystring().get("instance-type")
        types = [each for each in result["InstanceTypes"] if named or each["InstanceType"].startswith(_FAMILIES)]
        return ActionResult({"InstanceTypes": types})

    # -- end --

    def terminate_instances(self) -> ActionResult:
        return ActionResult({"TerminatingInstances": self._end("terminated")})

    def stop_instances(self) -> ActionResult:
        return ActionResult({"StoppingInstances": self._end("stopped")})

    def start_instances(self) -> ActionResult:
        self.error_on_dryrun()
        instances = self.ec2_backend.get_multi_instances_by_id(self._wanted())
        before = {instance.id: copy.copy(instance.instance_state) for instance in instances}
        self.hypervisor.start(instance for instance in instances if instance.state == "stopped")
        return ActionResult({"StartingInstances": _changes(instances, before)})

    def _end(self, goal: str) -> list[dict[str, Any]]:
        self.error_on_dryrun()
        instances = self.ec2_backend.get_multi_instances_by_id(self._wanted())
        before = {instance.id: copy.copy(instance.instance_state) for instance in instances}
        for instance in instances:
            self.hypervisor.end(instance, goal)
        return _changes(instances, before)


def _changes(instances: list[Instance], before: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"InstanceId": each.id, "CurrentState": each.instance_state, "PreviousState": before[each.id]} for each in instances
    ]


def install(hypervisor: Hypervisor) -> None:
    """Put these verbs in moto's place. Before moto's application is made, once in a process."""
    LocalEC2.hypervisor = hypervisor
    urls.url_paths["{0}/"] = LocalEC2.dispatch
