"""The agent's journal, its log tails and its one file."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_master import SOURCES

from orchestrator.agents.package import agent_package

LOG_LIMIT = 16 << 20


def order(attempt: int, **more: Any) -> dict[str, Any]:
    return {"attempt": attempt, "run": "true", "env": {}, "timeout_s": None, "grace_s": 10.0, **more}


def result(attempt: int, outcome: str = "exited") -> dict[str, Any]:
    return {"attempt": attempt, "outcome": outcome, "exit_code": 0}


# ---- journal ---------------------------------------------------------------------------------------------------------


def state(journal: Any) -> tuple[set[int], set[int], set[int]]:
    return set(journal.orders), set(journal.begun), set(journal.ended)


def test_the_journal_says_after_a_restart_what_it_said_before(agent: SimpleNamespace, tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    first = agent.journal.Journal(path)
    for attempt in (1, 2, 3, 4):
        first.accept(order(attempt, env={"A": "ü\n"}))
    first.begin(1)
    first.begin(2)
    first.end(result(2))
    first.begin(4)
    first.end(result(4))
    first.acknowledged(4)
    second = agent.journal.Journal(path)
    assert state(second) == state(first) == ({1, 2, 3}, {1, 2}, {2})
    assert second.orders[1] == order(1, env={"A": "ü\n"})
    assert second.ended[2] == result(2)
    assert list(second.orders) == [1, 2, 3], "in the order in which they came"
    assert Path(path).stat().st_mode & 0o777 == 0o600, "it holds the tasks' parameters"


def test_a_line_cut_short_is_passed_over_and_takes_none_with_it(agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = agent.journal.Journal(str(path))
    journal.accept(order(1))
    journal.accept(order(2))
    with path.open("a") as file:
        file.write('["begin",1]\n["order",{"attempt":3,"ru')
    again = agent.journal.Journal(str(path))
    assert state(again) == ({1, 2}, {1}, set())
    again.begin(2)
    once_more = agent.journal.Journal(str(path))
    assert state(once_more) == ({1, 2}, {1, 2}, set()), "what was written after the cut line is there"


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_cut_anywhere_it_is_a_beginning_of_the_truth(at: int, agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = agent.journal.Journal(str(path))
    journal.accept(order(1))
    journal.begin(1)
    journal.end(result(1))
    whole = path.read_bytes().rstrip(b"\0")
    path.write_bytes(whole[: len(whole) - at])
    orders, begun, ended = state(agent.journal.Journal(str(path)))
    assert ended <= begun <= orders <= {1}


def test_bytes_that_are_no_text_are_passed_over(agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"\xff\xfe\x00\n" + json.dumps(["order", order(1)]).encode() + b"\n")
    assert state(agent.journal.Journal(str(path))) == ({1}, set(), set())


@pytest.mark.parametrize("always_open", [0, 3])
def test_the_journal_stays_small_also_on_a_node_that_is_never_idle(
    always_open: int, agent: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.journal.Journal, "COMPACT_AT", 4000)
    path = tmp_path / "journal"
    journal = agent.journal.Journal(str(path))
    for attempt in range(1, always_open + 1):
        journal.accept(order(attempt))
        journal.begin(attempt)
    for attempt in range(100, 700):
        journal.accept(order(attempt))
        journal.begin(attempt)
        journal.end(result(attempt))
        journal.acknowledged(attempt)
        assert len(path.read_bytes().rstrip(b"\0")) < 5000
    kept = set(range(1, always_open + 1))
    assert state(agent.journal.Journal(str(path))) == state(journal) == (kept, kept, set())
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_journal_larger_than_its_limit_is_not_made_anew_at_each_line(
    agent: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.journal.Journal, "COMPACT_AT", 100)
    path = tmp_path / "journal"
    journal = agent.journal.Journal(str(path))
    for attempt in range(50):
        journal.accept(order(attempt))
    files = set()
    for attempt in range(100, 140):
        journal.accept(order(attempt))
        journal.acknowledged(attempt)
        files.add(path.stat().st_ino)
    assert len(files) <= 3


# ---- log tails -------------------------------------------------------------------------------------------------------


def data(chunks: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(chunk["data"]) for chunk in chunks)


def test_a_tail_follows_a_file_that_grows(agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = agent.logtail.LogTail(str(path), LOG_LIMIT)
    assert tail.chunks(5, [1000]) == [], "no file yet"
    with path.open("wb", buffering=0) as file:
        file.write(b"one")
        assert tail.chunks(5, [1000]) == [{"attempt": 5, "offset": 0, "data": base64.b64encode(b"one").decode()}]
        assert data(tail.chunks(5, [1000])) == b"one", "until it is acknowledged"
        tail.acknowledge(3)
        assert tail.chunks(5, [1000]) == []
        file.write(b"two")
        (chunk,) = tail.chunks(5, [1000])
        assert (chunk["offset"], data([chunk])) == (3, b"two")
        assert not tail.all_sent(), "it may still grow"
    assert tail.close() == 6
    assert tail.chunks(5, [1000]) and tail.all_sent() and not tail.all_acknowledged()
    tail.acknowledge(6)
    assert tail.chunks(5, [1000]) == [] and tail.all_acknowledged()


def test_a_tail_goes_back_to_where_the_master_is(agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"0123456789")
    tail = agent.logtail.LogTail(str(path), LOG_LIMIT)
    tail.close()
    tail.acknowledge(10)
    assert tail.all_sent()
    tail.acknowledge(4)
    (chunk,) = tail.chunks(1, [1000])
    assert (chunk["offset"], data([chunk])) == (4, b"456789")
    tail.acknowledge(1 << 61)  # the master wants no more of it
    assert tail.chunks(1, [1000]) == [] and tail.all_sent() and tail.all_acknowledged()


def test_one_call_carries_no_more_than_its_budget(agent: SimpleNamespace, tmp_path: Path) -> None:
    size = agent.logtail.LogTail.CHUNK
    tails = []
    for number in range(6):
        path = tmp_path / str(number)
        path.write_bytes(bytes([number]) * (size + 10))
        tails.append(agent.logtail.LogTail(str(path), LOG_LIMIT))
        tails[-1].close()
    budget = [agent.logtail.LogTail.CHUNK_TOTAL]
    chunks = [chunk for number, tail in enumerate(tails) for chunk in tail.chunks(number, budget)]
    assert budget == [0] and len(data(chunks)) == agent.logtail.LogTail.CHUNK_TOTAL
    assert not any(tail.all_sent() for tail in tails)
    tails[0].acknowledge(size)
    assert len(data(tails[0].chunks(0, [agent.logtail.LogTail.CHUNK_TOTAL]))) == 10
    assert tails[0].all_sent()


def test_an_attempt_without_a_log_has_an_empty_one(agent: SimpleNamespace, tmp_path: Path) -> None:
    tail = agent.logtail.LogTail(str(tmp_path / "never"), LOG_LIMIT)
    assert tail.close() == 0
    assert tail.chunks(1, [1000]) == [] and tail.all_sent() and tail.all_acknowledged()
    tail.remove()


# ---- the one file ----------------------------------------------------------------------------------------------------


def sources() -> list[Path]:
    found = sorted(SOURCES.glob("*.py"))
    assert len(found) >= 9
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_every_module_is_python_3_8_and_imports_the_standard_library_only(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    own = {source.stem for source in sources()}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module or ""]
        for name in names:
            assert name.partition(".")[0] in own | sys.stdlib_module_names, f"{path.name} imports {name}"
        if isinstance(node, ast.FunctionDef | ast.arg | ast.AnnAssign):
            # Annotations are evaluated by 3.8, and what it does not know in them ends the agent: types are comments.
            assert not getattr(node, "returns", None) and not getattr(node, "annotation", None)


def test_every_call_is_one_that_python_3_8_has() -> None:
    """What came later, as far as a name can tell; a machine's first Python is the oldest that people still run."""
    later = {"removeprefix", "removesuffix", "randbytes", "to_thread", "pairwise", "batched", "waitstatus_to_exitcode"}
    later |= {"pidfd_open", "cache", "is_relative_to", "readlink", "file_digest", "chdir_context", "nullcontext_async"}
    for path in sources():
        used = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not used & later, path.name
        assert not any(isinstance(node, ast.Match) for node in ast.walk(ast.parse(path.read_text())))


def test_the_zipapp_holds_the_sources_and_nothing_else() -> None:
    content = agent_package().content
    assert content.startswith(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == [path.name for path in sources()]
        for path in sources():
            assert archive.read(path.name) == path.read_bytes()


def test_the_hash_is_the_same_on_every_master(tmp_path: Path) -> None:
    """Machines refuse an agent with another hash: it may depend neither on the hour nor on the host."""
    program = "from orchestrator.agents.package import agent_package as a; print(a().sha256)"
    environment = {**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "LC_ALL": "C"}
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert other.stdout.strip() == agent_package().sha256 == hashlib.sha256(agent_package().content).hexdigest()


def test_the_zipapp_runs_without_anything_installed(pyz: Path) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", str(pyz), "--help"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and "--config" in done.stdout


def test_it_is_small(pyz: Path) -> None:
    assert pyz.stat().st_size < 36_000, "every new machine loads it"
    program = f"import sys; sys.path.insert(0, {str(pyz)!r}); import worker, enrolment; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    heavy = {"ssl", "hashlib", "http", "urllib", "asyncio", "logging", "shutil", "typing"}
    assert not heavy & set(done.stdout.split()), "memory is paid on every machine"
