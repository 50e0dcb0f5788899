"""Mutants: each guard of the real code switched off in turn. A simulation that does not notice proves nothing.

A mutant names what it switches off, and the faults that the guard is there for: its seeds know those for certain.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import bindparam, true, update

from orchestrator.agents import claims, results
from orchestrator.fleet import deadlines, enrolment, holds, launcher, leaving, planner, reaper, watcher
from orchestrator.fleet.secrets import sha256
from orchestrator.jobs import cancel
from orchestrator.jobs.outcomes import Outcome
from orchestrator.model.states import NodeState
from orchestrator.model.tables import Job, Node, Task, table
from orchestrator.simulation import agent, master, plan
from orchestrator.simulation.many import quiet
from orchestrator.simulation.run import simulate
from orchestrator.store import doors
from orchestrator.store.prepared import Prepared
from providers.base import ProviderError
from providers.fake import FakeProvider

jobs, nodes, tasks = table(Job), table(Node), table(Task)
MOST_SEEDS = 60
OFTEN = 0.3  # how often the faults that a guard is there for strike its mutant
SMALL = {
    "max_nodes": 2,
    "slots": 1,
    "boot_timeout_s": 240,
    "heartbeat_timeout_s": 90,
    "drain_timeout_s": 120,
    "lease_s": 300,
}


class Switches:
    """Patches that are undone."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def set(self, place: Any, name: str, value: Any) -> Any:
        """Put `value` there; returns what was there."""
        before = place.__dict__[name]
        self._undo.append((place, name, before))
        setattr(place, name, value)
        return before

    def undo(self) -> None:
        while self._undo:
            setattr(*self._undo.pop())


@dataclass(frozen=True)
class Mutant:
    """`off`: switches the guard off. `knows`: what its seeds' plans have for certain; `alone`: nothing else, and always."""

    name: str
    off: Callable[[Switches], None]
    knows: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    alone: bool = False


@dataclass(frozen=True)
class Verdict:
    mutant: str
    caught: bool
    seed: int
    seeds: int
    broken: str

    def line(self) -> str:
        if self.caught:
            return f"caught   {self.mutant:<44} by seed {self.seed}: {self.broken[:150]}"
        return f"MISSED   {self.mutant:<44} in {self.seeds} seeds"


def judge(mutant: Mutant, most: int = MOST_SEEDS) -> Verdict:
    """Play seeds with the guard switched off until one fails that holds while the guard is on."""
    quiet()
    agent.loaded()
    for seed in range(most):
        if (broken := _play(seed, mutant, off=True)) and not _play(seed, mutant, off=False):
            return Verdict(mutant.name, True, seed, seed + 1, broken)
    return Verdict(mutant.name, False, -1, most, "")


def _play(seed: int, mutant: Mutant, *, off: bool) -> str:
    """What the seed breaks under the mutant's faults, with its guard off or on."""
    switches = Switches()
    original = plan.Plan.of
    switches.set(plan.Plan, "of", classmethod(lambda _, seed: _knowing(original(seed), mutant)))
    try:
        if off:
            mutant.off(switches)
        return simulate(seed, keep=1).broken
    finally:
        switches.undo()


def judge_all(processes: int | None = None) -> Iterator[Verdict]:
    with ProcessPoolExecutor(processes or os.cpu_count() or 1) as pool:
        yield from pool.map(_judge_by_name, [mutant.name for mutant in MUTANTS])


def _judge_by_name(name: str) -> Verdict:
    return judge(next(mutant for mutant in MUTANTS if mutant.name == name))


def _knowing(drawn: plan.Plan, mutant: Mutant) -> plan.Plan:
    often = 1.0 if mutant.alone else OFTEN
    certain = {kind: max(most, often) for kind, most in plan.PER_CALL.items()}
    certain |= {kind: most * (4 if mutant.alone else 1) for kind, most in plan.PER_HOUR.items()}
    rates = ({} if mutant.alone else drawn.rates) | {kind: certain[kind] for kind in mutant.knows}
    return replace(drawn, rates=rates, **mutant.changes)


# ---- launching -------------------------------------------------------------------------------------------------------


def _no_token(switches: Switches) -> None:
    """Launches carry no token: to the cloud a repeat is another launch."""

    def launch(self: Any, request: Any) -> Any:
        self._cloud.requests.pop(request.launch_id, None)
        return before(self, request)

    before = switches.set(FakeProvider, "launch", launch)


def _no_look(switches: Switches) -> None:
    switches.set(launcher.Launcher, "_look", lambda *_: [])


def _no_cap(switches: Switches) -> None:
    def bounded(view: Any, decision: Any, bounds: Any, **more: Any) -> Any:
        return before(view, decision, replace(bounds, max_nodes=1000), **more)

    before = switches.set(planner, "bounded", bounded)


def _no_hold(switches: Switches) -> None:
    def bounded(view: Any, decision: Any, bounds: Any, **more: Any) -> Any:
        return before(view, decision, replace(bounds, held=None), **more)

    before = switches.set(planner, "bounded", bounded)


def _as_if_free(**changes: bool) -> Callable[[Switches], None]:
    """To the planner no node is busy, or none protected."""

    def off(switches: Switches) -> None:
        def bounded(view: Any, *arguments: Any, **more: Any) -> Any:
            nodes_ = tuple(replace(node, **changes) for node in view.nodes)
            return before(replace(view, nodes=nodes_), *arguments, **more)

        before = switches.set(planner, "bounded", bounded)

    return off


def _holds_nothing(switches: Switches) -> None:
    switches.set(holds, "held", lambda *_: {})


def _no_freeze(switches: Switches) -> None:
    switches.set(watcher, "_freeze_overshoot", lambda *_: None)


# ---- watching and ending ---------------------------------------------------------------------------------------------


def _watcher_with(**changes: Any) -> Callable[[Switches], None]:
    def off(switches: Switches) -> None:
        def init(self: Any, *arguments: Any, **options: Any) -> None:
            before(self, *arguments, **{**options, **changes})

        before = switches.set(watcher.Watcher, "__init__", init)

    return off


class _Anybody(str):
    """Equal to every installation."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


def _failed_listing_counts(switches: Switches) -> None:
    def instances(self: Any) -> Any:
        try:
            return before(self)
        except ProviderError:
            return []

    before = switches.set(FakeProvider, "instances", instances)


def _ended_when_asked(switches: Switches) -> None:
    """A node is called terminated as soon as the cloud was asked to end its machine."""

    def step(self: Any) -> Any:
        answer = before(self)
        asked = nodes.select().where(nodes.c.state == NodeState.TERMINATING, nodes.c.terminate_asked_at.is_not(None))

        def end(tx: Any) -> None:
            for node in tx.connection.execute(asked).all():
                leaving.ended(tx, node.id, "it was asked to end")

        self._writer.write(end)
        return answer

    before = switches.set(reaper.Reaper, "step", step)


def _asked_once(switches: Switches) -> None:
    def again_at(asked_at: Any, tries: int) -> Any:
        return before(asked_at, tries) if asked_at is None else asked_at.replace(year=asked_at.year + 1)

    before = switches.set(reaper, "again_at", again_at)


def _no_drain(switches: Switches) -> None:
    switches.set(leaving, "begin", leaving.at_once)


def _no_deadlines(switches: Switches) -> None:
    switches.set(deadlines, "keep", lambda *_: None)


def _no_loss(switches: Switches) -> None:
    switches.set(leaving, "lose_attempts", lambda *_: 0)


# ---- agents ----------------------------------------------------------------------------------------------------------


def _no_token_rule(switches: Switches) -> None:
    switches.set(claims, "_claim_by_token", claims._claim(true()))


def _late_accepted(switches: Switches) -> None:
    def store(tx: Any, row: Any, _result: Any) -> None:
        won = update(tasks).where(tasks.c.id == row.id, tasks.c.state == "queued").values(state="succeeded")
        tx.connection.execute(won)

    switches.set(results, "_store_late", store)


def _one_budget(switches: Switches) -> None:
    def judge_all_alike(outcome: Outcome, *arguments: Any, **options: Any) -> Any:
        return before(Outcome("exited", 1) if outcome.kind == "lost" else outcome, *arguments, **options)

    before = switches.set(results, "judge", judge_all_alike)


def _verdict_with(**changes: Any) -> Callable[[Switches], None]:
    def off(switches: Switches) -> None:
        def judge_otherwise(*arguments: Any, **options: Any) -> Any:
            return replace(before(*arguments, **options), **changes)

        before = switches.set(results, "judge", judge_otherwise)

    return off


def _endless_budget(switches: Switches) -> None:
    def judge_with_more(outcome: Outcome, retry: Any, **options: Any) -> Any:
        return before(outcome, {**retry, "attempts": 100}, **options)

    before = switches.set(results, "judge", judge_with_more)


def _cancel_is_only_noted(switches: Switches) -> None:
    def note(tx: Any, job_id: int, *, actor: str) -> bool:
        tx.connection.execute(update(jobs).where(jobs.c.id == job_id).values(cancel_requested_at=tx.now))
        tx.tell("job", job_id, "cancel requested", actor=actor, job_id=job_id)
        return True

    switches.set(cancel, "cancel", note)


def _no_time_limit(switches: Switches) -> None:
    switches.set(agent.loaded()["processes"].Running, "check_time", lambda *_: None)


def _no_stop_orders(switches: Switches) -> None:
    def exchange(tx: Any, node_id: int, message: Any) -> Any:
        answer = before(tx, node_id, message)
        answer.stop = {id_: why for id_, why in answer.stop.items() if why != "fenced"}
        return answer

    before = switches.set(master, "exchange", exchange)


def _orders_sent_once(switches: Switches) -> None:
    from orchestrator.agents import exchange

    switches.set(exchange, "orders_for", lambda *_: [])


def _secret_works_again(switches: Switches) -> None:
    def let_in(tx: Any, request: Any, node: Any, launch: Any) -> Any:
        if node.credential_hash is None or node.state != NodeState.READY:
            return before(tx, request, node, launch)
        tx.connection.execute(update(nodes).where(nodes.c.id == node.id).values(credential_hash=sha256(request.credential)))
        return enrolment.Enrolled(node.id, node.slots, launch.lease_s, launch.heartbeat_timeout_s), None

    before = switches.set(enrolment, "_let_in", let_in)


def _no_compare_and_set(switches: Switches) -> None:
    def unguarded(model: Any, columns: tuple[str, ...]) -> Prepared:
        values: dict[str, Any] = {name: bindparam(name) for name in columns if not name.startswith("_")}
        return Prepared(update(table(model)).where(table(model).c.id == bindparam("_id")).values(values))

    switches.set(doors, "_update", unguarded)


def _no_lease(switches: Switches) -> None:
    def init(self: Any, line: Any, machine: Any, journal: Any, identity: Any, *more: Any) -> None:
        before(self, line, machine, journal, {**identity, "lease_s": 10**9}, *more)

    before = switches.set(agent.loaded()["worker"].Worker, "__init__", init)


def _no_journal(switches: Switches) -> None:
    switches.set(agent.loaded()["journal"].Journal, "_read", lambda _: None)


def _results_sent_once(switches: Switches) -> None:
    """The agent forgets a result once it is sent, not once it is acknowledged."""

    def message(self: Any, overtaking: bool) -> Any:
        body = before(self, overtaking)
        for result in body["results"] if body else ():
            self._forget(result["attempt"])
        return body

    before = switches.set(agent.loaded()["worker"].Worker, "_message", message)


MUTANTS = (
    Mutant("the idempotency token", _no_token, ("launch: reply lost", "shown late")),
    Mutant("look before asking again", _no_look, ("launch: reply lost",), {"forgetful": True, "masters": 1}),
    Mutant("the cap of a pool", _no_cap, (), {"pool": SMALL}),
    Mutant("a held pool launches nothing", _no_hold, ("launch: misconfigured",)),
    Mutant(
        "the freeze at overshoot",
        _no_freeze,
        ("made twice", "cannot be ended for long", "never boots"),  # one that boots is refused, and ends by itself
        {"pool": SMALL, "masters": 1, "floor": 2, "jobs": 0, "faults_for_s": 1500.0},  # at the cap all the time
        alone=True,
    ),
    Mutant("a held kind of machine rests", _holds_nothing, ("launch: no capacity",)),
    Mutant("protected nodes are never released", _as_if_free(protected=False)),
    Mutant("busy nodes are never released", _as_if_free(busy=False), (), {"jobs": 12}),
    Mutant("the grace of orphans", _watcher_with(orphan_grace_s=0.0), ("made twice",)),
    Mutant("not visible yet is not gone", _watcher_with(visibility_s=0.0), ("shown late", "listing lags")),
    Mutant("other installations are not ours", _watcher_with(installation=_Anybody("eo-simulated"))),
    Mutant("only a successful listing counts", _failed_listing_counts, ("listing fails",)),
    Mutant("terminated only when seen gone", _ended_when_asked, ("terminate: without effect",)),
    Mutant("termination is asked again", _asked_once, ("terminate: request lost",)),
    Mutant("drain before terminate", _no_drain, (), {"drains": True}),
    Mutant("deadlines of nodes", _no_deadlines, ("never boots", "agent is cut off")),
    Mutant("a lost node loses its attempts", _no_loss, ("machine vanishes",)),
    Mutant("the token rule", _no_token_rule),
    Mutant("late results are not accepted", _late_accepted, ("agent is cut off", "cannot be ended for long")),
    Mutant("budgets are separate", _one_budget, ("agent dies", "machine vanishes")),
    Mutant("the budget of a job's own failures", _endless_budget),
    Mutant("a retry has its delay", _verdict_with(run_after=None)),
    Mutant("a cancelled job begins nothing", _cancel_is_only_noted),
    Mutant("time limits", _no_time_limit),
    Mutant(
        "fenced attempts are stopped",
        _no_stop_orders,
        ("cannot be ended for long",),
        {"pool": SMALL | {"max_nodes": 6}, "drains": True, "jobs": 8},  # busy nodes are ended by hand
        alone=True,
    ),
    Mutant("orders are sent until they are known", _orders_sent_once, ("answer lost",)),
    Mutant("an enrolment secret works once", _secret_works_again, ("machine loses its disk",)),
    Mutant("states change by compare-and-set", _no_compare_and_set, ("slow cloud", "launch: no capacity"), {"masters": 2}),
    Mutant("the lease", _no_lease, ("agent is cut off",)),
    Mutant("the journal survives its agent", _no_journal, ("agent dies",)),
    Mutant("results are sent until acknowledged", _results_sent_once, ("answer lost", "message lost")),
)
