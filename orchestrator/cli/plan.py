"""`orchestrator submit --dry-run`: the plan of a job that is not submitted, for a person to read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.cli.session import Session


def show_plan(session: Session, document: dict[str, Any]) -> None:
    """Ask for the plan and print it."""
    plan = session.api.post("jobs/plan", document)
    session.show(plan, lambda: print(*_lines(plan), sep="\n"))


def _lines(plan: dict[str, Any]) -> Iterator[str]:
    yield f"Plan of job {plan['name']} of client {plan['client']}; nothing is submitted."
    for asked in plan["machines"]:
        when = f"once {', '.join(asked['after'])} succeeded" if asked["after"] else "at submission"
        what = f"{asked['count']} machine(s) with token {asked['token']}"
        yield f"{asked['owner']} asks pool {asked['pool']} for {what}, {when}:"
        for launch in asked["launches"]:
            kind = f"{launch['instance_type']} with {launch['image']} in cloud {launch['cloud']} (rung {launch['kind']})"
            price = "no price known" if launch["cost"] is None else f"{launch['cost']:g} {plan['currency']} an hour"
            probe = ", a probe" if launch["probe"] else ""
            yield f"  launch {launch['count']} × {kind}{probe}: {price}"
        yield from (f"  waiting: {reason}" for reason in asked["waiting"])
    for place in plan["tasks"]:
        yield _place(place)
    if plan["machines"]:
        unpriced = f", without {', '.join(plan['unpriced'])}: `orchestrator pool change POOL --price TYPE=PRICE`"
        yield f"Cost: {plan['cost_per_hour']:g} {plan['currency']} an hour{unpriced if plan['unpriced'] else ''}"
    else:
        yield "It asks for no machines of its own."


def _place(place: dict[str, Any]) -> str:
    named = ", ".join(place["tasks"][:5]) + (", …" if place["count"] > 5 else "")
    where = f"nodes with token {place['token']}" if place["token"] else "shared nodes"
    where += f" of pool {place['pool']}" if place["pool"] else ""
    have = f"{place['nodes']} ready" + (f", {place['coming']} asked for by the job" if place["coming"] else "")
    told = f"{place['count']} task(s) ({named}) need {place['needs']} on {where}: {have}"
    return told + (f"; would wait: {place['trouble']}" if place["trouble"] else "")
