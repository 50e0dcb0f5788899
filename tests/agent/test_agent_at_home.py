"""Real agents, of this protocol and the one before, at a real master; lines that break; machines that are taken back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fake_master import AgentBox, FakeMaster, until
from real_master import RealMaster, real_master
from test_agent_process import lines, pids_of

from orchestrator.model.states import NodeState
from orchestrator.model.tables import Attempt, Event, Node

pytestmark = pytest.mark.parametrize("store", ["sqlite"], indirect=True)
Boot = Callable[[Path], tuple[int, AgentBox]]

DOCS = Path(__file__).resolve().parents[2] / "docs"
BEFORE = Path(__file__).resolve().parents[1] / "data" / "agent-protocol-1.pyz"
"""The agent as it was released before protocol 2, byte for byte."""


@pytest.fixture
def home(store: Any, tmp_path: Path) -> Iterator[RealMaster]:
    with real_master(store, tmp_path) as master:
        yield master


@pytest.fixture
def boot(home: RealMaster) -> Iterator[Boot]:
    """A machine that is up and whose node is ready."""
    boxes: list[AgentBox] = []

    def make(pyz: Path) -> tuple[int, AgentBox]:
        node_id, box = home.machine(pyz)
        boxes.append(box)
        box.start()
        home.ready(node_id)
        return node_id, box

    yield make
    for box in boxes:
        box.close()


@pytest.fixture(params=["protocol 1", "protocol 2"])
def agent_pyz(request: pytest.FixtureRequest, pyz: Path) -> Path:
    return BEFORE if request.param == "protocol 1" else pyz


# ---- this protocol and the one before --------------------------------------------------------------------------------


def test_agents_of_both_protocols_work_end_and_go(home: RealMaster, boot: Boot, agent_pyz: Path, tmp_path: Path) -> None:
    store = home.store
    node_id, box = boot(agent_pyz)
    good = store.submit({"name": "good", "client": "acme", "run": "echo hello; echo $FROM", "params": {"FROM": "x"}})
    bad = store.submit({"name": "bad", "client": "acme", "run": "exit 3", "retry": {"attempts": 2}})
    slow = store.submit({"name": "slow", "client": "acme", "run": "sleep 60", "timeout": {"after": 0.3, "grace": 5}})
    loud = store.submit({"name": "loud", "client": "acme", "run": "head -c 400000 /dev/zero"})
    assert home.finished(good).state == "succeeded" and home.log(good) == b"hello\nx\n"
    assert (home.finished(bad).state, home.task(bad).job_failures) == ("failed", 2)
    assert "over its time limit, ended by TERM" in home.finished(slow).reason
    assert home.finished(loud).state == "succeeded" and len(home.log(loud)) == 200_000
    long = store.submit({"name": "long", "client": "acme", "run": "echo up; sleep 86400"})
    until(lambda: home.log(long) == b"up\n")
    store.cancel(long)
    assert home.finished(long).state == "cancelled"
    store.force(Node, node_id, state=NodeState.TERMINATED)
    assert box.wait() == 0 and box.is_off
    assert not [event.reason for event in store.rows(Event) if "of this node" in event.reason]


def test_the_agent_before_survives_an_outage_of_a_newer_master(home: RealMaster, boot: Boot, tmp_path: Path) -> None:
    """The upgrade itself: the master goes, and comes back speaking more than the agent does."""
    _, box = boot(BEFORE)
    job = home.store.submit(
        {"name": "job", "client": "acme", "run": f"echo up; until [ -e {tmp_path}/go ]; do sleep 0.02; done"}
    )
    until(lambda: home.log(job) == b"up\n")
    home.line.cut()
    box.kill9()
    (tmp_path / "go").touch()
    home.line.mend()
    box.start()
    assert home.finished(job).state == "succeeded", "lost with its agent, and tried again on it"
    assert home.task(job).infrastructure_failures == 1


# ---- broken lines ----------------------------------------------------------------------------------------------------


def test_work_goes_on_behind_a_broken_line_and_counts_once(home: RealMaster, boot: Boot, pyz: Path, tmp_path: Path) -> None:
    _, box = boot(pyz)
    run = f"echo ran >> {tmp_path}/ran; echo begun; until [ -e {tmp_path}/go ]; do sleep 0.02; done; echo done"
    jobs = [home.store.submit({"name": f"job-{i}", "client": "acme", "run": run}) for i in range(2)]
    until(lambda: all(home.log(job) == b"begun\n" for job in jobs))
    home.line.cut()
    (tmp_path / "go").touch()
    until(lambda: box.state("journal").read_bytes().count(b'["end",') == 2)
    assert [home.task(job).state for job in jobs] == ["running", "running"]
    home.line.mend()
    for job in jobs:
        assert home.finished(job).state == "succeeded" and home.log(job) == b"begun\ndone\n"
    assert lines(tmp_path / "ran") == ["ran", "ran"]
    assert all(home.task(job).attempts == 1 for job in jobs)


def test_a_node_given_up_that_comes_back_is_stopped_and_its_result_is_late(
    home: RealMaster, boot: Boot, pyz: Path, tmp_path: Path
) -> None:
    mark = f"86400.{box_mark(tmp_path)}"
    store = home.store
    old_id, old = boot(pyz)
    run = f"echo begun >> {tmp_path}/ran; (setsid sleep {mark} &) ; sleep {mark}"
    job = store.submit({"name": "job", "client": "acme", "run": run, "timeout": {"after": "1h", "grace": 1}})
    until(lambda: len(pids_of(mark)) == 2)
    home.line.cut()
    home.pass_time(16)
    assert (store.one(Node, old_id).end_reason, home.task(job).state) == ("lost", "queued")
    assert len(pids_of(mark)) == 2, "it knows nothing of this yet"
    home.line.mend()
    (first,) = store.rows(Attempt)
    until(lambda: store.state(Attempt, first.id) == "late", 30)
    assert not pids_of(mark), "its processes are ended, the one in a session of its own too"
    task = home.task(job)
    assert (task.state, task.job_failures, task.infrastructure_failures) == ("queued", 0, 1)
    store.force(Node, old_id, state=NodeState.TERMINATED)
    assert old.wait() == 0 and old.is_off
    _, _ = boot(pyz)
    until(lambda: len(lines(tmp_path / "ran")) == 2)
    assert home.task(job).attempts == 2


def box_mark(folder: Path) -> str:
    return str(abs(hash(str(folder))))[:9]


@pytest.mark.parametrize("silence_s", [15, 30, 90, 600])
def test_no_pause_of_the_agent_outlasts_the_master_s_patience(silence_s: int, agent: Any, store: Any) -> None:
    """Whatever its line does: from its last word to its next one, or from the line's mending on."""
    where = agent.calls.Master("http://127.0.0.1:1", "")
    uplink = agent.uplink.Uplink(where, silence_s)
    longest_pause_s = uplink._longest_pause_s * 1.5
    assert uplink.wait_s + uplink._answer_s + 0.3 < silence_s, "a line that died without a word while a call waited"
    assert where.connect_s + longest_pause_s < silence_s * 0.7, "and one that was dead for long"
    assert uplink.wait_s <= silence_s / 3, "an idle node is heard of thrice in that time"


# ---- a machine that is taken back ------------------------------------------------------------------------------------


class Metadata:
    """EC2's instance metadata service (IMDSv2) as far as an interruption goes."""

    def __init__(self) -> None:
        self.notice: str | None = None
        self.tokens: list[str] = []
        self.asked = 0
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
                service.tokens.append(f"token-{len(service.tokens)}")
                self._say(200, service.tokens[-1])

            def do_GET(self) -> None:
                service.asked += 1
                if self.headers["X-aws-ec2-metadata-token"] not in service.tokens[-1:]:
                    self._say(401, "")
                elif self.path == "/latest/meta-data/spot/instance-action" and service.notice:
                    self._say(200, json.dumps({"action": "terminate", "time": service.notice}))
                else:
                    self._say(404, "<html>not found</html>")

            def _say(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    service = Metadata()
    yield service
    service.close()


def test_a_machine_that_is_taken_back_drains_and_ends_what_it_runs(
    home: RealMaster, metadata: Metadata, pyz: Path, tmp_path: Path
) -> None:
    store = home.store
    node_id, box = home.machine(pyz)
    box.config["watch_interruption"] = True
    box.environment["ORCHESTRATOR_IMDS"] = metadata.url
    try:
        box.start()
        home.ready(node_id)
        job = store.submit({"name": "job", "client": "acme", "run": f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"})
        until(lambda: metadata.asked and home.task(job).state == "running")
        metadata.tokens.append("another")  # the token that it has is worth nothing any more
        metadata.notice = "2026-03-02T08:02:00Z"
        until(lambda: store.state(Node, node_id) == NodeState.DRAINING, 30)
        node = store.one(Node, node_id)
        assert node.end_reason == "reclaimed" and node.reclaim_at.isoformat() == "2026-03-02T08:02:00+00:00"
        later = store.submit({"name": "later", "client": "acme", "run": "echo not here"})
        (tmp_path / "go").touch()
        assert home.finished(job).state == "succeeded"
        until(lambda: store.state(Node, node_id) == NodeState.TERMINATING)
        assert home.task(later).attempts == 0
        asked = metadata.asked
        assert "takes this machine back at 08:02:00" in box.said
        assert metadata.asked == asked, "once known it is not asked again"
    finally:
        box.close()


def test_a_machine_without_a_metadata_service_works_all_the_same(store: Any, machine: AgentBox, master: FakeMaster) -> None:
    machine.config["watch_interruption"] = True
    machine.environment["ORCHESTRATOR_IMDS"] = "http://127.0.0.1:1"
    master.order(1, "echo hello")
    machine.start()
    assert master.result(1)["exit_code"] == 0
    until(lambda: any("health" in sync for sync in master.syncs))
    assert not any("reclaim_at" in sync for sync in master.syncs)
