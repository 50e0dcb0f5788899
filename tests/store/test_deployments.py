"""Submission and machines asked for (P4 – P6): keys old and new, inheritance, when the asking opens and closes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.jobs import spec
from orchestrator.jobs.spec import SpecError
from orchestrator.model.tables import Client, Deployment, Event, Job, Node, Pool, Task, TaskNeed

if TYPE_CHECKING:
    from conftest import Store

FULL = {"pool": "main", "count": 2, "image": "ami-9", "instance_type": "LARGE", "token": "tok"}
OLD = {
    "NODE_ACCESS_TOKEN": "tok",
    "IAAS_NODE_SOURCE": "main",
    "IAAS_INSTANCE_NB": 2,
    "IAAS_IMAGE_ID": "ami-9",
    "IAAS_INSTANCE_TYPE": "LARGE",
    "IAAS_OPERATION": "DEPLOY_AND_UNDEPLOY",
}


def run(name: str, **values: Any) -> dict[str, Any]:
    return {"name": name, "run": "true", **values}


def submitted(store: Store, *tasks: dict[str, Any], client: str = "acme", **job: Any) -> int:
    return store.submit({"name": "job", "client": client, "tasks": list(tasks) or [run("only")], **job})


def open_ones(store: Store) -> list[tuple[str, int]]:
    return [(row.token, row.machines) for row in store.rows(Deployment) if row.closed_at is None]


@pytest.fixture
def node(store: Store) -> int:
    """In pool `main`, without a token; `store.force` gives it one."""
    return store.node(store.pool())


# ---- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "block",
    [
        {"infrastructure": FULL | {"operation": "deploy_and_undeploy"}},
        {"token": "tok", "infrastructure": {k: v for k, v in FULL.items() if k != "token"}},
        {"generic_information": OLD},
        {"generic_information": {**OLD, "IAAS_INSTANCE_NB": "2"}},
        {"generic_information": {"IAAS_INSTANCE_NB": "7", "NODE_ACCESS_TOKEN": "other"}, "infrastructure": FULL},
    ],
    ids=["block", "token beside it", "old keys", "old keys as text", "the plain fields win"],
)
@pytest.mark.parametrize("level", ["job", "task"])
def test_the_same_machines_however_it_is_written(store: Store, node: int, block: dict[str, Any], level: str) -> None:
    job = submitted(store, **block) if level == "job" else submitted(store, run("only", **block))
    (deployment,) = store.rows(Deployment)
    (task,) = store.rows(Task)
    assert (deployment.token, deployment.machines) == ("acme/tok", 2)
    assert (deployment.image, deployment.instance_type) == ("ami-9", "LARGE")
    assert (deployment.job_id, deployment.task_id) == (job, None if level == "job" else task.id)
    assert task.token == "acme/tok"
    assert deployment.opened_at == store.clock()


def test_task_value_first_then_job(store: Store, node: int) -> None:
    store.pool("other")
    job_block = {"pool": "main", "count": 3, "image": "ami-job", "instance_type": "SMALL", "token": "j"}
    submitted(
        store,
        run("all-inherited", infrastructure={"token": "t1"}),
        run("some", infrastructure={"token": "t2", "pool": "other", "count": 1}),
        run("token-only-on-the-job", infrastructure={"image": "ami-x"}),
        infrastructure=job_block,
    )
    asked = {row.token: (row.machines, row.image, row.instance_type) for row in store.rows(Deployment)}
    assert asked == {
        "acme/j": (3, "ami-job", "SMALL"),
        "acme/t1": (3, "ami-job", "SMALL"),
        "acme/t2": (1, "ami-job", "SMALL"),
    }
    assert [row.token for row in store.rows(Task)] == ["acme/t1", "acme/t2", "acme/j"]
    assert [row.pool_id for row in store.rows(Task)] == [1, 2, 1]


def test_a_job_block_without_a_token_serves_its_tasks(store: Store, node: int) -> None:
    """The token stands on the target itself; everything else may come from the job."""
    submitted(store, run("a", token="t"), run("b"), infrastructure={"pool": "main", "count": 2})
    assert open_ones(store) == [("acme/t", 2)]
    assert [row.token for row in store.rows(Task)] == ["acme/t", None]


def test_old_and_new_keys_inherit_from_one_another(store: Store, node: int) -> None:
    submitted(
        store,
        run("a", generic_information={"NODE_ACCESS_TOKEN": "t", "IAAS_INSTANCE_NB": 1}),
        infrastructure={"pool": "main", "count": 5, "token": "j"},
    )
    assert sorted(open_ones(store)) == [("acme/j", 5), ("acme/t", 1)]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("x-$JOB_ID", "acme/x-{}"), ("$JOB_ID-$JOB_ID", "acme/{0}-{0}"), ("plain", "acme/plain")],
)
def test_the_job_id_in_a_token(store: Store, node: int, written: str, meant: str) -> None:
    store.job()  # so that ids differ from 1
    job = submitted(store, token=written, infrastructure={"pool": "main", "count": 1})
    assert [row.token for row in store.rows(Deployment)] == [meant.format(job)]
    assert {row.token for row in store.rows(Task, job_id=job)} == {meant.format(job)}
    assert store.one(Job, job).token == meant.format(job)


@pytest.mark.parametrize("written", ["cloudstack$PAS_JOB_ID", "cloudstack${PAS_JOB_ID}", "cloudstack$JOB_ID"])
def test_the_old_way_to_write_the_job_id(store: Store, node: int, written: str) -> None:
    job = submitted(store, generic_information={**OLD, "NODE_ACCESS_TOKEN": written})
    assert [row.token for row in store.rows(Deployment)] == [f"acme/cloudstack{job}"]


def test_two_clients_never_share_a_token(store: Store, node: int) -> None:
    first = submitted(store, token="same")
    second = submitted(store, client="other", token="same")
    store.force(Task, 1, priority=-1)
    assert [row.token for row in store.rows(Task)] == ["acme/same", "other/same"]
    theirs = store.node(1, token="other/same")
    assert store.run_one(theirs) == "only"
    assert store.state(Job, first) == "queued"
    assert store.state(Job, second) == "succeeded"
    assert store.run_one(theirs) is None


def test_no_name_can_imitate_another_clients_token() -> None:
    """Neither a client's name nor a token has a slash, so `client/token` reads in one way only."""
    for job in ({"client": "a/b", "token": "c"}, {"client": "a", "token": "b/c"}):
        with pytest.raises(SpecError):
            spec.parse({"name": "j", "run": "true", **job})


def test_undeploying_ones_token_leaves_another_clients_alone(store: Store, node: int) -> None:
    submitted(store, infrastructure=FULL)
    submitted(store, client="other", token="tok", infrastructure={"operation": "undeploy"})
    theirs = store.node(1, token="other/tok")
    assert store.run_one(theirs) == "only"
    assert open_ones(store) == [("acme/tok", 2)]


# ---- what is refused -------------------------------------------------------------------------------------------------


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"infrastructure": {**FULL, "pool": "nowhere"}}, "infrastructure.pool", "no pool is named 'nowhere'"),
    ({"infrastructure": {**FULL, "instance_type": "MEDIUM"}}, "infrastructure.instance_type", "MEDIUM is unknown"),
    ({"infrastructure": {"pool": "main", "token": "t"}}, "infrastructure.count", "add count:"),
    ({"infrastructure": {"count": 2, "token": "t"}}, "infrastructure.pool", "add pool:"),
    ({"infrastructure": {"count": 2, "pool": "main"}}, "infrastructure.token", "add token:"),
    ({"tasks": [run("a"), run("b", infrastructure={"pool": "gone"})]}, "tasks[1].infrastructure.pool", "'gone'"),
    ({"tasks": [run("a", infrastructure={"pool": "main", "token": "t"})]}, "tasks[0].infrastructure.count", "count"),
    ({"tasks": [run("a", infrastructure={"pool": "main", "count": 1})]}, "tasks[0].infrastructure.token", "add token"),
    (
        {"tasks": [run("a", infrastructure={**FULL, "instance_type": "MEDIUM"})]},
        "tasks[0].infrastructure.instance_type",
        "",
    ),
    ({"generic_information": {**OLD, "IAAS_INSTANCE_NB": "many"}}, "$", "IAAS_INSTANCE_NB is 'many'"),
    ({"generic_information": {**OLD, "IAAS_OPERATION": "BOTH"}}, "$", "DEPLOY_AND_UNDEPLOY"),
    ({"generic_information": {k: v for k, v in OLD.items() if k != "IAAS_INSTANCE_NB"}}, "infrastructure.count", ""),
    ({"generic_information": {"IAAS_WHAT": "x"}}, "$", "IAAS_WHAT is unknown"),
    ({"generic_information": {**OLD, "IAAS_NODE_SOURCE": "not a name"}}, "$", "IAAS_NODE_SOURCE"),
    ({"generic_information": {**OLD, "IAAS_INSTANCE_NB": 5000}}, "$", "IAAS_INSTANCE_NB"),
    ({"generic_information": {**OLD, "NODE_ACCESS_TOKEN": "no spaces"}}, "$", "NODE_ACCESS_TOKEN"),
    ({"token": "$TODAY"}, "token", "only $JOB_ID"),
    ({"tasks": [run("a", token="x$NOW")]}, "tasks[0].token", "only $JOB_ID"),
    (
        {"tasks": [{"name": "d", "kind": "deploy", "infrastructure": {"pool": "main", "count": 1}}]},
        "tasks[0].token",
        "",
    ),
    ({"tasks": [{"name": "d", "kind": "deploy", "token": "t"}]}, "tasks[0].infrastructure.pool", "add pool"),
    ({"tasks": [{"name": "d", "kind": "undeploy"}]}, "tasks[0].token", "add token"),
]


def test_refused_with_its_path_and_nothing_created(store: Store, node: int) -> None:
    before = store.rows(Event)
    for document, path, said in REFUSED:
        whole = {"name": "job", "client": "new-client", **document}
        if "tasks" not in whole:
            whole["run"] = "true"
        with pytest.raises(SpecError) as refused:
            store.submit(whole)
        found = dict(refused.value.problems)
        assert path in found, f"{document}: {found}"
        assert said in found[path], f"{document}: {found}"
    assert [store.count(model) for model in (Job, Task, TaskNeed, Deployment, Client)] == [0] * 5
    assert store.rows(Event) == before


def test_a_deleted_pool_is_no_pool(store: Store, node: int) -> None:
    store.force(Pool, 1, deleted_at=store.clock())
    with pytest.raises(SpecError, match=r"infrastructure\.pool: no pool is named 'main'"):
        submitted(store, infrastructure=FULL)


def test_a_jobs_mistake_is_said_once(store: Store, node: int) -> None:
    with pytest.raises(SpecError) as refused:
        submitted(store, *(run(f"t{i}") for i in range(5)), infrastructure={**FULL, "pool": "nowhere"})
    assert [path for path, _ in refused.value.problems] == ["infrastructure.pool"]


def test_a_raw_type_and_the_default_need_no_meaning(store: Store, node: int) -> None:
    for kind in ("m6i.metal", "DEFAULT", "SMALL", "LARGE"):
        submitted(store, infrastructure={**FULL, "instance_type": kind})
    assert [row.instance_type for row in store.rows(Deployment)] == ["m6i.metal", "DEFAULT", "SMALL", "LARGE"]


# ---- when it opens and closes ----------------------------------------------------------------------------------------


def test_for_the_job_at_submit_and_to_its_end(store: Store, node: int) -> None:
    job = submitted(store, run("a"), run("b", needs=["a"]), infrastructure={**FULL, "operation": "deploy"})
    assert open_ones(store) == [("acme/tok", 2)]
    store.force(Node, node, token="acme/tok")
    store.run_one(node)
    assert open_ones(store) == [("acme/tok", 2)]
    store.clock.move(60)
    store.run_one(node)
    assert open_ones(store) == []
    (row,) = store.rows(Deployment, job_id=job)
    assert (row.closed_at, row.reason) == (store.clock(), "its job is done")


def test_for_a_task_once_its_needs_are_done(store: Store, node: int) -> None:
    job = submitted(store, run("a"), run("b", needs=["a"], infrastructure=FULL))
    assert open_ones(store) == []
    store.run_one(node)
    assert open_ones(store) == [("acme/tok", 2)]
    assert store.cancel(job)
    assert open_ones(store) == []


@pytest.mark.parametrize(("operation", "closed"), [("deploy_and_undeploy", True), ("deploy", False), (None, False)])
@pytest.mark.parametrize("exit_code", [0, 1])
def test_at_the_tasks_end_if_asked(store: Store, node: int, operation: str | None, closed: bool, exit_code: int) -> None:
    block = FULL | ({"operation": operation} if operation else {})
    submitted(store, run("a", infrastructure=block), run("b"))
    mine = store.node(1, token="acme/tok")
    assert store.run_one(mine, exit_code=exit_code) == "a"
    assert open_ones(store) == ([] if closed else [("acme/tok", 2)])
    store.run_one(node)
    assert open_ones(store) == []


def test_not_between_two_tries(store: Store, node: int) -> None:
    block = FULL | {"operation": "deploy_and_undeploy"}
    submitted(store, run("a", infrastructure=block, retry={"attempts": 2}))
    mine = store.node(1, token="acme/tok")
    store.run_one(mine, exit_code=1)
    assert open_ones(store) == [("acme/tok", 2)]
    store.run_one(mine)
    assert open_ones(store) == []


@pytest.mark.parametrize("ending", ["succeeded", "failed", "cancelled", "cancelled while running"])
def test_at_the_jobs_end_always(store: Store, node: int, ending: str) -> None:
    job = submitted(
        store, run("a"), run("b", infrastructure=FULL | {"token": "b", "operation": "deploy"}), infrastructure=FULL
    )
    assert len(open_ones(store)) == 2
    first, second = store.node(1, token="acme/tok"), store.node(1, token="acme/b")
    if ending.startswith("cancelled"):
        attempts = store.claim(first) if "running" in ending else []
        store.cancel(job)
        for attempt in attempts:
            assert len(open_ones(store)) >= 1
            store.report(first, attempt, "cancelled")
    else:
        store.run_one(first, exit_code=0 if ending == "succeeded" else 1)
        store.run_one(second)
    assert store.state(Job, job) == ending.split()[0]
    assert open_ones(store) == []


def test_deploy_and_undeploy_placed_by_hand(store: Store, node: int) -> None:
    asks = {"pool": "main", "count": 4}
    job = submitted(
        store,
        run("before"),
        {"name": "come", "kind": "deploy", "token": "hand", "infrastructure": asks, "needs": ["before"]},
        run("work", token="hand", needs=["come"], infrastructure={"operation": "undeploy"}),
        run("after", needs=["work"]),
    )
    assert open_ones(store) == []
    store.run_one(node)
    assert open_ones(store) == [("acme/hand", 4)]
    assert store.task_states(job) == dict(before="succeeded", come="succeeded", work="queued", after="waiting")
    mine = store.node(1, token="acme/hand")
    assert store.run_one(mine) == "work"
    assert open_ones(store) == []  # operation: undeploy
    assert store.state(Job, job) == "running"
    store.check_counters()


def test_an_undeploy_task(store: Store, node: int) -> None:
    job = submitted(
        store,
        {"name": "come", "kind": "deploy", "token": "x", "infrastructure": {"pool": "main", "count": 4}},
        run("work", token="x", needs=["come"]),
        {"name": "go", "kind": "undeploy", "token": "x", "needs": ["work"]},
        run("after", needs=["go"]),
    )
    assert open_ones(store) == [("acme/x", 4)]
    store.run_one(store.node(1, token="acme/x"))
    assert open_ones(store) == []
    assert store.task_states(job) == dict(come="succeeded", work="succeeded", go="succeeded", after="queued")
    (row,) = store.rows(Deployment)
    assert row.reason.startswith("undeploy task")


def test_an_undeploy_task_takes_the_jobs_token(store: Store, node: int) -> None:
    submitted(
        store, run("a"), {"name": "go", "kind": "undeploy", "needs": ["a"]}, run("b", needs=["go"]), infrastructure=FULL
    )
    assert open_ones(store) == [("acme/tok", 2)]
    store.run_one(store.node(1, token="acme/tok"))
    assert open_ones(store) == []
    assert store.states(Task) == ["succeeded", "succeeded", "queued"]


def test_a_lone_deploy_task_leaves_nothing_open(store: Store, node: int) -> None:
    """Its job ends in the moment it begins: machines that nobody can use must not stay asked for."""
    job = submitted(store, {"name": "come", "kind": "deploy", "infrastructure": FULL})
    assert store.state(Job, job) == "succeeded"
    assert open_ones(store) == []


def test_a_job_of_instant_tasks_ends_at_once(store: Store, node: int) -> None:
    job = submitted(
        store,
        {"name": "come", "kind": "deploy", "infrastructure": FULL},
        {"name": "go", "kind": "undeploy", "token": "tok", "needs": ["come"]},
    )
    assert store.state(Job, job) == "succeeded"
    assert open_ones(store) == []
    store.check_counters()


def test_operation_undeploy_starts_nothing_and_ends_the_tokens_machines(store: Store, node: int) -> None:
    keeper = submitted(store, run("a"), infrastructure=FULL)
    ender = submitted(store, run("b"), token="tok", priority=5, infrastructure={"operation": "undeploy"})
    assert open_ones(store) == [("acme/tok", 2)]
    mine = store.node(1, token="acme/tok")
    assert store.run_one(mine) == "b"
    assert store.state(Job, ender) == "succeeded"
    assert store.state(Job, keeper) == "queued"
    assert open_ones(store) == []


def test_every_opening_and_closing_is_told(store: Store, node: int) -> None:
    job = submitted(store, infrastructure=FULL)
    store.cancel(job)
    told = store.reasons(subject="deployment", job_id=job)
    assert told == [f"job {job} asks for 2 machine(s) with token acme/tok", "its job is done"]


# ---- the same job asked for twice ------------------------------------------------------------------------------------


def test_an_idempotency_key_makes_one_job(store: Store, node: int) -> None:
    document = {"name": "job", "client": "acme", "run": "true", "infrastructure": FULL}
    first = store.submit(document, key="k")
    assert store.submit(document, key="k") == first
    assert store.submit(document, key="l") != first
    assert store.count(Job) == 2
    assert len(open_ones(store)) == 2


def test_masters_asked_at_once_make_one_job_and_one_client(masters: list[Store]) -> None:
    document = {"name": "job", "client": "brand-new", "run": "true"}
    ids: list[int] = []
    failures: list[BaseException] = []
    together = threading.Barrier(len(masters))

    def ask(store: Store) -> None:
        together.wait(5)
        try:
            ids.append(store.submit(document, key="same"))
            store.submit(document)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(store,)) for store in masters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert len(set(ids)) == 1
    assert masters[0].count(Client) == 1
    assert masters[0].count(Job) == 1 + len(masters)
