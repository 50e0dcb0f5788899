"""People: they submit and cancel jobs, drain nodes, scale and pause the pool; and repeat a call whose answer was lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from orchestrator.fleet import leaving, pools
from orchestrator.jobs import cancel, spec
from orchestrator.jobs.submit import submit
from orchestrator.model.states import NODE_ON_ITS_WAY
from orchestrator.model.tables import Node, Pool, table
from orchestrator.simulation.plan import Plan, dice_for
from orchestrator.simulation.world import Process, Signal
from orchestrator.store.writer import Tx

if TYPE_CHECKING:
    from orchestrator.simulation.run import Run

ASK_AGAIN_S = 30.0


class People:
    """Each wish is carried out once, however often it must be asked for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._plan = run.plan
        self._dice = dice_for(run.plan.seed, "people")
        self._process = Process(run.world, "people")
        self.left = 0  # wishes not yet granted
        self.submitted: dict[str, int] = {}  # job ids by idempotency key

    def begin(self) -> None:
        """Make the pool, then everything else at its time."""
        self._wish(0.0, self._make_pool)
        for number in range(self._plan.jobs):
            at_s = self._dice.uniform(1, self._plan.faults_for_s * 0.7)
            document = job_document(self._plan, number)
            self._wish(at_s, self._submission(document))
            if self._dice.random() < 0.1:
                self._wish(at_s + self._dice.uniform(10, 300), self._cancellation(document["name"]))
        for deed, chance in (
            (self._drain, float(self._plan.drains)),
            (self._drain, float(self._plan.drains) / 2),
            (self._lower_cap, 0.1),
            (self._pause, 0.1),
            (self._scale, 0.2),
        ):
            if self._dice.random() < chance:
                self._wish(self._dice.uniform(60, self._plan.faults_for_s), deed)
        self._process.spawn(self._resume_what_is_paused)

    def empty(self) -> None:
        """Nobody needs machines any more."""
        self._wish(0.0, lambda tx: self._change(tx, min_nodes=0))

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

    def _make_pool(self, tx: Tx) -> None:
        values = {
            "name": "main",
            "cloud": "east",
            "policy": "iaas",
            "min_nodes": self._plan.floor,
            "launch": {"image": "ami-1", "instance_type": "small.1"},
            **self._plan.pool,
        }
        row = Pool(**values).model_dump(exclude={"id", "created_at"})
        if not tx.connection.execute(select(table(Pool).c.id)).first():
            pools.create(tx, row, actor="operator")

    def _submission(self, document: dict[str, Any]) -> Callable[[Tx], object]:
        key = document["name"]
        parsed = spec.parse(document)

        def work(tx: Tx) -> None:
            self.submitted[key] = submit(tx, parsed, actor="people", idempotency_key=key).job_id

        return work

    def _cancellation(self, key: str) -> Callable[[Tx], object]:
        def work(tx: Tx) -> None:
            if (job_id := self.submitted.get(key)) is not None:
                cancel.cancel(tx, job_id, actor="people")

        return work

    def _drain(self, tx: Tx) -> None:
        on_their_way = select(table(Node).c.id).where(table(Node).c.state.in_(NODE_ON_ITS_WAY)).order_by(table(Node).c.id)
        if found := tx.connection.execute(on_their_way).scalars().all():
            leaving.begin(tx, found[0], "operator", "drained by hand", actor="operator")

    def _lower_cap(self, tx: Tx) -> None:
        self._change(tx, max_nodes=2)

    def _scale(self, tx: Tx) -> None:
        self._change(tx, min_nodes=1)

    def _pause(self, tx: Tx) -> None:
        self._change(tx, paused=True)

    def _change(self, tx: Tx, **changes: Any) -> None:
        for pool_id in tx.connection.execute(select(table(Pool).c.id)).scalars().all():
            pools.change(tx, pool_id, changes, actor="operator")


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
    infrastructure = {"pool": "main", "count": dice.choice((1, 1, 2, 3))}
    document: dict[str, Any] = {
        "name": name,
        "client": dice.choice(("acme", "globex")),
        "env": {
            "SIMULATED_SECONDS": str(dice.choice((1, 10, 60, 120))),
            "SIMULATED_FAILURES": str(dice.choice((0, 0, 0.2, 0.5))),
        },
        "retry": {
            "attempts": dice.choice((1, 2, 3)),
            "delay": dice.choice((0, 10, 60)),
            "never_on": [78],
            "infrastructure_attempts": dice.choice((3, 5)),
        },
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
    token = "shared" if shape > 0.85 else "t-$JOB_ID"
    return document | {"infrastructure": infrastructure | {"token": token}}
