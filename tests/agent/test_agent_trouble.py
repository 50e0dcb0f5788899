"""A machine in trouble: full disks, runaway output, an engine that cannot start anything. Nothing is lost, all is said."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_master import AgentBox, FakeMaster, Json, until
from test_agent_parts import data, order, result, state

# ---- output over the limit -------------------------------------------------------------------------------------------


def test_over_the_limit_the_middle_is_dropped_and_counted(agent: SimpleNamespace, tmp_path: Path) -> None:
    path, limit = tmp_path / "log", 1000
    tail = agent.logtail.LogTail(str(path), limit)
    written = b""

    def write(text: bytes) -> None:
        nonlocal written
        written += text
        job.write(text)

    with path.open("ab", buffering=0) as job:
        write(b"begins" + b"a" * 984)
        tail.look()
        assert data(tail.chunks(1, [5000])) == written[: len(data(tail.chunks(1, [5000])))], "the beginning, as it comes"
        for number in range(20):
            write(b"%d" % number * 777)
            assert tail.look() <= limit + 250 and path.stat().st_size <= limit + 250
            live = data(tail.chunks(1, [5000]))
        assert live.endswith(agent.logtail.CUT), "who follows hears of it at once"
        write(b"z" * 5000 + b"the end")
        assert tail.close() == limit == path.stat().st_size
    kept = data(tail.chunks(1, [5000]))
    assert kept == path.read_bytes() and kept.startswith(live) and tail.all_sent()
    head, tail_kept, told = parts(agent, kept)
    assert written.startswith(head) and written.endswith(tail_kept) and tail_kept.endswith(b"the end")
    assert len(head) + told + len(tail_kept) == len(written), "not a byte is unaccounted for"


def parts(agent: SimpleNamespace, kept: bytes) -> tuple[bytes, bytes, int]:
    """The beginning, the end, and how many bytes were between them."""
    head, _, rest = kept.partition(agent.logtail.CUT)
    mark, _, end = rest.partition(b"\n")
    return head, end, int(mark.split()[1])


def test_an_agent_that_was_started_again_goes_on_counting(agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab", buffering=0) as job:
        for letter in (b"a", b"b", b"c"):  # a new agent each time
            job.write(letter * 3000)
            agent.logtail.LogTail(str(path), 1000).look()
    tail = agent.logtail.LogTail(str(path), 1000)
    assert tail.close() == 1000
    head, end, told = parts(agent, path.read_bytes())
    assert (set(head), set(end)) == (set(b"a"), set(b"c"))
    assert len(head) + told + len(end) == 9000


def test_output_of_exactly_the_limit_is_whole(agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a" * 1000)
    tail = agent.logtail.LogTail(str(path), 1000)
    tail.look()
    assert tail.close() == 1000
    assert data(tail.chunks(1, [5000])) == b"a" * 1000 and tail.all_sent()


def test_a_limit_smaller_than_the_mark_is_kept_too(agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a" * 100)
    tail = agent.logtail.LogTail(str(path), 10)
    assert tail.close() == 10 and path.stat().st_size == 10


def test_a_runaway_job_fills_neither_the_disk_nor_the_master(master: FakeMaster, machine: AgentBox) -> None:
    """Also while the master is away, when nothing is sent."""
    master.told = {"log_limit": 100_000}
    master.order(1, "echo begins; yes; ")
    machine.start()
    until(lambda: master.log(1).startswith(b"begins\n"))
    master.set(deaf=True)
    for _ in range(3):  # it goes on writing, and is cut again
        until(lambda: machine.state("logs/1").stat().st_size > 125_000)
        until(lambda: machine.state("logs/1").stat().st_size < 125_000)
    master.set(deaf=False)
    master.stop(1)
    assert master.result(1)["log_size"] == 100_000
    assert len(master.log(1)) == 100_000
    assert b"the output is over its limit; from here on only its end is kept" in master.log(1)
    assert master.log(1).endswith(b"y\ny\n")


# ---- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def disk() -> Iterator[Any]:
    """A disk that takes no file longer than the test says, for writes and for room asked ahead alike."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def full(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield full
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_what_was_accepted_can_be_ended_on_a_full_disk(agent: SimpleNamespace, tmp_path: Path, disk: Any) -> None:
    path = tmp_path / "journal"
    journal = agent.journal.Journal(str(path))
    for attempt in (1, 2, 3):
        journal.accept(order(attempt))
    disk(path.stat().st_size)
    for attempt in (1, 2):
        journal.begin(attempt)
        journal.end({**result(attempt), "control": {"params": {"A": "ü" * 4000}}})
    journal.acknowledged(1)
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        journal.accept(order(4, run="x" * 2_000_000))
    assert 4 not in journal.orders
    disk(resource.RLIM_INFINITY)
    assert state(agent.journal.Journal(str(path))) == ({2, 3}, {2}, {2})


def test_a_journal_that_cannot_be_made_anew_goes_on_in_the_old_one(
    agent: SimpleNamespace, tmp_path: Path, disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    journal = agent.journal.Journal(str(path))
    journal.accept(order(1))
    journal.accept(order(2))
    disk(1000)  # not even its beginning could be written again
    for again in (journal, agent.journal.Journal(str(path))):
        monkeypatch.setattr(again, "_compact_at", 0)
    disk(path.stat().st_size)
    again.begin(1)
    again.end(result(1))
    disk(1000)
    assert state(agent.journal.Journal(str(path))) == ({1, 2}, {1}, {1})
    assert not path.with_name("journal.new").exists()


def test_the_end_of_what_began_goes_up_even_unwritten(agent: SimpleNamespace, tmp_path: Path, disk: Any) -> None:
    journal = agent.journal.Journal(str(tmp_path / "journal"))
    journal.accept(order(1))
    journal.accept(order(2))
    journal.begin(1)
    disk(0)
    journal.end(result(1))
    assert journal.ended[1] == result(1)
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        journal.end(result(2, "returned"))  # unwritten, it would be run after a crash, though it was given back
    journal.acknowledged(1)


def test_a_node_whose_disk_is_full_says_so_takes_nothing_new_and_ends_what_it_has(
    master: FakeMaster, machine: AgentBox, tmp_path: Path
) -> None:
    """A real disk of 48 MB, which the job fills to the last byte."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("making a disk needs root here")
    disk = machine.root / "var/lib/elastic-orchestrator"
    disk.mkdir(parents=True)
    machine.within = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs -o size=48m none '{disk}' && exec \"$@\"", "sh"]
    master.slots = 2
    full, go = tmp_path / "full", tmp_path / "go"
    master.order(1, f"cat /dev/zero > fill 2>/dev/null; touch {full}; until [ -e {go} ]; do sleep 0.02; done; exit 5")
    machine.start()
    until(full.exists)
    # Given to it before it could say how it is: handed back. From then on it asks for none.
    master.twist = lambda message, answer: {
        **answer,
        "orders": [*answer["orders"], order(2, run="echo there is no room")] if full.exists() else [],
    }
    master.stop(99)  # so that it is answered
    refused = master.result(2)
    assert refused["outcome"] == "returned" and "less than 32 MB are free" in refused["detail"]
    until(lambda: any(not sync["health"]["ok"] for sync in master.syncs if "health" in sync))
    assert master.syncs[-1]["free"] == 0
    go.touch()
    assert (master.result(1)["outcome"], master.result(1)["exit_code"]) == ("exited", 5)
    until(lambda: not master.orders)
    assert machine.process is not None and machine.process.poll() is None


# ---- the engine's health ---------------------------------------------------------------------------------------------


def checked(engine: Any, agent: SimpleNamespace) -> Json | None:
    """Begin a check and wait for what it finds."""
    engine.check()
    while engine.probing:
        for pid, code in agent.processes.reap():
            engine.ended(pid, code)
    return engine.news  # type: ignore[no-any-return]


def test_a_well_engine_says_so_once(agent: SimpleNamespace, tmp_path: Path) -> None:
    engine = agent.engine.Engine(str(tmp_path), {"PATH": os.environ["PATH"]})
    news = checked(engine, agent)
    assert news == {"ok": True, "trouble": "", "check": 1}
    engine.told(None)
    assert engine.news is news, "until the master has heard it"
    engine.told(news)
    assert checked(engine, agent) is None and engine.trouble == ""


def test_every_bad_check_is_news_and_so_is_the_first_good_one(
    agent: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = agent.engine.Engine(str(tmp_path / "state"), {})
    for check in (1, 2):
        news = checked(engine, agent)
        assert news is not None and (news["ok"], news["check"]) == (False, check)
        assert "MB are free in" in news["trouble"] and engine.trouble
        engine.told(news)
    (tmp_path / "state").mkdir()
    assert checked(engine, agent) == {"ok": True, "trouble": "", "check": 3}
    assert engine.trouble == "" and not list((tmp_path / "state").iterdir())


@pytest.mark.parametrize(
    ("what", "value", "trouble"),
    [
        ("SHELL", "/nowhere/sh", "cannot start a process"),
        ("SHELL", "/bin/false", "ended with 1"),
        ("ROOM", 1 << 60, "MB are free in"),
    ],
)
def test_what_ails_an_engine(
    what: str, value: Any, trouble: str, agent: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.processes if what == "SHELL" else agent.engine, what, value)
    engine = agent.engine.Engine(str(tmp_path), {})
    news = checked(engine, agent)
    assert news is not None and not news["ok"] and trouble in news["trouble"]


def test_a_shell_that_hangs_is_trouble(agent: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = tmp_path / "sh"
    hangs.write_text("#!/bin/sh\nexec sleep 86400\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(agent.processes, "SHELL", str(hangs))
    engine = agent.engine.Engine(str(tmp_path), {"PATH": os.environ["PATH"]})
    engine.check()
    engine.keep_time(engine._begun + agent.engine.PROBE_S + 1)
    assert "did not end within 10 s" in engine.trouble
    while engine.probing:
        for pid, code in agent.processes.reap():
            assert engine.ended(pid, code)
    assert "did not end within 10 s" in engine.trouble, "its end by our own hand says nothing"


def test_a_node_whose_engine_is_in_trouble_takes_no_task_and_says_why(master: FakeMaster, machine: AgentBox) -> None:
    for attempt in range(1, 6):
        master.order(attempt, ":")
    machine.start()
    until(lambda: not master.orders and any("health" in sync for sync in master.syncs))
    shutil.rmtree(machine.state())
    master.order(11, "echo never")
    broken = master.result(11)
    assert broken["outcome"] in ("returned", "start_failed"), "found before its start or by it"
    until(lambda: any(not sync["health"]["ok"] for sync in master.syncs if "health" in sync))
    assert "in trouble" in machine.said
    until(lambda: master.syncs[-1]["free"] == 0)
