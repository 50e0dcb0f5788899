"""The contract of the places where logs and artifacts are kept, on each of them: a local folder, and moto's S3 over HTTP."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.clock import utc_now
from orchestrator.files.base import FileStore, FilesUnavailable, LogStore, Missing
from orchestrator.files.local import LocalFiles, LocalLogs
from orchestrator.files.s3 import PIECE, Bucket, S3Files, S3Logs

NUMBERS = itertools.count(1)
MakeLogs = Callable[[int], LogStore]


def bucket(s3: Any, prefix: str = "") -> Bucket:
    return Bucket("kept", prefix or f"{next(NUMBERS)}/", s3.meta.endpoint_url)


@pytest.fixture(params=["local", "s3"])
def make_logs(request: pytest.FixtureRequest, tmp_path: Path) -> MakeLogs:
    """Makes empty stores with a given limit."""
    if request.param == "local":
        return lambda limit: LocalLogs(tmp_path / str(next(NUMBERS)), limit)
    client = request.getfixturevalue("s3")
    return lambda limit: S3Logs(bucket(client), limit)


@pytest.fixture(params=["local", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> FileStore:
    if request.param == "local":
        return LocalFiles(tmp_path / "artifacts")
    return S3Files(bucket(request.getfixturevalue("s3")))


# ---- logs ------------------------------------------------------------------------------------------------------------


def test_chunks_by_offset(make_logs: MakeLogs) -> None:
    logs = make_logs(1000)
    assert logs.size(7) == 0
    assert logs.read(7) == b""
    assert logs.append(7, 0, b"hello ") == 6
    assert logs.append(7, 6, b"world") == 11
    assert logs.append(7, 0, b"hello ") == 11  # a repeat
    assert logs.append(7, 3, b"lo world!!") == 13  # overlapping: only what is new
    assert logs.append(7, 50, b"too far") == 13  # a hole: the agent goes back
    assert logs.read(7) == b"hello world!!"
    assert logs.read(7, 6, 5) == b"world"
    assert logs.read(7, 4, 4) == b"o wo"
    assert logs.read(7, 13) == logs.read(7, 999) == b""
    assert logs.read(8) == b""


def test_the_limit_is_kept_to_the_byte(make_logs: MakeLogs) -> None:
    logs = make_logs(10)
    assert logs.append(1, 0, b"123456") == 6
    assert logs.append(1, 6, b"7890abc") == 10
    assert logs.append(1, 10, b"more") == 10
    assert logs.read(1) == b"1234567890"


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.binary(max_size=200), cuts=st.lists(st.tuples(st.integers(0, 220), st.integers(0, 60)), max_size=12))
def test_any_order_of_chunks_gives_a_beginning_of_the_text(
    make_logs: MakeLogs, text: bytes, cuts: list[tuple[int, int]]
) -> None:
    """Whatever is repeated, reordered or missing: the log is always a true beginning, and never over its limit."""
    logs = make_logs(150)
    for offset, length in cuts:
        wanted = logs.append(1, offset, text[offset : offset + length])
        stored = logs.read(1)
        assert wanted == len(stored) == logs.size(1)
        assert stored == text[: len(stored)]
        assert len(stored) <= 150
    logs.settle(1)
    while (size := logs.size(1)) < min(150, len(text)):
        assert logs.append(1, size, text[size : size + 40]) > size
    logs.settle(1)
    assert logs.read(1) == text[:150]


def test_what_is_settled_reads_the_same_and_may_grow(make_logs: MakeLogs) -> None:
    logs = make_logs(1 << 20)
    for number in range(10):
        logs.append(1, number * 3, b"%02d\n" % number)
    before = logs.read(1)
    for _ in range(2):
        logs.settle(1)
        assert logs.read(1) == before and logs.size(1) == 30
    assert logs.append(1, 30, b"late\n") == 35
    assert logs.read(1, 27) == b"09\nlate\n"


def test_a_removed_log_is_gone_and_its_neighbours_are_not(make_logs: MakeLogs) -> None:
    logs = make_logs(1000)
    for attempt in (1, 10, 1001):
        logs.append(attempt, 0, b"text")
    logs.remove(1)
    logs.remove(2)
    assert [logs.size(attempt) for attempt in (1, 10, 1001)] == [0, 4, 4]
    assert logs.append(1, 0, b"anew") == 4


def test_logs_are_found_by_when_they_were_last_written(make_logs: MakeLogs) -> None:
    logs = make_logs(1000)
    assert list(logs.last_written_before(utc_now())) == []
    for attempt in (3, 30, 3000):
        logs.append(attempt, 0, b"a")
        logs.append(attempt, 1, b"b")
    assert sorted(logs.last_written_before(utc_now() + timedelta(hours=1))) == [3, 30, 3000]
    assert list(logs.last_written_before(utc_now() - timedelta(hours=1))) == []


# ---- logs in S3, with several masters --------------------------------------------------------------------------------


def test_two_masters_take_chunks_of_one_log(s3: Any) -> None:
    prefix = f"{next(NUMBERS)}/"
    one, two = (S3Logs(bucket(s3, prefix), 1000) for _ in range(2))
    assert one.append(1, 0, b"aaa") == 3
    assert two.append(1, 3, b"bbb") == 6
    assert one.append(1, 6, b"ccc") == 9, "it looks what the other has"
    assert one.append(1, 3, b"bbbcccddd") == 12
    assert two.append(1, 0, b"aaabbb") == 6, "as far as it knows, which is never too far"
    assert one.read(1) == two.read(1) == b"aaabbbcccddd"
    one.settle(1)
    assert two.read(1, 4, 4) == b"bbcc"


def test_a_shorter_chunk_that_comes_late_takes_nothing_back(s3: Any) -> None:
    """A master hangs with a call that its agent has long repeated to the other, with more in it."""
    prefix = f"{next(NUMBERS)}/"
    slow, quick = (S3Logs(bucket(s3, prefix), 1000) for _ in range(2))
    assert slow.size(1) == 0
    assert quick.append(1, 0, b"aaabbb") == 6
    slow._sizes[1] = 0  # as it was when it took the call
    assert slow.append(1, 0, b"aaa") == 3
    assert quick.read(1) == slow.read(1) == b"aaabbb"
    for logs in (slow, quick):
        logs.settle(1)
        assert logs.read(1) == b"aaabbb"
    assert len(objects(s3, prefix)) == 1


def test_many_small_chunks_end_as_few_objects(s3: Any) -> None:
    prefix = f"{next(NUMBERS)}/"
    logs = S3Logs(bucket(s3, prefix), 100 << 20)
    size = 0
    for number in range(300):
        size = logs.append(1, size, bytes([number % 251]) * 1000)
    assert len(objects(s3, prefix)) < 150, "also while it grows"
    big = logs.append(1, size, b"x" * PIECE)
    logs.settle(1)
    assert len(objects(s3, prefix)) == 2
    assert logs.size(1) == big and logs.read(1, size - 1, 2) == bytes([299 % 251]) + b"x"


def objects(s3: Any, prefix: str) -> list[str]:
    return [item["Key"] for item in s3.list_objects_v2(Bucket="kept", Prefix=prefix).get("Contents", ())]


def test_a_store_that_refuses_says_what_to_see_to(s3: Any) -> None:
    logs = S3Logs(Bucket("no-such-bucket", "", s3.meta.endpoint_url), 1000)
    with pytest.raises(FilesUnavailable, match=r"s3://no-such-bucket.*`files_endpoint_url`"):
        logs.append(1, 0, b"x")


def test_a_store_that_does_not_answer_is_trouble_that_passes(s3: Any) -> None:
    logs = S3Logs(Bucket("kept", "", "http://127.0.0.1:9"), 1000)
    with pytest.raises(FilesUnavailable, match="nothing was done"):
        logs.read(1)


# ---- artifacts -------------------------------------------------------------------------------------------------------


def source(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / f"upload-{next(NUMBERS)}"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("path", ["a.csv", "out/deep/b.csv", "../../etc/passwd", "/etc/passwd", "ü\n", "x" * 900])
def test_a_path_is_a_name_and_no_place(files: FileStore, tmp_path: Path, path: str) -> None:
    taken = source(tmp_path, b"content of " + path.encode())
    files.put(5, path, taken)
    assert not taken.exists()
    assert b"".join(files.read(5, path)) == b"content of " + path.encode()
    assert b"".join(files.read(5, path, 8)) == b"of " + path.encode()
    with pytest.raises(Missing):
        files.read(6, path)


def test_a_file_takes_the_place_of_the_older_one(files: FileStore, tmp_path: Path) -> None:
    files.put(5, "a", source(tmp_path, b"old and longer"))
    files.put(5, "a", source(tmp_path, b"new"))
    files.put(5, "empty", source(tmp_path, b""))
    assert b"".join(files.read(5, "a")) == b"new"
    assert b"".join(files.read(5, "empty")) == b""


def test_a_large_file_comes_in_pieces(files: FileStore, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 10  # more than the SDK sends at once
    files.put(5, "big", source(tmp_path, content))
    pieces = list(files.read(5, "big"))
    assert len(pieces) >= 10 and b"".join(pieces) == content


def test_all_of_an_attempt_is_removed_and_found_by_age(files: FileStore, tmp_path: Path) -> None:
    for attempt, path in ((5, "a"), (5, "b"), (50, "a")):
        files.put(attempt, path, source(tmp_path, b"x"))
    assert sorted(files.last_written_before(utc_now() + timedelta(hours=1))) == [5, 50]
    assert list(files.last_written_before(utc_now() - timedelta(hours=1))) == []
    files.remove(5)
    files.remove(5)
    with pytest.raises(Missing):
        files.read(5, "b")
    assert b"".join(files.read(50, "a")) == b"x"
