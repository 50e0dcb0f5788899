"""The EC2 verbs that moto leaves thin: launches with tokens and counts, states that take time, filters, pages.

Each is moto's own responder with the missing part added; the rest of EC2 is moto's.
"""

from __future__ import annotations

import base64
import copy
import json
import re
from typing import Any, ClassVar

from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2 import urls
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.amis import Ami
from moto.ec2.models.instances import Instance, Reservation
from moto.ec2.responses import EC2Response

from .hypervisor import Hypervisor
from .listing import render

IMAGE = "ami-local"
USER_DATA_LIMIT = 16384
_PAGE = 1000
_FAMILIES = ("t3.", "m6i.", "c6i.", "r6i.")


class LocalEC2(EC2Response):
    """moto's EC2 for one process, with its hypervisor. The caller holds the hypervisor's lock."""

    hypervisor: ClassVar[Hypervisor]
    # token → what was asked with it, and the launch it made; by region, as a token is known in its region only
    _launches: ClassVar[dict[tuple[str, str], tuple[str, Reservation]]] = {}

    # -- launch --

    def run_instances(self) -> ActionResult:
        token = self._get_param("ClientToken")
        asked = json.dumps(self.params, sort_keys=True, default=str)
        if token and (self.region, token) in self._launches:
            return self._again(*self._launches[self.region, token], asked)
        self._check_user_data()
        self.params["MinCount"] = self._given()
        reservation = super().run_instances().result
        assert isinstance(reservation, Reservation)
        self.hypervisor.start(reservation.instances)
        if token:
            # A copy, for the machines of this launch are to be known when the listing has long forgotten them.
            remembered = copy.copy(reservation)
            remembered.instances = list(reservation.instances)
            self._launches[self.region, token] = asked, remembered
        return ActionResult(reservation)

    @staticmethod
    def _again(asked_first: str, reservation: Reservation, asked: str) -> ActionResult:
        if asked != asked_first:
            raise EC2ClientError("IdempotentParameterMismatch", "The client token was used before with other parameters.")
        if any(instance.state == "terminated" for instance in reservation.instances):
            raise EC2ClientError(
                "IdempotentInstanceTerminated", "The client token was used before for an instance that has ended."
            )
        return ActionResult(reservation)

    def _check_user_data(self) -> None:
        size = len(base64.b64decode(self._get_param("UserData") or b""))
        if size > USER_DATA_LIMIT:
            raise EC2ClientError("InvalidParameterValue", f"User data is limited to {USER_DATA_LIMIT} bytes")

    def _given(self) -> int:
        """How many of MinCount … MaxCount there are to be had."""
        least, most = int(self._get_param("MinCount", 1)), int(self._get_param("MaxCount", 1))
        if not 1 <= least <= most:
            raise EC2ClientError("InvalidParameterValue", "MinCount must be at least 1 and at most MaxCount")
        rule = self.hypervisor.faults.take("max_given", "RunInstances")
        given = min(most, rule.max_given) if rule and rule.max_given is not None else most
        if given < least:
            raise EC2ClientError("InsufficientInstanceCapacity", "There is no capacity for this now.")
        return given

    # -- look --

    # moto takes XML as well as a result to write as XML.
    def describe_instances(self) -> str:  # type: ignore[override]
        shown = self._shown()
        start = 0
        if after := self._get_param("NextToken"):
            ids = [instance.id for _, instance in shown]
            if after not in ids:
                raise EC2ClientError("InvalidNextToken", "The token is not valid.")
            start = ids.index(after) + 1
        rule = self.hypervisor.faults.take("page_size", "DescribeInstances")
        size = min(int(self._get_param("MaxResults") or _PAGE), (rule and rule.page_size) or _PAGE)
        page = shown[start : start + size]
        more = page[-1][1].id if len(shown) > start + size else None
        return render(page, more)

    def _shown(self) -> list[tuple[Reservation, Instance]]:
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
            self.ec2_backend.amis[IMAGE] = Ami(self.ec2_backend, IMAGE, name="local", description="a local machine")
        result = super().describe_images()
        assert isinstance(result, ActionResult)
        return result

    def describe_instance_types(self) -> ActionResult:
        """A few families are enough here: to describe the eight hundred types of EC2 takes moto four seconds."""
        result = super().describe_instance_types().result
        assert isinstance(result, dict)
        named = self._get_param("InstanceTypes", [])
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
