"""What must hold after every step, whatever failed: the promises, checked against the truth of the simulated world.

Rows are read past the code under test, by the driver alone. A check says in words what was promised.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.fleet.explain import explain_job
from orchestrator.model.states import (
    ATTEMPT_STEPS,
    JOB_STEPS,
    LAUNCH_OPEN,
    LAUNCH_STEPS,
    NODE_ON_ITS_WAY,
    NODE_STEPS,
    TASK_STEPS,
)
from orchestrator.simulation import rules
from orchestrator.simulation.cloud import EXISTS, pool_of
from orchestrator.simulation.database import INSTALLATION
from orchestrator.simulation.master import LOG_LIMIT, LOOK_S, ORPHAN_GRACE_S
from orchestrator.simulation.rows import Rows, Violation
from providers.base import InstanceState

if TYPE_CHECKING:
    from orchestrator.simulation.machine import Execution
    from orchestrator.simulation.run import Run

STEPS = {"node": NODE_STEPS, "launch": LAUNCH_STEPS, "task": TASK_STEPS, "attempt": ATTEMPT_STEPS, "job": JOB_STEPS}
ENDED_ON_ITS_OWN = ("succeeded", "failed", "timed_out", "killed")  # states of attempts that tell of a process's end
PEACEFUL = ("job_done", "scaled_down", "operator", "pool_deleted")
SLACK_S = 3 * LOOK_S + 60  # steps are looks apart, and a call may be slow
EXPLAIN_EVERY_S = 300.0
LOOK_EVERY_S = 10.0  # where nothing changes but the time


class Invariants:
    """`check` after every step; `at_rest` once all has come to rest."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._rows = Rows.read(run.database)
        self._changes: tuple[int, ...] = (-1,)
        self._look_at = 0.0
        self._planned = 0
        self._enrolled = 0
        self._ended: dict[str, int] = defaultdict(int)  # terminations looked at, by cloud
        self._unaccounted: dict[str, float] = {}  # machine → since when no row answers for it
        self._overshoot: dict[str, float] = {}
        self._fenced: dict[int, float] = {}  # attempt → since when it is fenced while its process runs
        self._failed_at: dict[int, float] = {}  # task → when it last failed by itself
        self._idle: dict[int, float] = {}  # node → since when nothing asks for it
        self._chain = rules.Chain(run.database)
        self._since: dict[str, int] = {}
        self._explain_at = EXPLAIN_EVERY_S
        self._credentials: dict[int, tuple[str, str]] = {}

    def check(self) -> None:
        run = self._run
        if run.base.defects:
            raise Violation(f"a step failed by a defect: {run.base.defects[0]}")
        changes = run.changes()
        if changes == self._changes and run.world.now < self._look_at:
            return
        self._look_at = run.world.now + LOOK_EVERY_S
        if changes[0] != self._changes[0]:
            before, self._rows = self._rows, Rows.read(run.database, self._since)
            self._states(before)
            self._attempts(before)
            self._tasks()
            self._nodes(before)
            rules.claims(before, self._rows, run.people.documents)
            rules.budgets(before, self._rows, run.people.documents)
            rules.holds(before, self._rows)
            rules.releases(before, self._rows)
            self._delays(before)
        self._changes = changes
        self._enrolments()
        self._terminations()
        self._machines()
        self._processes()
        self._lease()
        self._released()
        self._waiting()

    # rows

    def _delays(self, before: Rows) -> None:
        """A task that failed rests as long as its job file says, unless its control file said otherwise."""
        now, documents = self._run.world.now, self._run.people.documents
        for id_, attempt in self._rows.attempts.items():
            was = before.attempts.get(id_)
            if attempt.state in rules.FAILED and (was is None or was.state != attempt.state):
                self._failed_at[attempt.task_id] = now
        for _, task, job in rules.new_attempts(before, self._rows):
            document = documents[job.name]
            failed_at = self._failed_at.pop(task.id, None)
            if failed_at is None or document["env"]["SIMULATED_CONTROL"] or self._run.jumped_at > 0:
                continue
            if now < failed_at + document["retry"]["delay"] - 1:
                raise Violation(
                    f"a retry has its delay: task {task.id} was claimed {now - failed_at:.0f} s after it failed"
                )

    def _released(self) -> None:
        """A node goes at once when the last that asked for it has ended and nothing runs on it."""
        now = self._run.world.now
        busy = {attempt.node_id for attempt in self._rows.attempts.values() if attempt.state == "running"}
        idle = {}
        for id_, node in self._rows.nodes.items():
            asked = self._rows.deployments.get(node.deployment_id) if node.deployment_id else None
            if node.state not in NODE_ON_ITS_WAY or node.protected or id_ in busy or asked is None or not asked.closed_at:
                continue
            since = idle[id_] = self._idle.get(id_, now)
            if now > max(since, self._run.undisturbed_since) + SLACK_S and self._somebody_watches():
                raise Violation(f"release at once: node {id_} is {node.state}, nothing asks for it since {since:.0f} s")
        self._idle = idle

    def _states(self, before: Rows) -> None:
        for name, steps in STEPS.items():
            earlier: Mapping[int, Any] = before.of(name)
            now: Mapping[int, Any] = self._rows.of(name)
            for id_, row in earlier.items():
                later = now.get(id_)
                if later is None:
                    raise Violation(f"rows stay for the history: {name} {id_} is gone")
                if later.state != row.state and later.state not in _reachable(steps, row.state):
                    raise Violation(f"no state is left but by a drawn step: {name} {id_} went {row.state} → {later.state}")

    def _attempts(self, before: Rows) -> None:
        live = Counter(attempt.task_id for attempt in self._rows.attempts.values() if attempt.state == "running")
        for task_id, count in live.items():
            if count > 1:
                raise Violation(f"a task has at most one live attempt: task {task_id} has {count}")
        for id_, attempt in self._rows.attempts.items():
            earlier = before.attempts.get(id_)
            task, node = self._rows.tasks[attempt.task_id], self._rows.nodes[attempt.node_id]
            if earlier is None:
                if task.token != node.token:
                    raise Violation(f"token rule: task {task.id} ({task.token}) was given to node {node.id} ({node.token})")
                was = before.nodes.get(node.id)
                if was is not None and was.state not in ("booting", "ready"):
                    raise Violation(f"no claim follows a drain: node {node.id} was {was.state} and was given attempt {id_}")
            if attempt.state == "running" and node.state == "terminated":
                raise Violation(f"a node that ended runs nothing: attempt {id_} lives on node {node.id}")
            if attempt.state in ENDED_ON_ITS_OWN and (earlier is None or earlier.state != attempt.state):
                self._backed(attempt)

    def _backed(self, attempt: Any) -> None:
        """Exactly one process ended so on a machine, and its log is whole."""
        ends = [one for one in self._run.ledger.by_attempt[attempt.id] if one.ended is not None]
        if len(ends) != 1 or (attempt.state in ("succeeded", "failed") and ends[0].code != attempt.exit_code):
            told = [f"{one.code} on {one.machine}" for one in ends] or "none"
            raise Violation(
                f"each accepted outcome is backed by exactly one end: attempt {attempt.id} is {attempt.state} "
                f"({attempt.exit_code}), ends were {told}"
            )
        kept = self._run.base.logs.size(attempt.id)
        if kept != min(attempt.log_size, LOG_LIMIT):
            raise Violation(
                f"no result without its log: attempt {attempt.id} wrote {attempt.log_size} bytes, kept are {kept}"
            )

    def _tasks(self) -> None:
        by_task: dict[int, Counter[str]] = defaultdict(Counter)
        for attempt in self._rows.attempts.values():
            by_task[attempt.task_id][attempt.state] += 1
        for task in self._rows.tasks.values():
            states = by_task[task.id]
            if (task.state == "running") != (states["running"] == 1):
                raise Violation(
                    f"a task runs when its attempt does: task {task.id} is {task.state}, attempts {dict(states)}"
                )
            if task.kind == "run" and (task.state == "succeeded") != (states["succeeded"] == 1):
                raise Violation(f"a task succeeds by one attempt: task {task.id} is {task.state}, attempts {dict(states)}")
            if (task.state == "skipped") != (task.skipped_because is not None):
                raise Violation(
                    f"what is skipped says because of what: task {task.id} is {task.state}, {task.skipped_because}"
                )
            jobs_own = states["failed"] + states["timed_out"] + states["killed"]
            if task.job_failures != jobs_own:
                raise Violation(
                    f"budgets are separate: task {task.id} is charged {task.job_failures} failure(s) of the job, "
                    f"its attempts were {dict(states)}"
                )
            lost = states["lost"] + states["late"]
            if task.infrastructure_failures > lost or (task.state != "cancelled" and task.infrastructure_failures != lost):
                raise Violation(
                    f"budgets are separate: task {task.id} is charged {task.infrastructure_failures} failure(s) of the "
                    f"infrastructure, its attempts were {dict(states)}"
                )

    def _nodes(self, before: Rows) -> None:
        counts = Counter(node.pool_id for node in self._rows.nodes.values() if node.state != "terminated")
        earlier = Counter(node.pool_id for node in before.nodes.values() if node.state != "terminated")
        for pool in self._rows.pools.values():
            if counts[pool.id] > pool.max_nodes and counts[pool.id] > earlier[pool.id]:
                raise Violation(f"a pool keeps its cap: {counts[pool.id]} nodes where {pool.max_nodes} may be")
            earlier_pool = before.pools.get(pool.id)
            if (
                earlier_pool
                and (earlier_pool.frozen_reason or earlier_pool.paused_at)
                and (pool.frozen_reason or pool.paused_at)
            ):
                fresh = [id_ for id_ in self._rows.launches if id_ not in before.launches]
                if fresh:
                    raise Violation(f"a held pool launches nothing: launch {fresh[0]} was written while it was held")
        for id_, node in self._rows.nodes.items():
            was = before.nodes.get(id_)
            if was is None or was.state == node.state:
                continue
            truth = self._truth(node.instance_id)
            if node.state == "terminated" and truth in (*EXISTS, InstanceState.ENDING):
                raise Violation(
                    f"terminated means gone: node {id_} is terminated, its machine {node.instance_id} is {truth}"
                )
            running = truth in (InstanceState.RUNNING, InstanceState.PENDING)
            if node.state == "terminating" and node.end_reason == "vanished" and running and not self._jumped():
                raise Violation(
                    f"not visible yet is not gone: node {id_} 'vanished', its machine {node.instance_id} is {truth}"
                )
            if was.state == "ready" and node.state == "terminating" and node.end_reason in PEACEFUL:
                self._peaceful(node, before)

    def _peaceful(self, node: Any, before: Rows) -> None:
        if node.id in self._run.people.ended_by_hand:
            return
        for id_, attempt in before.attempts.items():
            if attempt.node_id == node.id and attempt.state == "running" and self._rows.attempts[id_].state == "lost":
                raise Violation(f"drain before terminate: node {node.id} ended ({node.end_reason}) under attempt {id_}")

    def _truth(self, instance_id: str | None) -> InstanceState | None:
        for cloud in self._run.clouds.values():
            if instance_id in cloud.machines:
                return cloud.machines[instance_id].shown.state
        return None

    def _jumped(self) -> bool:
        return self._run.world.now < self._run.jumped_at + 7200

    # machines

    def _enrolments(self) -> None:
        for node_id, machine, credential in self._run.base.enrolled[self._enrolled :]:
            if self._rows.nodes[node_id].instance_id != machine:
                raise Violation(f"a machine enrols as its own node: {machine} was let in as node {node_id}")
            if self._credentials.setdefault(node_id, (machine, credential)) != (machine, credential):
                raise Violation(f"an enrolment secret works once for a machine: node {node_id} was enrolled twice")
        self._enrolled = len(self._run.base.enrolled)

    def _terminations(self) -> None:
        """We end only what is ours and has no row any more, or whose row is leaving."""
        for name, cloud in self._run.clouds.items():
            asked = cloud.ended[self._ended[name] :]
            self._ended[name] = len(cloud.ended)
            for id_ in asked:
                if id_ in self._run.strangers[name]:
                    raise Violation(f"other installations are never touched: {id_} was ended")
                node = self._rows.by_machine.get(id_)
                if node is not None and node.state not in ("terminating", "terminated"):
                    raise Violation(f"a machine is ended after its node: {id_} was ended, node {node.id} is {node.state}")
                since = self._unaccounted.get(id_)  # one that is on its way out already may be asked again
                if node is None and since is not None and not self._jumped():
                    waited_s = self._run.world.now - since
                    if waited_s < ORPHAN_GRACE_S:
                        raise Violation(f"an orphan has its grace: {id_} was ended {waited_s:.0f} s after")

    def _machines(self) -> None:
        now = self._run.world.now
        in_flight = {f"{INSTALLATION}-{id_}": row for id_, row in self._rows.launches.items() if row.state in LAUNCH_OPEN}
        shown: Counter[str | None] = Counter()
        counted: Counter[str | None] = Counter()  # without what the cloud made beyond what it was asked for
        unaccounted = {}
        for cloud in self._run.clouds.values():
            made: Counter[str | None] = Counter()
            for machine in cloud.machines.values():
                if machine.shown.id not in cloud.extra:
                    made[machine.shown.launch_id] += 1
            for id_, launch in self._rows.launches.items():
                if made[f"{INSTALLATION}-{id_}"] > launch.machines:
                    raise Violation(
                        f"a launch makes its machines once: launch {id_} made {made[f'{INSTALLATION}-{id_}']} "
                        f"where {launch.machines} were asked for"
                    )
            for instance in cloud.existing(INSTALLATION):
                shown[pool_of(instance)] += 1
                counted[pool_of(instance)] += instance.id not in cloud.extra
                node = self._rows.by_machine.get(instance.id)
                if (node is None or node.state == "terminated") and instance.launch_id not in in_flight:
                    since = self._unaccounted.get(instance.id, now)
                    unaccounted[instance.id] = since
                    counted[pool_of(instance)] -= instance.id not in cloud.extra
                    undisturbed = max(
                        since, self._run.undisturbed_since, cloud.disturbed_at, cloud.ends_not_before(instance.id)
                    )
                    if now > undisturbed + ORPHAN_GRACE_S + 60 + SLACK_S and self._somebody_watches():
                        raise Violation(
                            f"no machine without a row for longer than the grace: {instance.id} since {since:.0f} s"
                        )
        self._unaccounted = unaccounted
        self._cap(shown, counted)

    def _cap(self, shown: Counter[str | None], counted: Counter[str | None]) -> None:
        for pool in self._rows.pools.values():
            in_flight = sum(
                launch.machines
                for launch in self._rows.launches.values()
                if launch.pool_id == pool.id and launch.state in LAUNCH_OPEN
            )
            rows = sum(node.pool_id == pool.id and node.state != "terminated" for node in self._rows.nodes.values())
            most = max(pool.max_nodes, rows) + in_flight
            if shown[pool.name] <= most or pool.frozen_reason:
                self._overshoot.pop(pool.name, None)
            elif self._somebody_watches():
                since = self._overshoot.setdefault(pool.name, self._run.world.now)
                disturbed = max(cloud.disturbed_at for cloud in self._run.clouds.values())
                if self._run.world.now > max(since, self._run.undisturbed_since, disturbed) + 60 + SLACK_S:
                    raise Violation(f"too many machines freeze their pool: {shown[pool.name]} where {most} may be")
            if counted[pool.name] > max(pool.max_nodes, rows):
                raise Violation(
                    f"live machines within the cap: {counted[pool.name]} of {pool.name}, {rows} nodes, cap {pool.max_nodes}"
                )

    def _somebody_watches(self) -> bool:
        base = self._run.base
        alive = any(master.process.alive for master in self._run.network.masters)
        return alive and not base.is_away() and not base.disk_is_full()

    # processes

    def _processes(self) -> None:
        now = self._run.world.now
        running: Counter[int] = Counter()
        fenced = {}
        for execution in self._run.ledger.running.values():
            if len(self._run.ledger.by_attempt[execution.attempt]) > 1:
                raise Violation(f"an attempt is started once: attempt {execution.attempt} was started again")
            attempt = self._rows.attempts.get(execution.attempt)
            if attempt is None:
                raise Violation(f"what is over is not begun again: attempt {execution.attempt} on {execution.machine}")
            self._time_limit(execution)
            if attempt.state == "running":
                running[attempt.task_id] += 1
                if running[attempt.task_id] > 1:
                    raise Violation(f"no task runs twice un-fenced: task {attempt.task_id}")
                continue
            since = fenced[attempt.id] = self._fenced.get(attempt.id, now)
            machine = self._run.machine(execution.machine)
            assert machine is not None
            heard = [at for at in machine.answered if at > since + 1]
            if len(heard) >= 2 and now > max(heard[1], machine.hangs_until, machine.up_at or now) + 30:
                raise Violation(
                    f"a fenced attempt is stopped: attempt {attempt.id} is {attempt.state} since {since:.0f} s, its agent "
                    f"{machine.id} was answered since, and its process still runs"
                )
        self._fenced = fenced

    def _time_limit(self, execution: Execution) -> None:
        """TERM, and KILL after the grace: while its agent lives, nothing outlives its limit."""
        machine = self._run.machine(execution.machine)
        if execution.limit_s is None or machine is None or machine.agent is not execution.parent:
            return
        if self._run.world.now > max(execution.began + execution.limit_s, machine.hangs_until) + 15:
            raise Violation(
                f"a time limit ends what runs: attempt {execution.attempt} runs since {execution.began:.0f} s, "
                f"its limit with the grace is {execution.limit_s:g} s"
            )

    def _lease(self) -> None:
        now = self._run.world.now
        for cloud in self._run.clouds.values():
            for machine in cloud.hosts.values():
                if not machine.on or machine.up_at is None:
                    continue
                quiet_since = max(machine.heard_at, machine.up_at, machine.hangs_until, machine.busy_at)
                if now > quiet_since + machine.config["lease_s"] + 120 and not machine.executions():
                    raise Violation(f"the lease: {machine.id} hears of no master since {quiet_since:.0f} s and is still up")

    def nothing_runs_alone(self) -> None:
        """All masters have been gone for longer than the lease and any task."""
        for cloud in self._run.clouds.values():
            for machine in cloud.hosts.values():
                if machine.on and machine.up_at is not None and not machine.executions():
                    raise Violation(f"the lease outlives the master: {machine.id} is still up")

    # reasons

    def _waiting(self) -> None:
        run = self._run
        if run.base.planned != self._planned:
            self._planned = run.base.planned
            for id_, machines, on_their_way in run.database(_UNEXPLAINED):
                raise Violation(
                    f"nothing waits without a reason: deployment {id_} asks for {machines}, {on_their_way} on their way"
                )
        if run.world.now >= self._explain_at:
            self._explain_at = run.world.now + EXPLAIN_EVERY_S
            self._explained()

    def _explained(self) -> None:
        run = self._run
        with run.base.engine.connect() as connection:
            for job in self._rows.jobs.values():
                if job.state not in ("queued", "running"):
                    continue
                told = explain_job(connection, job.id, run.world.moment())
                assert told is not None
                text = " ".join(told.sentences)
                open_tasks = [t for t in self._rows.tasks.values() if t.job_id == job.id and t.state in _OPEN]
                silent = [task.name for task in open_tasks if f"Task {task.name}: " not in text]
                if silent or not told.next:
                    raise Violation(f"nothing waits without a reason: explain of job {job.id} says nothing of {silent}")

    def at_rest(self) -> None:
        """Nothing is open: every wish was granted once, what is not ours is as it was, and all of it was told."""
        run = self._run
        for name, cloud in run.clouds.items():
            for id_ in run.strangers[name]:
                if cloud.machines[id_].shown.state != InstanceState.RUNNING:
                    raise Violation(f"other installations are never touched: {id_} is {cloud.machines[id_].shown.state}")
        [[there]] = run.database("SELECT count(*) FROM job")
        if there != len(run.people.documents):
            raise Violation(f"no job is lost or doubled: {len(run.people.documents)} were submitted, {there} are there")
        self._chain.check(self._rows)

    def let_go(self) -> None:
        """At rest nothing that has ended matters any more. Without this a long life would be looked at again and again."""
        if self._run.ledger.running:
            return
        kept = min((id_ for id_, node in self._rows.nodes.items() if node.state != "terminated"), default=None)
        for name in ("job", "task", "attempt", "launch", "node", "deployment"):
            [[last]] = self._run.database(f"SELECT coalesce(max(id), 0) FROM {name}")  # noqa: S608
            self._since[name] = last + 1
        if kept is not None:
            self._since["node"] = kept
        self._rows = Rows.read(self._run.database, self._since)
        self._run.ledger.by_attempt.clear()
        self._run.people.forget()
        self._failed_at.clear()


_OPEN = ("waiting", "queued", "running")
_UNEXPLAINED = """
    SELECT deployment.id, deployment.machines, count(node.id) FROM deployment
    LEFT JOIN node ON node.deployment_id = deployment.id AND node.state IN ('requested', 'launching', 'booting', 'ready')
    WHERE deployment.closed_at IS NULL AND deployment.waiting IS NULL
    GROUP BY deployment.id, deployment.machines HAVING count(node.id) < deployment.machines
"""


def _reachable(steps: Mapping[str, frozenset[str]], state: str) -> set[str]:
    """Every state that any number of steps leads to: one transaction may take several."""
    found: set[str] = set()
    pending = [state]
    while pending:
        for to in steps[pending.pop()]:
            if to not in found:
                found.add(to)
                pending.append(to)
    return found
