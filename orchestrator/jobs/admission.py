"""Admission: what a pool that a job names refuses for certain, said at submission and not by waiting for ever."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.jobs.fits import PLAIN, Needs, never_in
from orchestrator.jobs.spec import JobSpec

Pools = Mapping[str, Mapping[str, Any]]


def problems(spec: JobSpec, pools: Pools) -> Iterator[tuple[str, str]]:
    """Path and message of what the named pools refuse, each mistake once. Pools not among `pools` are passed over."""
    told: set[str] = set()
    for path, message in (*_strangers(spec, pools), *_misfits(spec, pools)):
        if message not in told:
            told.add(message)
            yield path, message


def _strangers(spec: JobSpec, pools: Pools) -> Iterator[tuple[str, str]]:
    """Pools that are limited to other clients."""
    if not any(pool["clients"] for pool in pools.values()):
        return
    targets = [("infrastructure", spec.asked)]
    targets += [(f"tasks[{i}].infrastructure", spec.target(task)) for i, task in enumerate(spec.tasks)]
    for path, target in targets:
        allowed = pools.get(target.pool or "", {}).get("clients")
        if allowed and spec.client not in allowed:
            fix = f"name another pool, or let it in: `orchestrator pool change {target.pool} --client {spec.client}`"
            yield f"{path}.pool", f"pool {target.pool!r} is for {', '.join(allowed)} and not for {spec.client!r}; {fix}"


def _misfits(spec: JobSpec, pools: Pools) -> Iterator[tuple[str, str]]:
    """Tasks that no machine of their pool can run."""
    seen: set[tuple[Needs, str]] = set()
    for i, task in enumerate(spec.tasks) if pools else ():
        needs = spec.needs_of(task)
        name = spec.target(task).pool
        if needs is PLAIN or name is None or name not in pools or (needs, name) in seen:
            continue
        seen.add((needs, name))
        if (wrong := never_in(needs, pools[name])) is not None:
            field, message = wrong
            yield (f"tasks[{i}].{field}" if getattr(task, field) is not None else field), message
