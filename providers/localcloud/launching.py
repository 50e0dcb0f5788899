"""Launches as EC2 does them: idempotency tokens, counts, shortages by type and place, and CreateFleet of type `instant`.

Every machine comes by `_start`, which is moto's RunInstances with what moto leaves out.
"""

from __future__ import annotations

import base64
import copy
import json
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instances import Reservation
from moto.ec2.responses import EC2Response
from moto.ec2.utils import random_fleet_id

from .hypervisor import Hypervisor

USER_DATA_LIMIT = 16384
_Made = TypeVar("_Made")


class Launching(EC2Response):
    """The verbs that make machines. The caller holds the hypervisor's lock."""

    hypervisor: ClassVar[Hypervisor]
    # token → what was asked with it, and what it made; by region, as a token is known in its region only
    _launches: ClassVar[dict[tuple[str, str], tuple[str, Reservation]]] = {}
    _fleets: ClassVar[dict[tuple[str, str], tuple[str, dict[str, Any]]]] = {}

    def run_instances(self) -> ActionResult:
        token = self._get_param("ClientToken")
        asked = self._asked()
        if (reservation := self._made(self._launches, token, asked)) is not None:
            if any(instance.state == "terminated" for instance in reservation.instances):
                raise EC2ClientError(
                    "IdempotentInstanceTerminated", "The client token was used before for an instance that has ended."
                )
            return ActionResult(reservation)
        least, most = int(self._get_param("MinCount", 1)), int(self._get_param("MaxCount", 1))
        if not 1 <= least <= most:
            raise EC2ClientError("InvalidParameterValue", "MinCount must be at least 1 and at most MaxCount")
        _refuse_large(self._get_param("UserData"))
        self.error_on_dryrun()
        reservation = self._start(self.params, least, most, "RunInstances")
        if token:
            # A copy, for the machines of this launch are to be known when the listing has long forgotten them.
            remembered = copy.copy(reservation)
            remembered.instances = list(reservation.instances)
            self._launches[self.region, token] = asked, remembered
        return ActionResult(reservation)

    def create_fleet(self) -> ActionResult:
        """Pool by pool, in the order of the overrides: prices and priorities are not told apart here."""
        token = self._get_param("ClientToken")
        asked = self._asked()
        if (answer := self._made(self._fleets, token, asked)) is not None:
            return ActionResult(answer)
        if self._get_param("Type") != "instant":
            raise EC2ClientError("UnsupportedOperation", "The local cloud knows fleets of type instant only.")
        self.error_on_dryrun()
        answer = self._fleet()
        if token:
            self._fleets[self.region, token] = asked, answer
        return ActionResult(answer)

    def _fleet(self) -> dict[str, Any]:
        target = self._get_param("TargetCapacitySpecification")
        market = target.get("DefaultTargetCapacityType", "on-demand")
        left = int(target["TotalTargetCapacity"])
        fleet_id = random_fleet_id()
        instances: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for config in self._get_param("LaunchTemplateConfigs"):
            data = self._template(config["LaunchTemplateSpecification"])
            for override in config.get("Overrides") or [{}]:
                if not left:
                    break
                about = {"Lifecycle": market, "LaunchTemplateAndOverrides": {**config, "Overrides": override}}
                try:
                    made = self._start(self._parameters(data, override, market, fleet_id), 1, left, "CreateFleet").instances
                except EC2ClientError as error:
                    errors.append({**about, "ErrorCode": error.code, "ErrorMessage": error.message})
                    continue
                left -= len(made)
                ids = [instance.id for instance in made]
                instances.append({**about, "InstanceIds": ids, "InstanceType": made[0].instance_type})
        return {"FleetId": fleet_id, "Instances": instances, "Errors": errors}

    def _template(self, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        """The data of a launch template, by id or by name."""
        if "LaunchTemplateId" in wanted:
            template = self.ec2_backend.get_launch_template(wanted["LaunchTemplateId"])
        else:
            template = self.ec2_backend.get_launch_template_by_name(wanted["LaunchTemplateName"])
        data: Mapping[str, Any] = template.get_version(wanted.get("Version", "$Default")).data
        return data

    def _parameters(
        self, data: Mapping[str, Any], override: Mapping[str, Any], market: str, fleet_id: str
    ) -> dict[str, Any]:
        """RunInstances for one pool of a fleet: its template, what the pool has of its own, and the fleet's tags."""
        _refuse_large(data.get("UserData"))
        parameters = {**data, "ClientToken": str(uuid.uuid4()), "UserData": str(data.get("UserData") or "")}
        parameters.update({key: override[key] for key in ("InstanceType", "SubnetId", "ImageId") if key in override})
        if "AvailabilityZone" in override:
            parameters["Placement"] = {"AvailabilityZone": override["AvailabilityZone"]}
        if market == "spot":
            parameters["InstanceMarketOptions"] = {"MarketType": "spot"}
        mark = {"ResourceType": "instance", "Tags": [{"Key": "aws:ec2:fleet-id", "Value": fleet_id}]}
        own = [each for each in data.get("TagSpecifications", ()) if each["ResourceType"] != "launch-template"]
        parameters["TagSpecifications"] = [*own, *self._get_param("TagSpecifications", []), mark]
        return parameters

    def _start(self, parameters: dict[str, Any], least: int, most: int, action: str) -> Reservation:
        """Make and boot `least` … `most` machines. Raises EC2's error where there is no room for the least."""
        market = parameters.get("InstanceMarketOptions", {}).get("MarketType", "on-demand")
        about = {
            "InstanceType": parameters.get("InstanceType", ""),
            "SubnetId": parameters.get("SubnetId", ""),
            "AvailabilityZone": self._zone(parameters),
            "ImageId": parameters.get("ImageId", ""),
            "Market": market,
        }
        if rule := self.hypervisor.faults.take("shortage", action, about):
            raise EC2ClientError(rule.shortage or "", "There is no room for this now, by a fault of the local cloud.")
        rule = self.hypervisor.faults.take("max_given", action, about)
        given = min(most, rule.max_given) if rule and rule.max_given is not None else most
        if given < least:
            raise EC2ClientError("InsufficientInstanceCapacity", "There is no capacity for this now.")
        asked, self.params = self.params, {**parameters, "MinCount": given, "MaxCount": given}
        try:
            _refuse_spot_tags(self._parse_tag_specification(), market)
            reservation = super().run_instances().result
            assert isinstance(reservation, Reservation)
            self._complete(reservation)
        finally:
            self.params = asked
        self.hypervisor.start(reservation.instances)
        return reservation

    def _zone(self, parameters: Mapping[str, Any]) -> str:
        if subnet := parameters.get("SubnetId"):
            zone: str = self.ec2_backend.get_subnet(subnet).availability_zone
            return zone
        return str(parameters.get("Placement", {}).get("AvailabilityZone", ""))

    def _complete(self, reservation: Reservation) -> None:
        """What moto's RunInstances forgets: the tags of interfaces, the speed of volumes."""
        tags = self._parse_tag_specification().get("network-interface", {})
        speeds = {each["DeviceName"]: each.get("Ebs", {}) for each in self._get_param("BlockDeviceMappings", [])}
        for instance in reservation.instances:
            for interface in instance.nics.values():
                interface.add_tags(tags)
            for name, device in instance.get_block_device_mapping:
                volume = self.ec2_backend.get_volume(device.volume_id)
                if iops := speeds.get(name, {}).get("Iops"):
                    volume.iops = int(iops)
                if throughput := speeds.get(name, {}).get("Throughput"):
                    volume.throughput = int(throughput)

    def _asked(self) -> str:
        return json.dumps(self.params, sort_keys=True, default=str)

    def _made(self, memory: Mapping[tuple[str, str], tuple[str, _Made]], token: str, asked: str) -> _Made | None:
        """What was made with this token before, None for a new one. Raises when something else was asked then."""
        asked_first, made = memory.get((self.region, token), (asked, None))
        if asked != asked_first:
            raise EC2ClientError("IdempotentParameterMismatch", "The client token was used before with other parameters.")
        return made


def _refuse_large(user_data: Any) -> None:
    if len(base64.b64decode(str(user_data or ""))) > USER_DATA_LIMIT:
        raise EC2ClientError("InvalidParameterValue", f"User data is limited to {USER_DATA_LIMIT} bytes")


def _refuse_spot_tags(tags: Mapping[str, Any], market: str) -> None:
    if "spot-instances-request" in tags and market != "spot":
        raise EC2ClientError("InvalidParameterValue", "There are no spot requests to tag: no spot machine is asked for.")
