"""Launches where EC2 has a choice of types or zones: one CreateFleet of type `instant`, by a launch template of ours.

CreateFleet takes the user data only from a launch template, and the user data differ from launch to launch. So each
launch has a template of its own, named by its content: whoever repeats the launch names, and finds, the same one.
A template costs nothing; those of this installation that are an hour old are deleted by the next launch of a fleet.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from . import ec2_template
from .base import TAG_INSTALLATION, TAG_LAUNCH, TAG_POOL, Instance, InstanceState, LaunchRequest, Unavailable
from .ec2_errors import barren, code_of, translated

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

PREFIX = "elastic-orchestrator-"
KEPT_S = 3600.0  # longer than anyone repeats a launch
_AT_MOST = 20  # templates deleted on the way of one launch
_TEMPLATE_GONE = {"InvalidLaunchTemplateName.NotFoundException", "InvalidLaunchTemplateId.NotFound"}
_TEMPLATE_THERE = "InvalidLaunchTemplateName.AlreadyExistsException"

log = logging.getLogger(__name__)


def launch(ec2: EC2Client, request: LaunchRequest, tags: Mapping[str, str], root_device: str) -> list[Instance]:
    """Up to `request.count` machines of the fleet. Raises what `Provider.launch` does, and the SDK's own errors.

    The reply tells ids and no more: addresses and times come with the next listing.
    """
    from botocore.exceptions import ClientError

    with translated(f"make the launch template of {request.launch_id}"):
        name = _ensure_template(ec2, ec2_template.template_data(request, tags, root_device), tags)
    try:
        reply: Any = ec2.create_fleet(**ec2_template.create_fleet(request, tags, name))
    except ClientError as error:
        if code_of(error) in _TEMPLATE_GONE:
            raise Unavailable(f"EC2 does not show the launch template {name} yet: nothing was made, try again") from error
        raise
    forget_templates(ec2, tags[TAG_INSTALLATION], KEPT_S)
    ids = [each for part in reply.get("Instances", ()) for each in part.get("InstanceIds", ())]
    if not ids:
        kinds = ", ".join(ec2_template.types(request.instance_type, request.template))
        raise barren(reply.get("Errors", ()), f"launch any of {request.count} of {kinds}")
    return [Instance(id=each, state=InstanceState.PENDING, tags=tags) for each in ids]


def _ensure_template(ec2: EC2Client, data: dict[str, Any], tags: Mapping[str, str]) -> str:
    """The name of a template with just this content; made unless it is there."""
    from botocore.exceptions import ClientError

    name = PREFIX + hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:40]
    own = {key: tags[key] for key in (TAG_INSTALLATION, TAG_POOL, TAG_LAUNCH) if key in tags}
    marks: Any = ec2_template.tagged(own, "launch-template")
    try:
        ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data, TagSpecifications=marks)  # type: ignore[arg-type]
    except ClientError as error:
        if code_of(error) != _TEMPLATE_THERE:
            raise
    return name


def forget_templates(ec2: EC2Client, installation: str, kept_s: float) -> None:
    """Delete templates of this installation older than `kept_s` by EC2's own clock, some at a time.

    What goes wrong here is logged and left to the next launch: it must not spoil the one just made.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        ours = {"Name": f"tag:{TAG_INSTALLATION}", "Values": [installation]}
        reply: Any = ec2.describe_launch_templates(Filters=[ours], MaxResults=200)  # type: ignore[list-item]
        now = parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"])
        old = [
            each["LaunchTemplateId"]
            for each in reply["LaunchTemplates"]
            if _is_ours(each, installation) and (now - each["CreateTime"]).total_seconds() >= kept_s
        ]
        for template_id in old[:_AT_MOST]:
            ec2.delete_launch_template(LaunchTemplateId=template_id)
    except (BotoCoreError, ClientError, KeyError, ValueError) as error:
        log.warning("old launch templates are left to the next launch of a fleet: %s", error)


def _is_ours(seen: Any, installation: str) -> bool:
    """Looked at again: a filter that was ignored must cost no stranger's template."""
    tags = {tag["Key"]: tag["Value"] for tag in seen.get("Tags", ())}
    return tags.get(TAG_INSTALLATION) == installation and seen["LaunchTemplateName"].startswith(PREFIX)
