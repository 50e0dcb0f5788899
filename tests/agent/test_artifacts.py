"""Artifacts: what of a work folder is taken, how it goes up, and that a result never comes before its files."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_master import AgentBox, until
from hypothesis import given
from hypothesis import strategies as st
from real_master import Line, RealMaster, real_master

from orchestrator.agents.artifacts import is_safe
from orchestrator.files.s3 import Bucket, S3Files, S3Logs
from orchestrator.fleet import leaving
from orchestrator.model.states import NodeState
from orchestrator.model.tables import Artifact, Attempt, Node

# ---- what of a work folder is taken ----------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for path in ("a.csv", "b.txt", "out/c.csv", "out/deep/d.csv", ".hidden.csv", ".orchestrator-control"):
        place = tmp_path / "work" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(path)
    return tmp_path / "work"


def collect(agent: SimpleNamespace, work: Path, *patterns: str) -> tuple[list[str], list[str]]:
    found, troubles = agent.artifacts.collect(str(work), list(patterns))
    return sorted(found), troubles


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        (["*.csv"], [".hidden.csv", "a.csv"]),
        (["**/*.csv"], [".hidden.csv", "a.csv", "out/c.csv", "out/deep/d.csv"]),
        (["out/**"], ["out/c.csv", "out/deep/d.csv"]),
        (["out/*"], ["out/c.csv"]),
        (["out"], []),
        (["**"], [".hidden.csv", "a.csv", "b.txt", "out/c.csv", "out/deep/d.csv"]),
        (["?.txt", "a.csv", "[ab].*"], ["a.csv", "b.txt"]),
        (["out/**/**/d.csv"], ["out/deep/d.csv"]),
        (["none*"], []),
    ],
)
def test_patterns(agent: SimpleNamespace, work: Path, patterns: list[str], wanted: list[str]) -> None:
    assert collect(agent, work, *patterns) == (wanted, [])


def test_nothing_outside_the_work_folder_is_taken(agent: SimpleNamespace, work: Path) -> None:
    """Links to files within are files; links out of it, devices, pipes and sockets are named, and never read."""
    (work.parent / "secret").write_text("secret")
    (work / "within.csv").symlink_to("out/c.csv")
    (work / "folder.csv").symlink_to("out")
    (work / "out.csv").symlink_to(work.parent / "secret")
    (work / "up.csv").symlink_to("../secret")
    (work / "dangling.csv").symlink_to("nowhere")
    (work / "device.csv").symlink_to("/dev/zero")
    (work / "proc.csv").symlink_to("/proc/self/environ")
    (work / "escape").symlink_to(work.parent)
    os.mkfifo(work / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(work)
        listener.bind("socket.csv")
        os.chdir(here)
        found, troubles = collect(agent, work, "*.csv", "escape/**")
    assert found == [".hidden.csv", "a.csv", "within.csv"]
    named = {trouble.split("'")[1] for trouble in troubles}
    assert named == {"out.csv", "up.csv", "dangling.csv", "device.csv", "proc.csv", "pipe.csv", "socket.csv", "escape"}
    assert sum("leads out of the work folder" in trouble for trouble in troubles) == 5


def test_a_folder_that_became_a_link_is_noticed_once_the_file_is_open(agent: SimpleNamespace, work: Path) -> None:
    (work.parent / "elsewhere").mkdir()
    (work.parent / "elsewhere" / "c.csv").write_text("another's")
    assert collect(agent, work, "out/c.csv") == (["out/c.csv"], [])
    (work / "out").rename(work / "was")
    (work / "out").symlink_to(work.parent / "elsewhere")
    with pytest.raises(ValueError, match="leads out"):
        agent.artifacts.open_within(str(work), "out/c.csv")


def test_names_that_cannot_be_told_are_named_as_such(agent: SimpleNamespace, work: Path) -> None:
    (work / "line\nfeed.csv").touch()
    (Path(os.fsdecode(os.fsencode(str(work)) + b"/\xff.csv"))).touch()
    found, troubles = collect(agent, work, "*.csv")
    assert found == [".hidden.csv", "a.csv"] and len(troubles) == 2
    assert all(trouble.isprintable() and trouble.isascii() for trouble in troubles)


@given(st.lists(st.text(alphabet="ab.*", min_size=1, max_size=4), min_size=1, max_size=5), st.data())
def test_two_stars_are_any_number_of_parts(agent: SimpleNamespace, parts: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(parts)))
    literal = [part.replace("*", "[*]") for part in parts]
    assert agent.artifacts.matches(parts, literal[:cut] + ["**"] * data.draw(st.integers(1, 30)) + literal[cut:])
    assert agent.artifacts.matches(parts, ["**", literal[-1]])
    assert not agent.artifacts.matches(parts, [*literal, "c"])


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../a", "a/../../b", "a//b", "a/", ".", "", "a\\..\\b", "a\nb", "a\0b", "\ud800", "ü" * 501]
)
def test_the_master_takes_no_path_that_leads_anywhere_else(path: str) -> None:
    assert not is_safe(path)
    assert is_safe("a/b c/ü…/.hidden")


# ---- from a real agent to the master's real endpoints ----------------------------------------------------------------


@pytest.fixture
def real(store: Any, tmp_path: Path) -> Iterator[RealMaster]:
    with real_master(store, tmp_path) as master:
        yield master


@pytest.fixture
def box(real: RealMaster, pyz: Path) -> Iterator[AgentBox]:
    _, made = real.machine(pyz)
    yield made.start()
    made.close()


def kept(real: RealMaster, job: int) -> dict[str, bytes]:
    """Paths and contents; each is what its row says of it."""
    found = {}
    for row in real.store.rows(Artifact, job_id=job):
        content = b"".join(real.files.read(row.attempt_id, row.path))
        assert (row.size, row.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        found[row.path] = content
    return found


def submit(real: RealMaster, run: str, *patterns: str, **more: Any) -> int:
    document = {"name": "job", "client": "acme", "run": run, "artifacts": list(patterns), **more}
    return int(real.store.submit(document))


def test_declared_files_are_kept_with_the_result(real: RealMaster, box: AgentBox) -> None:
    job = submit(real, "mkdir out; printf 1 > a.csv; printf 22 > 'out/b ü.csv'; : > empty.csv; echo x > other", "**/*.csv")
    task = real.finished(job)
    assert (task.state, task.reason) == ("succeeded", "exit status 0, 3 artifact(s)")
    assert kept(real, job) == {"a.csv": b"1", "out/b ü.csv": b"22", "empty.csv": b""}
    until(lambda: not list(box.state("work").glob("[0-9]*")))
    assert not list(box.state().glob("upload-*")), "nothing of it stays on the machine"


def test_a_large_file_comes_whole_over_a_line_that_breaks(real: RealMaster, box: AgentBox) -> None:
    job = submit(real, "echo begun; head -c 999999 /dev/urandom > big; sha256sum big", "big")
    until(lambda: b"begun" in real.log(job))
    for _ in range(5):
        real.line.cut()
        real.line.mend()
    assert real.finished(job).state == "succeeded"
    content = kept(real, job)["big"]
    assert real.log(job).split()[1].decode() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ("head -c 1000001 /dev/zero > big", "big was refused: it has 1000001 bytes, over artifact_limit_mb (1 MB)"),
        ("for i in 1 2 3; do head -c 900000 /dev/zero > $i; done", "would be over artifacts_limit_mb (2 MB)"),
        ("ln -s /etc/passwd stolen", "artifact 'stolen' is a link that leads out of the work folder"),
    ],
)
def test_a_task_whose_artifacts_cannot_be_kept_fails_and_says_why(
    real: RealMaster, box: AgentBox, run: str, told: str
) -> None:
    job = submit(real, run, "*")
    task = real.finished(job)
    assert task.state == "failed" and task.exit_code == 0
    assert task.reason.startswith("exit status 0, but artifact ") and told in task.reason
    assert b"root:" not in b"".join(kept(real, job).values())


@pytest.mark.parametrize(
    ("on", "code", "wanted"),
    [("success", 0, 1), ("success", 1, 0), ("failure", 0, 0), ("failure", 1, 1), ("always", 0, 1), ("always", 1, 1)],
)
def test_after_which_end_files_are_kept(real: RealMaster, box: AgentBox, on: str, code: int, wanted: int) -> None:
    job = submit(real, f"echo core > dump; exit {code}", "dump", artifacts_on=on)
    task = real.finished(job)
    assert task.state == ("failed" if code else "succeeded"), "a failure stays what it was"
    assert len(kept(real, job)) == wanted
    assert ("1 artifact(s)" in task.reason) == bool(wanted)


def test_no_match_is_said_and_fails_nothing(real: RealMaster, box: AgentBox) -> None:
    task = real.finished(submit(real, "true", "*.csv"))
    assert (task.state, task.reason) == ("succeeded", "exit status 0, no file matches its artifacts")


def test_a_retried_task_has_the_files_of_each_try(real: RealMaster, box: AgentBox) -> None:
    run = "echo $ORCHESTRATOR_ATTEMPT > n; exit $((2 - ORCHESTRATOR_ATTEMPT))"
    job = submit(real, run, "n", artifacts_on="always", retry={"attempts": 2})
    assert real.finished(job).state == "succeeded"
    assert [b"".join(real.files.read(row.attempt_id, "n")) for row in real.store.rows(Artifact)] == [b"1\n", b"2\n"]


def test_a_node_that_drains_is_not_ended_before_its_artifacts_are_up(real: RealMaster, pyz: Path) -> None:
    """The attempt lives until its result is taken, and its result comes after its files: the drain waits for them."""
    node, box = real.machine(pyz)
    box.start()
    try:
        job = submit(real, "head -c 900000 /dev/zero > big; echo the last line", "big")
        until(lambda: b"the last line" in real.log(job))
        real.store.write(lambda tx: leaving.begin(tx, node, "operator", "by hand"))
        seen = []

        def over() -> bool:
            state = real.store.state(Node, node)
            seen.append((state, real.task(job).state, len(real.store.rows(Artifact, job_id=job))))
            return bool(state == NodeState.TERMINATING)

        until(over, 30)
        assert all(files == 1 and task == "succeeded" for state, task, files in seen if state == NodeState.TERMINATING)
        assert real.log(job) == b"the last line\n" and len(kept(real, job)["big"]) == 900_000
    finally:
        box.close()


def test_nothing_is_acknowledged_before_the_store_elsewhere_has_it(store: Any, s3: Any, pyz: Path, tmp_path: Path) -> None:
    """While it cannot be reached, log, artifacts and result stay on their machine; afterwards all of them are there."""
    line = Line(int(s3.meta.endpoint_url.rpartition(":")[2]))
    bucket = Bucket("kept", f"{tmp_path.name}/", f"http://127.0.0.1:{line.port}")
    with real_master(store, tmp_path, kept=(S3Logs(bucket, 200_000), S3Files(bucket))) as real:
        _, box = real.machine(pyz)
        box.start()
        try:
            go = tmp_path / "go"
            job = submit(real, f"echo begun; while [ ! -e {go} ]; do sleep 0.1; done; echo the end; echo 1 > a", "a")
            until(lambda: b"begun" in real.log(job))
            line.cut()
            go.touch()
            until(lambda: "does not do it" in box.said)
            assert real.task(job).state == "running"
            line.mend()
            assert real.finished(job).state == "succeeded"
            assert real.log(job) == b"begun\nthe end\n" and kept(real, job) == {"a": b"1\n"}
            listed = lambda: s3.list_objects_v2(Bucket="kept", Prefix=f"{tmp_path.name}/logs/")["KeyCount"]  # noqa: E731
            until(lambda: listed() == 1)
        finally:
            box.close()
            line.close()


def test_a_cancelled_job_does_not_wait_for_its_artifacts(real: RealMaster, box: AgentBox) -> None:
    job = submit(real, "truncate -s 900000 big; echo begun; sleep 60", "big", artifacts_on="always")
    until(lambda: b"begun" in real.log(job))
    real.store.cancel(job)
    assert real.finished(job).state == "cancelled"
    assert kept(real, job) == {}


def test_an_agent_that_dies_while_it_uploads_leaves_no_upload_behind(real: RealMaster, box: AgentBox) -> None:
    job = submit(real, "head -c 900000 /dev/urandom > big; echo begun", "big", retry={"infrastructure_attempts": 3})
    until(lambda: b"begun" in real.log(job))
    box.kill9()
    box.start()
    assert real.finished(job).state == "succeeded"
    assert len(kept(real, job)) == 1
    last = max(row.id for row in real.store.rows(Attempt))
    assert [row.attempt_id for row in real.store.rows(Artifact)][-1] == last
