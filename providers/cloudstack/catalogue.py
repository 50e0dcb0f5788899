"""What a pool may name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base import CatalogueItem, Misconfigured
from .names import OFFERING, TEMPLATE, ZONE, Names


def catalogue(names: Names, kind: str) -> list[CatalogueItem]:
    """Templates, service offerings or zones, each once."""
    kinds = {"images": (TEMPLATE, _image), "sizes": (OFFERING, _size), "locations": (ZONE, _zone)}
    if kind not in kinds:
        raise Misconfigured(f"there is no catalogue of {kind!r}; ask for images, sizes or locations")
    thing, item = kinds[kind]
    found = {str(row["id"]): row for row in names.rows(thing)}  # a template has a row for each of its zones
    return [CatalogueItem(id_, str(row.get("name") or id_), item(row)) for id_, row in found.items()]


def _image(row: Mapping[str, Any]) -> str:
    return str(row.get("ostypename") or row.get("displaytext") or "")


def _size(row: Mapping[str, Any]) -> str:
    if row.get("iscustomized"):
        return "custom: the pool gives cpu_number, cpu_speed_mhz and memory_mb"
    return f"{row.get('cpunumber', '?')} vCPU at {row.get('cpuspeed', '?')} MHz, {row.get('memory', 0) / 1024:g} GiB"


def _zone(row: Mapping[str, Any]) -> str:
    return f"{row.get('networktype', '')} {row.get('allocationstate', '')}".strip()
