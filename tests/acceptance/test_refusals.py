"""What agents and impostors may not do, through the real endpoints, on both databases: refused, and on record."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from orchestrator.agents.artifacts import LARGEST_PIECE, ArtifactIntake, Limits
from orchestrator.agents.endpoints import LARGEST_BODY, AgentEndpoints
from orchestrator.agents.intake import NO_MORE
from orchestrator.agents.masks import Masks
from orchestrator.agents.results import lose_attempts
from orchestrator.agents.sessions import Sessions
from orchestrator.agents.waiters import Waiters
from orchestrator.files.local import LocalFiles, LocalLogs
from orchestrator.fleet import leaving
from orchestrator.fleet.secrets import enrolment_secret
from orchestrator.jobs.secrets import Vault
from orchestrator.model.states import LaunchState, NodeState
from orchestrator.model.tables import Artifact, Attempt, Event, Job, Launch, Node, Task

KEY, INSTALLATION = b"k" * 32, "installation-1"
LOG_LIMIT = 1000
Json = dict[str, Any]


class Door:
    """The agents' endpoints over a store, and short words for knocking."""

    def __init__(self, store: Any, client: TestClient, logs: LocalLogs, folder: Path) -> None:
        self.store, self.client, self.logs, self.folder = store, client, logs, folder
        self.files = LocalFiles(folder / "files")
        self.pool = store.pool(slots=4)

    def booting(self) -> tuple[int, Json]:
        """A node that boots, and what its agent says to be let in."""
        node_id = self.store.node(self.pool, NodeState.BOOTING)
        row = self.store.one(Node, node_id)
        secret = enrolment_secret(KEY, INSTALLATION, row.launch_id)
        return node_id, {
            "secret": secret,
            "instance_id": row.instance_id,
            "credential": f"{node_id:064d}",
            "agent_version": "0.1.0",
            "protocol": 1,
        }

    def boot(self, secret: str = "", instance_id: str = "i-1", phase: str | None = "cloud-init began") -> Any:
        return self.client.post("/agent/v1/boot", json={"secret": secret, "instance_id": instance_id, "phase": phase})

    def fetch(self, secret: str = "", instance_id: str = "") -> Any:
        headers = {"Authorization": f"Bearer {secret}", "X-Instance-Id": instance_id} if secret else {}
        return self.client.get("/agent/v1/agent.pyz", headers=headers)

    def enrol(self, message: Json) -> Any:
        return self.client.post("/agent/v1/enrol", json=message)

    def ready(self) -> tuple[int, str]:
        """A node that was let in, and its credential."""
        node_id, message = self.booting()
        assert self.enrol(message).status_code == 200
        return node_id, message["credential"]

    def sync(self, credential: str, **message: Any) -> Any:
        return self.client.post("/agent/v1/sync", json=message, headers={"Authorization": f"Bearer {credential}"})

    def claimed(self, credential: str, tasks: int = 1, **job: Any) -> tuple[int, list[int]]:
        """A job whose tasks this node has taken: its id and the attempts."""
        job_id = self.store.job(tasks, **job)
        orders = self.sync(credential, free=tasks).json()["orders"]
        assert len(orders) == tasks
        return job_id, [order["attempt"] for order in orders]

    def events(self, words: str) -> list[Any]:
        return [row for row in self.store.rows(Event) if words in row.reason]


@pytest.fixture
def door(store: Any, tmp_path: Path) -> Iterator[Door]:
    logs = LocalLogs(tmp_path / "logs", LOG_LIMIT)
    sessions, files = Sessions(store.engine), LocalFiles(tmp_path / "files")
    artifacts = ArtifactIntake(store.writer, sessions, files, tmp_path / "uploads", Limits(file=1000, attempt=1500))
    masks = Masks(store.engine, Vault(tmp_path / "secrets.key"), logs)
    endpoints = AgentEndpoints(
        store.writer, sessions, Waiters(), logs, artifacts, store.clock, masks=masks, key=KEY, installation=INSTALLATION
    )
    with TestClient(Starlette(routes=endpoints.routes())) as client:
        yield Door(store, client, logs, tmp_path)


def ended(attempt: int, exit_code: int = 0, **more: Any) -> Json:
    return {"attempt": attempt, "outcome": "exited", "exit_code": exit_code, "log_size": 0, **more}


def chunk(attempt: int, data: bytes, offset: int = 0) -> Json:
    return {"attempt": attempt, "offset": offset, "data": base64.b64encode(data).decode()}


# ---- enrolment -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["made up", "another launch's proof", "another master's key", "empty"])
def test_a_wrong_secret(how: str, door: Door) -> None:
    node_id, message = door.booting()
    launch_id = door.store.one(Node, node_id).launch_id
    number, _, proof = message["secret"].partition(".")
    message["secret"] = {
        "made up": f"{number}.{'0' * 64}",
        "another launch's proof": f"{launch_id + 1}.{proof}",
        "another master's key": enrolment_secret(b"x" * 32, INSTALLATION, launch_id),
        "empty": "",
    }[how]
    answer = door.enrol(message)
    assert answer.status_code == 403, "final: such a machine powers off"
    assert door.store.state(Node, node_id) == NodeState.BOOTING
    (event,) = door.events("wrong enrolment secret")
    assert (event.subject, event.actor) == ("enrolment", "agent")


def test_a_used_secret(door: Door) -> None:
    """Whoever read the user data later, on the machine or elsewhere, gets nothing with it."""
    node_id, message = door.booting()
    assert door.enrol(message).status_code == 200
    again = door.enrol(message)
    assert again.status_code == 200 and again.json()["node_id"] == node_id, "its own repeat after a lost answer"
    thief = {**message, "credential": "f" * 64}
    assert door.enrol(thief).status_code == 403
    (event,) = door.events("the secret was used")
    assert (event.subject, event.node_id) == ("node", node_id)
    assert door.sync(thief["credential"]).status_code == 401
    assert door.sync(message["credential"]).status_code == 200
    assert door.store.state(Node, node_id) == NodeState.READY


def test_an_unknown_machine(door: Door) -> None:
    node_id, message = door.booting()
    stranger = {**message, "instance_id": "i-stranger"}
    assert door.enrol(stranger).status_code == 403
    (event,) = door.events("'i-stranger' is not of launch")
    assert event.subject == "launch"
    assert door.store.state(Node, node_id) == NodeState.BOOTING


def test_a_machine_faster_than_the_cloud_s_answer_is_asked_to_come_again(door: Door) -> None:
    node_id, message = door.booting()
    launch_id = door.store.one(Node, node_id).launch_id
    door.store.force(Launch, launch_id, state=LaunchState.LAUNCHING)
    door.store.force(Node, node_id, instance_id=None, state=NodeState.LAUNCHING)
    answer = door.enrol(message)
    assert answer.status_code == 425, "not final"
    assert not door.events("refused")


def test_a_secret_after_the_boot_deadline(door: Door) -> None:
    node_id, message = door.booting()
    door.store.clock.move(601)
    assert door.enrol(message).status_code == 403
    assert door.events("expired at the boot deadline")
    assert door.store.state(Node, node_id) == NodeState.TERMINATING


def test_a_machine_whose_node_has_gone(door: Door) -> None:
    node_id, message = door.booting()
    door.store.write(lambda tx: leaving.at_once(tx, node_id, "operator", "by the test"))
    assert door.enrol(message).status_code == 403
    assert door.events("registered too late")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("credential", "too short"),
        ("instance_id", "i-1\0"),
        ("agent_version", "\0"),
        ("agent_version", "x" * 101),
        ("secret", "x" * 201),
        ("protocol", -1),
        ("secret", None),
    ],
)
def test_an_enrolment_without_sense(field: str, value: Any, door: Door) -> None:
    node_id, message = door.booting()
    answer = door.enrol({**message, field: value})
    assert answer.status_code == 422 and answer.json()["error"].startswith(field)
    assert door.store.state(Node, node_id) == NodeState.BOOTING


def test_an_agent_of_another_protocol(door: Door) -> None:
    _, message = door.booting()
    answer = door.enrol({**message, "protocol": 3})
    assert answer.status_code == 400 and "protocols 1 and 2, not 3" in answer.json()["error"]


def test_a_flood_of_wrong_secrets_is_one_event_a_minute(door: Door) -> None:
    _, message = door.booting()
    for number in range(50):
        assert door.enrol({**message, "secret": f"{number}.{'0' * 64}"}).status_code == 403
        assert door.boot(secret=f"{number}.{'0' * 64}").status_code == 403
    assert len(door.events("wrong enrolment secret")) == 2, "one of each kind of call"
    door.store.clock.move(61)
    door.enrol({**message, "secret": "1.0"})
    assert len(door.events("wrong enrolment secret")) == 3
    assert door.enrol(message).status_code == 200, "nobody else is refused for it"


# ---- boot ------------------------------------------------------------------------------------------------------------


def test_a_boot_is_told_of_step_by_step_and_only_forward(door: Door) -> None:
    node_id, message = door.booting()
    mine = {"secret": message["secret"], "instance_id": message["instance_id"]}
    assert door.boot(**mine).status_code == 200
    node = door.store.one(Node, node_id)
    assert (node.boot_phase, node.boot_phase_at) == ("cloud-init began", door.store.clock())
    door.store.clock.move(5)
    assert door.fetch(**mine).status_code == 200
    assert door.boot(**mine).status_code == 200, "a reboot, or a repeat"
    node = door.store.one(Node, node_id)
    assert (node.boot_phase, node.boot_phase_at) == ("agent fetched", door.store.clock())
    door.enrol(message)
    assert door.store.one(Node, node_id).boot_phase == "enrolled"
    door.boot(**mine)
    assert door.store.one(Node, node_id).boot_phase == "enrolled"
    assert [event.reason for event in door.events("boot: ")] == ["boot: cloud-init began", "boot: agent fetched"]


def test_a_machine_that_boots_before_its_cloud_has_answered_us_is_not_refused(door: Door) -> None:
    node_id, message = door.booting()
    door.store.force(Node, node_id, instance_id=None, state=NodeState.LAUNCHING)
    assert door.boot(secret=message["secret"], instance_id=message["instance_id"]).status_code == 200
    assert door.store.one(Node, node_id).boot_phase is None and not door.events("refused")


def test_a_stranger_s_boot_is_refused_and_its_agent_is_served_all_the_same(door: Door) -> None:
    node_id, message = door.booting()
    assert door.boot(secret=message["secret"], instance_id="i-stranger").status_code == 403
    assert door.fetch(secret="1.wrong", instance_id="i-1").status_code == 200
    assert door.fetch(secret="x" * 500, instance_id="i-1").content == door.fetch().content
    assert door.store.one(Node, node_id).boot_phase is None
    (event,) = door.events("'i-stranger' is not of launch")
    assert event.subject == "enrolment"


@pytest.mark.parametrize("wrong", [{"phase": "enrolled"}, {"phase": None}, {"instance_id": "\0"}, {"secret": "x" * 300}])
def test_a_boot_without_sense(wrong: Json, door: Door) -> None:
    node_id, message = door.booting()
    said = {"secret": message["secret"], "instance_id": message["instance_id"], **wrong}
    assert door.boot(**said).status_code == 422
    assert door.store.one(Node, node_id).boot_phase is None


# ---- the machine's own news ------------------------------------------------------------------------------------------


def test_each_bad_check_of_the_engine_is_a_strike_and_a_good_one_takes_them_back(door: Door) -> None:
    node_id, credential = door.ready()

    def said(check: int, trouble: str) -> tuple[int, str | None]:
        health = {"ok": not trouble, "trouble": trouble, "check": check}
        assert door.sync(credential, health=health).status_code == 200
        node = door.store.one(Node, node_id)
        return node.engine_strikes, node.engine_trouble

    assert said(1, "") == (0, None)
    assert door.store.one(Node, node_id).engine_at == door.store.clock()
    assert not door.events("its engine")
    assert said(2, "the disk is full") == (1, "the disk is full")
    assert said(2, "the disk is full") == (1, "the disk is full"), "the same check, said again: its answer was lost"
    assert said(3, "the disk is full") == (2, "the disk is full")
    assert said(4, "") == (0, None)
    assert [event.reason for event in door.events("its engine")] == [
        "its engine is in trouble (strike 1): the disk is full",
        "its engine is in trouble (strike 2): the disk is full",
        "its engine is well again",
    ]


def test_calls_without_news_of_the_engine_write_nothing_of_it(door: Door) -> None:
    node_id, credential = door.ready()
    for _ in range(3):
        door.sync(credential, free=0)
    assert door.store.one(Node, node_id).engine_at is None


def test_a_machine_that_its_cloud_takes_back_gets_no_new_task_and_ends_what_it_has(door: Door) -> None:
    node_id, credential = door.ready()
    job_id, (attempt,) = door.claimed(credential)
    door.store.job(1)
    at = door.store.clock() + timedelta(seconds=120)
    answer = door.sync(credential, known=[attempt], free=3, reclaim_at=at.timestamp()).json()
    assert answer["orders"] == [] and answer["draining"] and answer["stop"] == []
    node = door.store.one(Node, node_id)
    assert (node.state, node.end_reason, node.reclaim_at) == (NodeState.DRAINING, "reclaimed", at)
    events = door.store.count(Event)
    door.sync(credential, known=[attempt], draining=True, reclaim_at=at.timestamp())
    assert door.store.count(Event) == events, "said again"
    door.sync(credential, results=[ended(attempt)])
    assert door.store.state(Job, job_id) == "succeeded"
    assert door.store.state(Node, node_id) == NodeState.TERMINATING


def test_what_does_not_end_before_the_machine_is_taken_is_the_infrastructure_s_failure(door: Door) -> None:
    node_id, credential = door.ready()
    job_id, (attempt,) = door.claimed(credential)
    door.sync(credential, known=[attempt], reclaim_at=door.store.clock().timestamp() + 120)
    door.store.write(lambda tx: leaving.at_once(tx, node_id, "vanished", "the cloud no longer shows it"))
    (task,) = door.store.rows(Task, job_id=job_id)
    assert (task.state, task.job_failures, task.infrastructure_failures) == ("queued", 0, 1)


# ---- who calls -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credential", ["", "0" * 64, "Bearer", "x" * 5000])
def test_a_wrong_credential(credential: str, door: Door) -> None:
    node_id, _ = door.ready()
    door.store.job(1)
    answer = door.sync(credential, free=1, results=[ended(1)])
    assert answer.status_code == 401
    assert door.store.count(Attempt) == 0
    assert door.store.state(Node, node_id) == NodeState.READY


def test_the_hash_of_a_credential_is_no_credential(door: Door) -> None:
    node_id, _ = door.ready()
    assert door.sync(door.store.one(Node, node_id).credential_hash).status_code == 401


def test_a_node_that_has_ended(door: Door) -> None:
    node_id, credential = door.ready()
    door.store.job(1)
    door.store.write(lambda tx: leaving.at_once(tx, node_id, "operator", "by the test"))
    assert door.sync(credential, free=1).json()["orders"] == [], "leaving: nothing new is given to it"
    door.store.write(lambda tx: leaving.ended(tx, node_id, "by the test"))
    for _ in range(2):
        assert door.sync(credential, free=1).status_code == 410, "its agent powers the machine off"


# ---- results ---------------------------------------------------------------------------------------------------------


def test_a_replayed_result_changes_nothing(door: Door) -> None:
    _, credential = door.ready()
    job_id, (attempt,) = door.claimed(credential)
    before = ended(attempt, started_at=1000.0, finished_at=1001.0)
    assert door.sync(credential, results=[before]).json()["acknowledged"] == [attempt]
    rows = [door.store.rows(model) for model in (Job, Task, Attempt, Event)]
    assert door.store.state(Job, job_id) == "succeeded"
    for replay in (before, ended(attempt, 1), ended(attempt, outcome="lost", exit_code=None)):
        answer = door.sync(credential, known=[attempt], results=[replay, replay])
        assert answer.json()["acknowledged"] == [attempt, attempt], "so that the agent stops asking"
    assert [door.store.rows(model) for model in (Job, Task, Attempt, Event)] == rows
    door.store.check_counters()


def test_a_result_for_another_node_s_attempt(door: Door) -> None:
    _, owner = door.ready()
    thief_id, thief = door.ready()
    job_id, (attempt,) = door.claimed(owner)
    answer = door.sync(thief, results=[ended(attempt), ended(4711)])
    assert answer.status_code == 200
    assert door.store.state(Attempt, attempt) == "running" and door.store.state(Job, job_id) == "running"
    for refused in (attempt, 4711):
        (event,) = door.events(f"a result for attempt {refused} was refused")
        assert event.node_id == thief_id
    door.sync(owner, results=[ended(attempt)])
    assert door.store.state(Job, job_id) == "succeeded"


def test_a_result_that_comes_after_the_attempt_was_given_up(door: Door) -> None:
    """Its task is queued again by then: what the old attempt says is kept, and counts for nothing."""
    node_id, credential = door.ready()
    job_id, (old,) = door.claimed(credential)
    door.store.write(lambda tx: lose_attempts(tx, node_id, "by the test"))
    answer = door.sync(credential, known=[old], free=0).json()
    assert answer["stop"] == [{"attempt": old, "why": "fenced"}]
    assert door.sync(credential, known=[old], results=[ended(old, 3)]).json()["acknowledged"] == [old]
    assert door.store.state(Attempt, old) == "late"
    assert door.store.state(Job, job_id) == "running" and door.store.task_states(job_id) == {"t0": "queued"}
    (order,) = door.sync(credential, free=1).json()["orders"]
    assert order["attempt"] != old
    door.sync(credential, results=[ended(order["attempt"])])
    assert door.store.state(Job, job_id) == "succeeded"


@pytest.mark.parametrize(
    "wrong",
    [
        {"outcome": "succeeded"},
        {"exit_code": 1 << 40},
        {"attempt": -1},
        {"attempt": 1 << 63},
        {"detail": "x" * 2001},
        {"finished_at": -1},
        {"finished_at": 1e300},
    ],
    ids=str,
)
def test_a_result_without_sense(wrong: Json, door: Door) -> None:
    _, credential = door.ready()
    job_id, (attempt,) = door.claimed(credential)
    assert door.sync(credential, results=[ended(attempt) | wrong]).status_code == 422
    assert door.store.state(Job, job_id) == "running"


def test_a_detail_that_no_database_can_hold_holds_nothing_up(door: Door) -> None:
    _, credential = door.ready()
    _, (attempt,) = door.claimed(credential)
    detail = {"outcome": "start_failed", "exit_code": None, "detail": "a\0b"}
    assert door.sync(credential, results=[ended(attempt) | detail]).json()["acknowledged"] == [attempt]
    assert door.events("a␀b")


# ---- the control file ------------------------------------------------------------------------------------------------


def test_a_job_s_control_file_brings_its_next_try_and_its_params(door: Door) -> None:
    _, credential = door.ready()
    job_id, (attempt,) = door.claimed(credential, retry={"attempts": 3, "delay": "1h"}, params={"FROM": "0", "KEPT": "yes"})
    asked = {"retry_after_s": 0.0, "params": {"FROM": "1200", "ORCHESTRATOR_TOKEN": "forged"}}
    door.sync(credential, results=[ended(attempt, 75, control=asked)])
    (order,) = door.sync(credential, free=1).json()["orders"]
    assert (order["env"]["FROM"], order["env"]["KEPT"]) == ("1200", "yes")
    assert order["env"]["ORCHESTRATOR_TOKEN"] == "", "what the orchestrator says of the attempt is not the job's to say"
    door.sync(credential, results=[ended(order["attempt"], 75, control={"retry_after_s": 0.0})])
    (order,) = door.sync(credential, free=1).json()["orders"]
    assert order["env"]["FROM"] == "1200", "until another attempt asks for others"
    (event,) = door.events("with its own FROM")
    assert "attempt 2 of 3 at once, as it asked" in event.reason and event.job_id == job_id


@pytest.mark.parametrize(
    "control",
    [
        {"retry_after_s": -1},
        {"retry_after_s": "soon"},
        {"params": {"A B": "x"}},
        {"params": {"A": "x\0"}},
        {"params": {"A": 1}},
        {"params": {f"N{i}": "" for i in range(1001)}},
        {"trouble": "x" * 5000},
        "never",
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_control_file_that_makes_no_sense_holds_no_result_up(control: Any, door: Door) -> None:
    _, credential = door.ready()
    job_id, (attempt,) = door.claimed(credential)
    assert door.sync(credential, results=[ended(attempt, 3, control=control)]).json()["acknowledged"] == [attempt]
    (task,) = door.store.rows(Task, job_id=job_id)
    assert (task.state, task.params) == ("failed", None)
    assert "its control file was not understood by the master, and counts for nothing" in task.reason


# ---- artifacts -------------------------------------------------------------------------------------------------------


def send(door: Door, credential: str, attempt: int, path: str, data: bytes, offset: int = 0, **said: Any) -> Any:
    """One piece of a file whose whole content is `data`, from `offset` on, unless something else is said of it."""
    about = {"attempt": attempt, "path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    about |= {"offset": offset, **{key: value for key, value in said.items() if key != "piece"}}
    piece = said.get("piece", data[offset:])
    headers = {"Authorization": f"Bearer {credential}"}
    return door.client.post("/agent/v1/artifact", params=about, content=piece, headers=headers)


def declared(door: Door, credential: str) -> tuple[int, int]:
    """A job with artifacts whose one task this node has taken, and the attempt."""
    job = door.store.submit({"name": "job", "client": "acme", "run": "true", "artifacts": ["**"]})
    (order,) = door.sync(credential, free=1).json()["orders"]
    assert order["artifacts"] == {"patterns": ["**"], "on": "success"}
    return job, order["attempt"]


def stored(door: Door) -> list[tuple[int, str, int]]:
    return [(row.attempt_id, row.path, row.size) for row in door.store.rows(Artifact)]


def test_a_file_in_pieces_repeated_and_out_of_order(door: Door) -> None:
    _, credential = door.ready()
    _, attempt = declared(door, credential)
    data = bytes(range(200))
    assert send(door, credential, attempt, "a/b", data, piece=data[:50]).json() == {"offset": 50, "stored": False}
    assert send(door, credential, attempt, "a/b", data, 120).json() == {"offset": 50, "stored": False}, "a gap"
    assert send(door, credential, attempt, "a/b", data, 20, piece=data[20:90]).json()["offset"] == 90, "an overlap"
    assert send(door, credential, attempt, "a/b", data, 90).json() == {"offset": 200, "stored": True}
    assert send(door, credential, attempt, "a/b", data).json() == {"offset": 200, "stored": True}, "its answer was lost"
    assert stored(door) == [(attempt, "a/b", 200)]
    assert send(door, credential, attempt, "a/b", data[::-1]).json()["stored"], "written anew by its task"
    assert b"".join(door.files.read(attempt, "a/b")) == data[::-1] and len(stored(door)) == 1


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../up", "a/../../b", "a//b", ".", "..", "a\nb", "a\\b", "a\0", "x" * 501, ""]
)
def test_a_path_that_is_none(door: Door, path: str) -> None:
    _, credential = door.ready()
    _, attempt = declared(door, credential)
    assert send(door, credential, attempt, path, b"x").status_code == 422
    assert stored(door) == [] and not list(door.folder.glob("**/*passwd*"))


def test_artifacts_are_only_the_node_s_own_and_only_declared_ones(door: Door) -> None:
    _, owner = door.ready()
    _, thief = door.ready()
    _, attempt = declared(door, owner)
    _, other = door.ready()
    _, (plain,) = door.claimed(other)
    assert send(door, thief, attempt, "a", b"forged").status_code == 403
    assert send(door, "no such credential" * 3, attempt, "a", b"x").status_code == 401
    assert send(door, owner, 4711, "a", b"x").status_code == 403
    assert "declares no artifacts" in send(door, other, plain, "a", b"x").json()["error"]
    door.sync(owner, results=[ended(attempt, artifacts={"told": "1 artifact(s)", "whole": True})])
    assert send(door, owner, attempt, "late", b"x").status_code == 410, "its result is taken"
    assert stored(door) == [] and door.events("refused: attempt")


def test_limits_are_kept_whatever_an_agent_claims(door: Door) -> None:
    """1,000 bytes a file and 1,500 an attempt; one file of an attempt is under way at a time."""
    _, credential = door.ready()
    _, attempt = declared(door, credential)
    assert "artifact_limit_mb" in send(door, credential, attempt, "big", b"x" * 1001, piece=b"").json()["error"]
    assert send(door, credential, attempt, "lied", b"x" * 900, size=10).status_code == 422
    assert send(door, credential, attempt, "a", b"x" * 900).json()["stored"]
    refused = send(door, credential, attempt, "b", b"x" * 700)
    assert refused.status_code == 413 and "artifacts_limit_mb" in refused.json()["error"]
    for number in range(20):
        send(door, credential, attempt, f"begun-{number}", b"y" * 600, piece=b"y" * 500)
    assert sum(file.stat().st_size for file in (door.folder / "uploads").iterdir()) == 500
    damaged = send(door, credential, attempt, "damaged", b"z" * 100, sha256="0" * 64)
    assert damaged.status_code == 409 and "changed" in damaged.json()["error"]
    too_long = send(door, credential, attempt, "c", b"", piece=b"x" * (LARGEST_PIECE + 1))
    assert too_long.status_code == 413
    assert stored(door) == [(attempt, "a", 900)]


def test_a_success_without_a_word_of_its_artifacts_is_none(door: Door) -> None:
    """Of an agent of the version before: better a failure that says so than files which are missed later."""
    _, credential = door.ready()
    job, attempt = declared(door, credential)
    door.sync(credential, results=[ended(attempt)])
    (task,) = door.store.rows(Task, job_id=job)
    assert task.state == "failed" and "its agent is too old to upload artifacts" in task.reason


# ---- logs ------------------------------------------------------------------------------------------------------------


def test_a_log_over_the_limit_is_cut_there_and_the_task_still_ends(door: Door) -> None:
    node_id, credential = door.ready()
    job_id, (attempt,) = door.claimed(credential)
    data = bytes(i % 251 for i in range(LOG_LIMIT + 500))
    assert door.sync(credential, logs=[chunk(attempt, data[:900])]).json()["logs"] == [{"attempt": attempt, "offset": 900}]
    for _ in range(3):
        answer = door.sync(credential, logs=[chunk(attempt, data[900:], 900)]).json()
        assert answer["logs"] == [{"attempt": attempt, "offset": NO_MORE}]
    assert door.sync(credential, logs=[chunk(attempt, b"far beyond", 1 << 40)]).status_code == 200
    assert door.logs.read(attempt, 0, 1 << 20) == data[:LOG_LIMIT]
    (event,) = door.events(f"log of attempt {attempt} is over 0.001 MB")
    assert (event.node_id, event.attempt_id) == (node_id, attempt)
    door.sync(credential, results=[ended(attempt, log_size=len(data))])
    assert door.store.state(Job, job_id) == "succeeded"


def test_a_log_of_exactly_the_limit_is_whole(door: Door) -> None:
    _, credential = door.ready()
    _, (attempt,) = door.claimed(credential)
    answer = door.sync(credential, logs=[chunk(attempt, b"x" * LOG_LIMIT)]).json()
    assert answer["logs"] == [{"attempt": attempt, "offset": LOG_LIMIT}]
    assert not door.events("is over")


def test_a_log_of_somebody_else_s_attempt(door: Door) -> None:
    _, owner = door.ready()
    thief_id, thief = door.ready()
    _, (attempt,) = door.claimed(owner)
    door.sync(owner, logs=[chunk(attempt, b"mine")])
    answer = door.sync(thief, logs=[chunk(attempt, b"forged", 4), chunk(4711, b"none such")]).json()
    assert {item["offset"] for item in answer["logs"]} == {NO_MORE}
    assert door.logs.read(attempt) == b"mine" and door.logs.read(4711) == b""
    for _ in range(20):
        door.sync(thief, logs=[chunk(attempt, b"forged", 4)])
    (event,) = door.events("refused: it is not of this node")
    assert event.node_id == thief_id and f"attempt {attempt}" in event.reason, "the first of a minute is on record"
    door.store.clock.move(61)
    door.sync(thief, logs=[chunk(attempt, b"forged", 4)])
    assert len(door.events("refused: it is not of this node")) == 2


def test_repeated_and_misplaced_chunks(door: Door) -> None:
    _, credential = door.ready()
    _, (attempt,) = door.claimed(credential)
    for offset, data, then in [(0, b"abc", 3), (0, b"abc", 3), (1, b"bcde", 5), (9, b"xyz", 5), (0, b"ABCDEF", 6)]:
        answer = door.sync(credential, logs=[chunk(attempt, data, offset)]).json()
        assert answer["logs"] == [{"attempt": attempt, "offset": then}]
    assert door.logs.read(attempt) == b"abcdeF", "what is there is never written over"


def test_a_log_that_is_not_base64(door: Door) -> None:
    _, credential = door.ready()
    _, (attempt,) = door.claimed(credential)
    answer = door.sync(credential, logs=[{"attempt": attempt, "offset": 0, "data": "!!!"}])
    assert answer.status_code == 200 and door.logs.read(attempt) == b""
    assert door.events("not base64")


# ---- size and shape --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["enrol", "sync"])
@pytest.mark.parametrize("claimed", [True, False], ids=["with its length", "in chunks"])
def test_an_oversized_call(path: str, claimed: bool, door: Door) -> None:
    _, credential = door.ready()

    def parts() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * (1 << 18)

    content = b" " * (LARGEST_BODY + 1) if claimed else parts()
    answer = door.client.post(f"/agent/v1/{path}", content=content, headers={"Authorization": f"Bearer {credential}"})
    assert answer.status_code == 413
    assert str(LARGEST_BODY) in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"free": "many"}', b"\xff", b'{"known": [0]}'])
def test_a_call_without_sense(body: bytes, door: Door) -> None:
    _, credential = door.ready()
    answer = door.client.post("/agent/v1/sync", content=body, headers={"Authorization": f"Bearer {credential}"})
    assert answer.status_code == 422 and answer.json()["error"]


def test_more_at_once_than_a_call_may_carry(door: Door) -> None:
    _, credential = door.ready()
    for message in ({"known": [1] * 1001}, {"free": 1001}, {"wait_s": 61}, {"results": [ended(1)] * 1001}):
        assert door.sync(credential, **message).status_code == 422


# ---- what is told once -----------------------------------------------------------------------------------------------


def test_a_poll_that_knows_of_the_drain_and_the_stop_waits_for_more(door: Door) -> None:
    """The two are said at each call; a node that takes its time must not call without end for that."""
    node_id, credential = door.ready()
    job_id, (attempt,) = door.claimed(credential)
    door.store.cancel(job_id)
    door.store.write(lambda tx: leaving.begin(tx, node_id, "operator", "by the test"))
    told = door.sync(credential, known=[attempt], wait_s=30).json()
    assert told["draining"] and told["stop"] == [{"attempt": attempt, "why": "cancelled"}]
    began = time.monotonic()
    again = door.sync(credential, known=[attempt], stopping=[attempt], draining=True, wait_s=0.3).json()
    assert time.monotonic() - began >= 0.3
    assert again == told
