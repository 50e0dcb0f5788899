"""People: they submit and cancel jobs, drain, end and protect nodes, scale, pause and delete pools; and repeat a call whose
answer was lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from orchestrator.fleet import leaving, pools
from orchestrator.jobs import cancel, spec
from orchestrator.jobs.submit import submit
from orchestrator.model.states import NODE_ON_ITS_WAY, AttemptState
from orchestrator.model.tables import Attempt, Job, Node, Pool, table
from orchestrator.simulation.plan import Plan, dice_for
from orchestrator.simulation.world import Process, Signal
from orchestrator.store.writer import Tx

if TYPE_CHECKING:
    from orchestrator.simulation.run import Run

ASK_AGAIN_S = 30.0
SIDE = "side"  # the pool in the second cloud


class People:
    """Each wish is carried out once, however often it must be asked for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._plan = run.plan
        self._dice = dice_for(run.plan.seed, "people")
        self._process = Process(run.world, "people")
        self.left = 0  # wishes not yet granted
        self.documents: dict[str, dict[str, Any]] = {}  # of every job ever wished for, by its name
        self.ended_by_hand: set[int] = set()

    def begin(self) -> None:
        """Make the pools; somebody looks after them from then on."""
        self._wish(0.0, self._make_pools)
        self._process.spawn(self._resume_what_is_paused)

    def wish_for(self, plan: Plan) -> None:
        """Everything that people want while this plan's faults strike, each at its time."""
        for _ in range(plan.jobs):
            at_s = self._dice.uniform(1, plan.faults_for_s * 0.7)
            document = job_document(plan, len(self.documents))
            self.documents[document["name"]] = document
            self._wish(at_s, self._submission(document))
            if self._dice.random() < 0.15:
                self._wish(at_s + self._dice.uniform(10, 300), self._cancellation(document["name"]))
        for deed, chance in (
            (self._drain, float(plan.drains)),
            (self._drain, float(plan.drains) / 2),
            *[(self._end_now, float(plan.drains) / 2)] * 3,
            (self._protect, 0.3),
            (self._lower_cap, 0.1),
            (self._raise_cap, 0.1),
            (self._pause, 0.1),
            (self._scale, 0.2),
        ):
            if self._dice.random() < chance:
                self._wish(self._dice.uniform(60, plan.faults_for_s), deed)
        self._wish(plan.faults_for_s + self._dice.uniform(0, 600), self._unprotect_all)

    def forget(self) -> None:
        """Job files of jobs that are over; that there were so many is not forgotten."""
        for name in self.documents:
            self.documents[name] = {}

    def settle(self) -> None:
        """The pools as they were meant, for the next plan."""
        self._wish(0.0, self._restore)

    def empty(self) -> None:
        """Nobody needs machines any more."""
        self._wish(0.0, self._empty)

    def _wish(self, at_s: float, work: Callable[[Tx], object]) -> None:
        self.left += 1
        self._process.spawn(lambda: self._insist(work), at_s)

    def _insist(self, work: Callable[[Tx], object]) -> None:
        while not self._ask(work):
            self._run.world.sleep(5.0)
        self.left -= 1

    def _ask(self, work: Callable[[Tx], object]) -> bool:
        up = [master for master in self._run.network.masters if master.process.alive]
        if not up:
            return False
        answered = Signal(self._run.world)
        self._dice.choice(up).call(work, answered.set)
        return answered.wait(ASK_AGAIN_S)

    def _resume_what_is_paused(self) -> None:
        """An operator reads the reason, mends it, and goes on."""
        paused = select(table(Pool).c.id).where(table(Pool).c.paused_at.is_not(None))

        def resume(tx: Tx) -> None:
            for pool_id in tx.connection.execute(paused).scalars().all():
                pools.change(tx, pool_id, {"paused": False}, actor="operator")

        while True:
            self._run.world.sleep(240.0)
            if self._run.database("SELECT 1 FROM pool WHERE paused_at IS NOT NULL"):
                self._insist_once(resume)

    def _insist_once(self, work: Callable[[Tx], object]) -> None:
        self.left += 1
        self._insist(work)

    # wishes

    def _make_pools(self, tx: Tx) -> None:
        if tx.connection.execute(select(table(Pool).c.id)).first():
            return
        launch: dict[str, Any] = {"image": "ami-1", "instance_type": "small.1"}
        rungs = [{}, {"instance_type": "large.1"}, {"cloud": "west", "image": "ami-9", "instance_type": "west.1"}]
        if self._plan.clouds == 1:
            rungs[2] = {"instance_type": "huge.1"}
        if self._plan.rungs > 1:
            launch["rungs"] = rungs[: self._plan.rungs]
        self._make_pool(tx, name="main", cloud="east", min_nodes=self._plan.floor, launch=launch)
        if self._plan.clouds > 1:
            self._make_pool(tx, name=SIDE, cloud="west", launch={"image": "ami-9", "instance_type": "west.1"})

    def _make_pool(self, tx: Tx, **values: Any) -> None:
        row = Pool(**values, **self._plan.pool).model_dump(exclude={"id", "created_at"})
        pools.create(tx, row, actor="operator")

    def _submission(self, document: dict[str, Any]) -> Callable[[Tx], object]:
        key = document["name"]
        parsed = spec.parse(document)

        return lambda tx: submit(tx, parsed, actor="people", idempotency_key=key)

    def _cancellation(self, key: str) -> Callable[[Tx], object]:
        def work(tx: Tx) -> None:
            of_key = select(table(Job).c.id).where(table(Job).c.idempotency_key == key)
            if (job_id := tx.connection.execute(of_key).scalar()) is not None:
                cancel.cancel(tx, job_id, actor="people")

        return work

    def _drain(self, tx: Tx) -> None:
        for node_id in self._on_their_way(tx)[:1]:
            leaving.begin(tx, node_id, "operator", "drained by hand", actor="operator")

    def _end_now(self, tx: Tx) -> None:
        """The one that has the most to lose."""
        running = select(table(Attempt).c.node_id).where(table(Attempt).c.state == AttemptState.RUNNING)
        busy = list(tx.connection.execute(running.order_by(table(Attempt).c.id)).scalars())
        for node_id in [*busy, *self._on_their_way(tx)][:1]:
            self.ended_by_hand.add(node_id)
            leaving.at_once(tx, node_id, "operator", "ended by hand", actor="operator")

    def _protect(self, tx: Tx) -> None:
        for node_id in self._on_their_way(tx):
            leaving.protect(tx, node_id, True, actor="operator")

    def _unprotect_all(self, tx: Tx) -> None:
        for node_id in tx.connection.execute(select(table(Node).c.id).where(table(Node).c.protected)).scalars().all():
            leaving.protect(tx, node_id, False, actor="operator")

    def _on_their_way(self, tx: Tx) -> list[int]:
        ids = select(table(Node).c.id).where(table(Node).c.state.in_(NODE_ON_ITS_WAY)).order_by(table(Node).c.id)
        return list(tx.connection.execute(ids).scalars())

    def _lower_cap(self, tx: Tx) -> None:
        self._change(tx, max_nodes=2)

    def _raise_cap(self, tx: Tx) -> None:
        self._change(tx, max_nodes=8)

    def _restore(self, tx: Tx) -> None:
        self._change(tx, max_nodes=self._plan.pool["max_nodes"], min_nodes=0, paused=False)
        self._change(tx, "main", min_nodes=self._plan.floor)

    def _empty(self, tx: Tx) -> None:
        self._change(tx, min_nodes=0)
        side = select(table(Pool).c.id).where(table(Pool).c.name == SIDE, table(Pool).c.deleted_at.is_(None))
        for pool_id in tx.connection.execute(side).scalars().all():
            pools.delete(tx, pool_id, actor="operator")

    def _scale(self, tx: Tx) -> None:
        self._change(tx, min_nodes=1)

    def _pause(self, tx: Tx) -> None:
        self._change(tx, paused=True)

    def _change(self, tx: Tx, name: str | None = None, /, **changes: Any) -> None:
        whose = table(Pool).c.name == name if name is not None else table(Pool).c.gone_at.is_(None)
        for pool_id in tx.connection.execute(select(table(Pool).c.id).where(whose)).scalars().all():
            pools.change(tx, pool_id, changes, actor="operator")


CONTROLS = ('{"retry": "now"}', '{"retry": "2m", "params": {"RESUME": "here"}}', '{"retry": "never"}', "nonsense")
"""What a process leaves in its control file."""


def job_document(plan: Plan, number: int) -> dict[str, Any]:
    """A job file: some tasks, some needs between them, machines by a token or the pool's own."""
    dice = dice_for(plan.seed, f"job {number}")
    conditions = dice_for(plan.seed, f"conditions of job {number}")
    name = f"job-{number}"
    count = dice.randint(1, 5)
    tasks = []
    for i in range(count):
        task: dict[str, Any] = {"name": f"t{i}", "run": "work", "env": {"SIMULATED_TASK": f"{name}.t{i}"}}
        if i and dice.random() < 0.4:
            task["needs"] = [f"t{dice.randrange(i)}"]
            if (asks := conditions.choice(("", "", "", "ok", "err", "finished"))) != "":
                task["when"] = f"{asks}({task['needs'][0]})"
        tasks.append(task)
    pool = SIDE if plan.clouds > 1 and dice.random() < 0.3 else "main"
    infrastructure = {"pool": pool, "count": dice.choice((1, 1, 2, 3))}
    if dice.random() < 0.3:
        infrastructure["relaunches"] = dice.choice((0, 2))
    elif dice.random() < 0.2:
        infrastructure["instance_type"] = "own.1"
    document: dict[str, Any] = {
        "name": name,
        "client": dice.choice(("acme", "globex")),
        "env": {
            "SIMULATED_SECONDS": str(dice.choice((1, 10, 60, 120))),
            "SIMULATED_FAILURES": str(dice.choice((0, 0, 0.2, 0.5))),
            "SIMULATED_CONTROL": dice.choice(("", "", "", *CONTROLS)),
        },
        "retry": {
            "attempts": dice.choice((1, 2, 3)),
            "delay": dice.choice((0, 10, 60)),
            "never_on": [78],
            "infrastructure_attempts": dice.choice((3, 5)),
        },
        "priority": dice.choice((0, 0, 5)),
        "tasks": tasks,
    }
    if dice.random() < 0.3:
        document["timeout"] = {"after": dice.choice((5, 100)), "grace": dice.choice((1, 10))}
    shape = dice.random()
    if plan.floor and shape < 0.3:  # no token: it runs on the floor's nodes
        return document
    if shape < 0.45 and count > 1:  # machines come and go by tasks of the graph
        deploy = {"name": "up", "kind": "deploy", "token": "t-$JOB_ID", "infrastructure": infrastructure}
        for task in tasks:
            task["needs"] = [*task.get("needs", []), "up"]
        down = {"name": "down", "kind": "undeploy", "token": "t-$JOB_ID", "needs": [task["name"] for task in tasks]}
        return document | {"token": "t-$JOB_ID", "tasks": [deploy, *tasks, down]}
    token = f"shared-{pool}" if shape > 0.85 else "t-$JOB_ID"
    return document | {"infrastructure": infrastructure | {"token": token}}
