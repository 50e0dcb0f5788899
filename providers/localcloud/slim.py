"""moto, but lighter: its EC2 reads at import which instance types every region of the world offers.

That is a second and 100 MB for a table of which one region is used. Here each region is read when it is asked for.
And it finds the tags of one resource by matching every tag of the region: a listing of a thousand machines, each with a
volume and an interface, took 20 seconds. Here it looks them up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

_TABLE = "ec2/resources/instance_type_offerings"


class _Offerings(dict[str, Any]):
    """Region → its offerings, read at first use. moto asks by `[region]` and by `get`."""

    def __init__(self, kind: str, regions: Iterable[str], load: Callable[[str], Any]) -> None:
        super().__init__(dict.fromkeys(regions))
        self._kind = kind
        self._load = load

    def __getitem__(self, region: str) -> Any:
        offers = super().__getitem__(region)
        if offers is None:
            offers = [{**offer, "LocationType": self._kind} for offer in self._load(f"{_TABLE}/{self._kind}/{region}.json")]
            self[region] = offers
        return offers

    def get(self, region: str, default: Any = None) -> Any:
        return self[region] if region in self else default  # noqa: SIM401  (this is that get)


def install() -> None:
    """Before anything else imports moto's EC2."""
    from moto.utilities import utils

    load = utils.load_resource
    utils.load_resource = lambda resource: [] if _TABLE in resource else load(resource)
    try:
        from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
    finally:
        utils.load_resource = load
    for kind, regions in list(INSTANCE_TYPE_OFFERINGS.items()):
        INSTANCE_TYPE_OFFERINGS[kind] = _Offerings(kind, regions, load)

    from moto.ec2.models.core import TaggedEC2Resource

    TaggedEC2Resource.get_tags = _tags  # type: ignore[method-assign, assignment]


def _tags(resource: Any) -> list[dict[str, str]]:
    """In the form that moto's own search gives."""
    found = resource.ec2_backend.tags.get(resource.id, {}) if resource.id else {}
    return [{"resource_id": resource.id, "key": key, "value": value} for key, value in found.items()]
