"""Pools: created, scaled, paused and deleted while everything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, insert, select, update

from orchestrator.clouds import Clouds
from orchestrator.fleet import leaving
from orchestrator.fleet.rungs import OURS, for_provider, laid_over
from orchestrator.jobs.fits import EVERYBODY
from orchestrator.jobs.progress import close_deployments
from orchestrator.model.states import NODE_ON_ITS_WAY, TaskState
from orchestrator.model.tables import Node, Pool, Task, table
from orchestrator.store.writer import Tx
from providers.base import Misconfigured

pools, nodes, tasks = table(Pool), table(Node), table(Task)


class PoolExists(Exception):
    """A pool of this name is there already."""


def check_launch(clouds: Clouds, cloud: str, launch: Mapping[str, Any]) -> None:
    """The launch template of a pool and each of its rungs: our keys here, the cloud's own by its provider. Raises
    Misconfigured naming the key."""
    if not clouds.rents(cloud):
        clouds.get(cloud).validate(launch)
        return
    rungs = launch.get("rungs", [])
    if not isinstance(rungs, list) or not all(isinstance(rung, dict) for rung in rungs):
        raise Misconfigured("launch.rungs is no list of mappings; write [{instance_type: …}, {instance_type: …}]")
    plain = {key: value for key, value in launch.items() if key != "rungs"}
    if not rungs:
        _check_rung(clouds, cloud, plain, "launch")
    for i, rung in enumerate(rungs):
        named = rung.get("cloud", cloud)
        _check_rung(clouds, named, laid_over(plain, rung, same_cloud=named == cloud), f"launch.rungs[{i}]")


def _check_rung(clouds: Clouds, cloud: str, launch: Mapping[str, Any], path: str) -> None:
    if not clouds.rents(cloud):
        raise Misconfigured(f"{path}.cloud is {cloud!r}, whose machines exist already; nothing can be launched there")
    for key in ("image", "instance_type"):
        if not launch.get(key):
            raise Misconfigured(f"{path}.{key} is missing; say which of the cloud's every machine begins with")
    for key, kind in OURS.items():
        if key in launch and not isinstance(launch[key], kind):
            raise Misconfigured(f"{path}.{key} is {launch[key]!r}; write a {kind.__name__}")
    if launch.get("agent", "download") not in ("download", "preinstalled"):
        raise Misconfigured(f"{path}.agent is {launch['agent']!r}; write download or preinstalled")
    for size, meaning in launch.get("sizes", {}).items():
        if size not in ("SMALL", "MEDIUM", "LARGE") or not isinstance(meaning, str):
            raise Misconfigured(f"{path}.sizes.{size} is unknown; give SMALL, MEDIUM and LARGE a type of the cloud each")
    clouds.get(cloud).validate(for_provider(launch))


def create(tx: Tx, values: Mapping[str, Any], *, actor: str) -> int:
    """A new pool. Raises PoolExists."""
    if tx.connection.execute(select(pools.c.id).where(pools.c.name == values["name"])).first():
        raise PoolExists(f"a pool named {values['name']!r} is there already; choose another name, or delete that one")
    nothing = {name: None for name in ("labels", "clients", "prices") if not values.get(name)}
    query = insert(pools).values(**{**values, **nothing}, created_at=tx.now).returning(pools.c.id)
    pool_id = int(tx.connection.execute(query).scalar_one())
    tx.tell(
        "pool",
        pool_id,
        f"created: at most {values['max_nodes']} node(s) of {values['cloud']}",
        actor=actor,
        pool_id=pool_id,
    )
    return pool_id


def change(tx: Tx, pool_id: int, changes: Mapping[str, Any], *, actor: str) -> None:
    """Set bounds, pause or resume."""
    values = dict(changes)
    paused = values.pop("paused", None)
    if paused is not None:
        values |= (
            {"paused_at": tx.now, "paused_reason": f"by {actor}"} if paused else {"paused_at": None, "paused_reason": None}
        )
    for name in ("labels", "clients", "prices"):
        if name in values:
            values[name] = values[name] or None
    if values:
        tx.connection.execute(update(pools).where(pools.c.id == pool_id).values(**values))
    if "labels" in values or "clients" in values:
        _look_again(tx, pool_id)
    told = ", ".join(f"{name} = {value}" for name, value in changes.items())
    tx.tell("pool", pool_id, f"changed: {told}", actor=actor, pool_id=pool_id)


def _look_again(tx: Tx, pool_id: int) -> None:
    """Its nodes may take other tasks now."""
    on_their_way = (nodes.c.pool_id == pool_id, nodes.c.state.in_(NODE_ON_ITS_WAY))
    for token in tx.connection.execute(select(nodes.c.token).where(*on_their_way).distinct()).scalars().all():
        tx.queued[token, pool_id] += EVERYBODY


def delete(tx: Tx, pool_id: int, *, actor: str) -> None:
    """Let the pool go: what asks for its machines is closed, its nodes drain, its row goes with the last of them."""
    tx.connection.execute(
        update(pools).where(pools.c.id == pool_id, pools.c.deleted_at.is_(None)).values(deleted_at=tx.now)
    )
    tx.tell("pool", pool_id, "deleted: its nodes drain and leave", actor=actor, pool_id=pool_id)
    close_deployments(tx, "its pool was deleted", pool_id=pool_id)
    on_their_way = (nodes.c.pool_id == pool_id, nodes.c.state.in_(NODE_ON_ITS_WAY))
    for node_id in tx.connection.execute(select(nodes.c.id).where(*on_their_way)).scalars().all():
        leaving.begin(tx, node_id, "pool_deleted", "its pool was deleted", actor=actor)


def in_use(tx: Tx, pool_id: int) -> str | None:
    """What keeps a pool from being deleted, as a sentence."""
    waiting = (tasks.c.pool_id == pool_id, tasks.c.state.in_((TaskState.WAITING, TaskState.QUEUED, TaskState.RUNNING)))
    count = tx.connection.execute(select(func.count()).where(*waiting)).scalar_one()
    if count:
        return f"{count} task(s) are still to run there; cancel their jobs first (`orchestrator job list`)"
    return None


def gone(tx: Tx, pool: Mapping[str, Any]) -> None:
    """The last node of a deleted pool has ended: its name is free again, its row stays for the history."""
    values = {"gone_at": tx.now, "name": f"{pool['name']}~{pool['id']}"}
    tx.connection.execute(update(pools).where(pools.c.id == pool["id"]).values(values))
    tx.tell("pool", pool["id"], "gone: its last node has ended", pool_id=pool["id"])
