"""Clouds: how each is used, and what it has for a pool to name. What is asked here is asked from the cloud, now."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter
from fastapi import Path as UrlPath

from orchestrator.api.auth import Caller, needs
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import CLOUD_PROBLEMS, PROBLEMS
from orchestrator.api.shapes import CatalogueItemOut, CloudOut, InstanceOut, Page, UsageOut
from orchestrator.app import Master
from orchestrator.people.roles import Role
from orchestrator.store import queries
from providers.base import TAG_POOL, ProviderError

router = APIRouter(prefix="/api/v1/clouds", tags=["clouds"], responses=PROBLEMS)
CloudName = Annotated[str, UrlPath(max_length=100)]


class Kind(StrEnum):
    IMAGES = "images"
    SIZES = "sizes"
    LOCATIONS = "locations"


@router.get("")
@needs(Role.VIEWER)
def list_clouds(master: MasterDep, _: Caller) -> Page[CloudOut]:
    """The clouds of the settings. None of them is asked for this."""
    return Page(items=[_cloud(master, name) for name in master.clouds.names()])


@router.get("/{name}/instances", responses=CLOUD_PROBLEMS)
@needs(Role.VIEWER)
def instances(master: MasterDep, _: Caller, name: CloudName) -> Page[InstanceOut]:
    """The machines that this installation created there, each with its node. Others of the account are not listed: what
    does not bear our tag is not ours to see or to touch."""
    shown = master.clouds.get(name).instances()
    with master.engine.connect() as connection:
        nodes = queries.nodes_of_machines(connection, [instance.id for instance in shown])
    return Page(
        items=[
            InstanceOut(
                id=instance.id,
                state=instance.state,
                address=instance.address,
                launched_at=instance.launched_at,
                fault=instance.fault,
                pool=instance.tags.get(TAG_POOL),
                launch=instance.launch_id,
                node_id=node["id"] if node else None,
                node_state=node["state"] if node else None,
                tags=dict(instance.tags),
            )
            for instance in shown
            for node in [nodes.get(instance.id)]
        ]
    )


@router.get("/{name}/{kind}", responses=CLOUD_PROBLEMS)
@needs(Role.VIEWER)
def catalogue(master: MasterDep, _: Caller, name: CloudName, kind: Kind) -> Page[CatalogueItemOut]:
    """What a pool may name there: images of this account, sizes of machines, locations."""
    found = master.clouds.get(name).catalogue(kind)
    return Page(items=[CatalogueItemOut(**asdict(item)) for item in found])


def _cloud(master: Master, name: str) -> CloudOut:
    settings = master.settings.clouds[name]
    known = {"name": name, "provider": settings.provider, "limiter": settings.limiter or name}
    try:
        provider = master.clouds.get(name)
    except ProviderError as error:
        return CloudOut(**known, rents=None, trouble=str(error), usage=None)
    return CloudOut(**known, rents=provider.rents, trouble=None, usage=UsageOut(**asdict(master.clouds.usage(name))))
