"""The ladder: the kinds of machines a pool may launch, in the order they are tried. Pure functions of the pool's row.

A pool's launch template is a mapping; its `rungs` are mappings laid over it, one a rung: another type, another zone,
another market, even another cloud. Without `rungs` there is one rung, the template itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

OURS: Mapping[str, type] = {
    "image": str,
    "instance_type": str,
    "agent": str,
    "sizes": dict,
    "watch_interruption": bool,
}
"""The keys of a launch template that are the master's own; all others are for the cloud's provider."""

_OF_A_RUNG = ("cloud", "name")


@dataclass(frozen=True, slots=True)
class Rung:
    """One kind of machine. `template` are the settings beside image and type; `kind` is the same for all launches alike."""

    cloud: str
    image: str
    instance_type: str
    template: Mapping[str, Any]
    label: str
    kind: str


@dataclass(frozen=True, slots=True)
class Held:
    """A kind that is not tried now: why, until when, and whether one launch is already trying it again."""

    reason: str
    until: datetime
    probing: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """So many machines of this kind. A probe is one machine that tries a held kind again."""

    rung: Rung
    count: int
    probe: bool = False


def ladder(pool: Mapping[str, Any], image: str | None = None, instance_type: str | None = None) -> list[Rung]:
    """The pool's rungs, with the image and the type that a demand asks for in place of the pool's.

    A demand names an image or a type in the words of the pool's own cloud, so rungs in other clouds are left out then;
    DEFAULT and SMALL … LARGE mean something in each. Rungs that come out alike are one.
    """
    base = pool["launch"]
    named = image is not None or instance_type not in (None, "DEFAULT", "SMALL", "MEDIUM", "LARGE")
    found: dict[str, Rung] = {}
    for own in base.get("rungs") or [{}]:
        cloud = own.get("cloud", pool["cloud"])
        if cloud != pool["cloud"] and named:
            continue
        settings = laid_over(base, own, same_cloud=cloud == pool["cloud"])
        wanted = instance_type if instance_type not in (None, "DEFAULT") else settings["instance_type"]
        rung = _rung(cloud, image or settings["image"], settings.get("sizes", {}).get(wanted, wanted), settings, own)
        found.setdefault(rung.kind, rung)
    return list(found.values())


def laid_over(base: Mapping[str, Any], own: Mapping[str, Any], *, same_cloud: bool) -> dict[str, Any]:
    """The template with a rung's values over it. What is another cloud's own (networks, keys) does not carry over."""
    inherited = {key: value for key, value in base.items() if key != "rungs" and (same_cloud or key == "agent")}
    return inherited | {key: value for key, value in own.items() if key not in _OF_A_RUNG}


def for_provider(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of a launch template is the cloud's provider's to take."""
    return {key: value for key, value in settings.items() if key not in OURS}


def place(count: int, rungs: Sequence[Rung], held: Mapping[str, Held], now: datetime) -> tuple[list[Placement], str | None]:
    """Where so many machines are asked for: on the first rung that is not held, after one probe on each rung above it
    whose time has come. And why what is left of them must wait, None where nothing is."""
    placed: list[Placement] = []
    reasons: list[str] = []
    for rung in rungs:
        hold = held.get(rung.kind)
        if hold is None:
            return [*placed, Placement(rung, count)], None
        if hold.probing:
            reasons.append(f"{rung.label}: {hold.reason}; one machine is trying it again")
        elif hold.until > now:
            reasons.append(f"{rung.label}: {hold.reason}; tried again after {hold.until:%H:%M:%S} UTC")
        else:
            placed.append(Placement(rung, 1, probe=True))
            reasons.append(f"{rung.label}: {hold.reason}; one machine tries it again now")
            count -= 1
        if not count:
            return placed, None
    return placed, "no kind of machine can be had: " + " · ".join(reasons) if reasons else "the pool has no kind that fits"


def probed(held: Mapping[str, Held], placed: Iterable[Placement]) -> dict[str, Held]:
    """The holds once these placements are made: a kind has one probe at a time."""
    probes = {placement.rung.kind for placement in placed if placement.probe}
    return {kind: replace(hold, probing=True) if kind in probes else hold for kind, hold in held.items()}


def _rung(cloud: str, image: str, instance_type: str, settings: Mapping[str, Any], own: Mapping[str, Any]) -> Rung:
    template = {key: value for key, value in settings.items() if key not in ("image", "instance_type", "sizes")}
    said = [str(value) for key, value in own.items() if key not in (*OURS, *_OF_A_RUNG)]
    label = own.get("name") or ", ".join([instance_type, *said, *([f"in {cloud}"] if "cloud" in own else [])])
    canonical = json.dumps([cloud, image, instance_type, template], sort_keys=True, default=str)
    return Rung(cloud, image, instance_type, template, label, hashlib.sha256(canonical.encode()).hexdigest()[:16])
