"""DescribeInstances as XML. moto's serialiser takes 7 ms a machine, and the master looks at all of them every tick."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from moto.ec2.models.instances import Instance, Reservation

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
_NAMESPACE = 'xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"'


def render(page: Iterable[tuple[Reservation, Instance]], next_token: str | None) -> str:
    """One page. EC2 pages by instance: a reservation appears on each page that holds one of its machines."""
    parts: dict[str, list[str]] = {}
    owners: dict[str, str | None] = {}
    for reservation, instance in page:
        parts.setdefault(reservation.id, []).append(_instance(instance))
        owners[reservation.id] = reservation.owner_id
    reservations = "".join(
        _tag("item", _text(reservationId=name, ownerId=owners[name]) + _tag("instancesSet", "".join(items)))
        for name, items in parts.items()
    )
    body = _text(requestId="00000000-0000-0000-0000-000000000000") + _tag("reservationSet", reservations)
    body += _text(nextToken=next_token)
    return f"{_HEAD}<DescribeInstancesResponse {_NAMESPACE}>{body}</DescribeInstancesResponse>"


def _instance(seen: Instance) -> str:
    options = seen.metadata_options
    return _tag(
        "item",
        _text(
            instanceId=seen.id,
            imageId=seen.image_id,
            instanceType=seen.instance_type,
            instanceLifecycle=seen.lifecycle,
            clientToken=seen.client_token,
            keyName=seen.key_name,
            reason=seen.state_transition_reason,
            amiLaunchIndex=seen.ami_launch_index,
            launchTime=seen.launch_time.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            subnetId=seen.subnet_id,
            vpcId=seen.vpc_id,
            architecture=seen.architecture,
            rootDeviceName=seen.root_device_name,
            **_addresses(seen),
        )
        + _tag("instanceState", _text(code=seen.state_code, name=seen.state))
        + _tag("placement", _text(availabilityZone=seen.availability_zone, tenancy="default"))
        + _tag(
            "metadataOptions",
            _text(state=options.state, httpTokens=options.http_tokens)
            + _text(httpPutResponseHopLimit=options.http_put_response_hop_limit, httpEndpoint=options.http_endpoint),
        )
        + (
            _tag("stateReason", _text(code=reason.code, message=reason.message))
            if (reason := seen.state_reason).code
            else ""
        )
        + _items("groupSet", ({"groupId": group.id, "groupName": group.name} for group in seen.security_groups))
        + _items("tagSet", seen.get_tags()),
    )


def _addresses(seen: Instance) -> dict[str, str | None]:
    """A machine that has ended has given its addresses back."""
    if seen.state == "terminated":
        return {}
    return {"privateIpAddress": seen.private_ip, "ipAddress": seen.public_ip, "privateDnsName": seen.private_dns_name}


def _items(name: str, items: Iterable[dict[str, Any]]) -> str:
    return _tag(name, "".join(_tag("item", _text(**item)) for item in items))


def _text(**values: object) -> str:
    """Elements that hold text; what has no value is left out."""
    return "".join(_tag(name, escape(str(value))) for name, value in values.items() if value not in (None, ""))


def _tag(name: str, inside: str) -> str:
    return f"<{name}>{inside}</{name}>"
