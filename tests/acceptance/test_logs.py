"""The logs' API over a real master, on both databases, and with two masters that share a store in S3."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import uvicorn
from sqlalchemy import insert, select, update
from theatre import until

from orchestrator.api.auth import make_token
from orchestrator.api.http import build
from orchestrator.app import Master
from orchestrator.model.states import JobState, TaskState
from orchestrator.model.tables import Attempt, Job, Launch, Node, Pool, Task, table
from orchestrator.settings import Settings

jobs, tasks, attempts = table(Job), table(Task), table(Attempt)


class Served:
    """A master with its API, and attempts of its tasks without machines: their rows, and what came of their output."""

    def __init__(self, master: Master, api: httpx.Client) -> None:
        self.master = master
        self.api = api

    def job(self, *names: str) -> int:
        document = {"name": "j", "client": "c", "tasks": [{"name": name, "run": "true"} for name in names]}
        return int(self.api.post("jobs", json=document).json()["id"])

    def attempt(self, job: int, task: str, number: int = 1, state: str = "running", log: bytes = b"") -> int:
        """A try of this task, with what is kept of its log."""

        def work(tx: Any) -> int:
            of = select(tasks.c.id).where(tasks.c.job_id == job, tasks.c.name == task)
            row = {"task_id": tx.connection.execute(of).scalar_one(), "node_id": self._node(tx), "number": number}
            row |= {"state": state, "log_size": len(log) if state != "running" else 0, "claimed_at": tx.now}
            row |= {"finished_at": tx.now if state != "running" else None}
            return int(tx.connection.execute(insert(attempts).values(**row).returning(attempts.c.id)).scalar_one())

        id_ = self.master.writer.write(work)
        if log:
            self.master.logs.append(id_, 0, log)
        return id_

    def _node(self, tx: Any) -> int:
        if found := tx.connection.execute(select(table(Node).c.id)).scalar():
            return int(found)
        pool = Pool(name="p", cloud="none", launch={}, created_at=tx.now).model_dump(exclude={"id"})
        pool_id = tx.connection.execute(insert(table(Pool)).values(**pool).returning(table(Pool).c.id)).scalar_one()
        launch = {"pool_id": pool_id, "cloud": "none", "kind": "k", "label": "k", "template": {}, "machines": 1}
        launch |= {
            "image": "i",
            "instance_type": "t",
            "requested_at": tx.now,
            "state": "failed",
            "tries": 0,
            "probe": False,
        }
        launch_id = tx.connection.execute(insert(table(Launch)).values(**launch).returning(table(Launch).c.id)).scalar_one()
        node = Node(pool_id=pool_id, launch_id=launch_id, state="terminated", requested_at=tx.now)
        row = node.model_dump(exclude={"id"})
        return int(tx.connection.execute(insert(table(Node)).values(**row).returning(table(Node).c.id)).scalar_one())

    def end(self, job: int, attempt: int) -> None:
        """The attempt, its task and the job have succeeded."""

        def work(tx: Any) -> None:
            ended = {"finished_at": tx.now}
            connection = tx.connection
            connection.execute(update(attempts).where(attempts.c.id == attempt).values(state="succeeded", **ended))
            connection.execute(update(tasks).where(tasks.c.job_id == job).values(state=TaskState.SUCCEEDED, **ended))
            connection.execute(update(jobs).where(jobs.c.id == job).values(state=JobState.SUCCEEDED, **ended))

        self.master.writer.write(work)

    def log(self, job: int, **query: Any) -> httpx.Response:
        return self.api.get(f"jobs/{job}/logs", params=query)

    def stream(self, job: int, **query: Any) -> list[tuple[str, dict[str, Any]]]:
        """All events until the stream ends."""
        with self.api.stream("GET", f"jobs/{job}/logs/stream", params=query) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            return list(events(answer.iter_lines()))


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, orjson.loads(line[6:])


def text_of(told: list[tuple[str, dict[str, Any]]], attempt: int) -> bytes:
    pieces = [event for name, event in told if name == "log" and event["attempt"] == attempt]
    return b"".join(base64.b64decode(piece["data"]) for piece in pieces)


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Served]:
    master = Master(Settings(data_dir=folder, **settings))
    token = master.writer.write(lambda tx: make_token(tx, folder.name))
    server = uvicorn.Server(uvicorn.Config(build(master), port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers=headers, timeout=30) as api:
        yield Served(master, api)
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def served(database_url: str, tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "data", database_url=database_url) as here:
        yield here


def test_a_log_is_read_by_offset_lines_and_attempt(served: Served) -> None:
    job = served.job("only")
    assert served.log(job).headers["X-Log-Size"] == "0"
    served.attempt(job, "only", 1, "failed", b"first try\n")
    last = served.attempt(job, "only", 2, "succeeded", b"one\ntwo\nthree")
    whole = served.log(job)
    assert whole.content == b"one\ntwo\nthree"
    assert whole.headers["X-Log-Attempt"] == str(last)
    assert served.log(job, attempt=1).content == b"first try\n"
    assert served.log(job, offset=4, limit=5).content == b"two\nt"
    assert served.log(job, offset=400).content == b""
    assert served.log(job, head=2).content == b"one\ntwo\n"
    tail = served.log(job, tail=2)
    assert (tail.content, tail.headers["X-Log-Offset"]) == (b"two\nthree", "4")
    assert served.log(job, tail=100).content == served.log(job, head=100).content == whole.content
    assert served.log(job, attempt=3).status_code == served.log(job, task="none").status_code == 404


def test_text_is_found_in_all_tasks_with_its_lines(served: Served) -> None:
    job = served.job("a", "b")
    long = b"x" * 3000 + b" needle " + b"y" * 3000
    served.attempt(job, "a", 1, "failed", b"a needle of an attempt that is past\n")
    in_a = served.attempt(job, "a", 2, "succeeded", b"hay\n" * 200_000 + b"Needle\r\nhay\n" + long)
    in_b = served.attempt(job, "b", 1, "succeeded", "\n\nnéedle needle".encode())
    found = served.log(job, search="NEEDLE").json()
    assert [(item["attempt"], item["line"], item["offset"]) for item in found["items"]] == [
        (in_a, 200_001, 800_000), (in_a, 200_003, 800_012), (in_b, 3, 2),
    ]  # fmt: skip
    assert found["items"][0]["text"] == "Needle" and found["next"] is None
    assert " needle " in found["items"][1]["text"] and len(found["items"][1]["text"]) <= 500
    assert served.log(job, search="needle", task="b").json()["items"] == found["items"][2:]
    first = served.log(job, search="needle", limit=1).json()
    assert (len(first["items"]), first["next"]) == (1, in_a)
    assert served.log(job, search="needle", limit=1, after=in_a).json() == {"items": found["items"][2:], "next": None}
    assert served.log(job, search="hay.*").json()["items"] == [], "a text, not a pattern"
    assert served.log(job, search="x", task="none").status_code == 404


def test_what_was_removed_is_told_apart_from_what_never_was(served: Served) -> None:
    job = served.job("only")
    removed = served.attempt(job, "only", 1, "failed", b"text")
    served.attempt(job, "only", 2, "failed")
    served.master.logs.remove(removed)
    gone = served.log(job, attempt=1)
    assert gone.status_code == 410 and "log_retention_days" in gone.json()["detail"]
    assert served.log(job).status_code == 200


def test_all_tasks_are_followed_until_the_job_ends(served: Served) -> None:
    job = served.job("a", "b")
    past = served.attempt(job, "a", 1, "failed", b"past")
    in_a = served.attempt(job, "a", 2, "running", b"a1")
    told: list[tuple[str, dict[str, Any]]] = []

    def follow() -> None:
        told.extend(served.stream(job))

    thread = threading.Thread(target=follow)
    thread.start()
    until(lambda: served.master.agents.feed._waiting)
    in_b = served.attempt(job, "b", 1, "succeeded", bytes(range(256)) * 1000)
    served.master.logs.append(in_a, 2, b"a2")
    served.end(job, in_a)
    thread.join(30)
    assert told[-1] == ("end", {"state": "succeeded"})
    assert text_of(told, in_a) == b"a1a2" and text_of(told, in_b) == bytes(range(256)) * 1000
    assert text_of(told, past) == b"", "each task begins with its last attempt"
    ends = {event["attempt"]: event["state"] for name, event in told if name == "attempt"}
    assert ends == {in_a: "succeeded", in_b: "succeeded"}


def test_a_broken_stream_goes_on_from_where_it_was(served: Served) -> None:
    job = served.job("a", "b")
    in_a = served.attempt(job, "a", 1, "running", b"0123456789")
    in_b = served.attempt(job, "b", 1, "failed", b"whole")
    now = served.stream(job, follow=False, at=[f"{in_a}:4", "999999:5"])
    assert text_of(now, in_a) == b"456789" and text_of(now, in_b) == b"whole"
    assert [event["attempt"] for name, event in now if name == "attempt"] == [in_b], "the other goes on"
    assert served.api.get(f"jobs/{job}/logs/stream", params={"at": "nonsense"}).status_code == 422
    assert served.api.get("jobs/999/logs/stream").status_code == 404
    assert served.api.get(f"jobs/{job}/logs/stream", params={"task": "none"}).status_code == 404


def test_a_try_that_was_followed_is_told_whole_though_the_next_began_while_the_stream_was_broken(served: Served) -> None:
    job = served.job("a", "b")
    silent = served.attempt(job, "a", 1)
    half = served.attempt(job, "b", 1, log=b"so ")
    read: dict[int, int] = {}
    with served.api.stream("GET", f"jobs/{job}/logs/stream") as answer:
        for name, event in events(answer.iter_lines()):
            if name == "log":
                read[event["attempt"]] = event["offset"] + len(base64.b64decode(event["data"]))
            if read == {silent: 0, half: 3}:
                break
    served.master.logs.append(silent, 0, b"at last")
    served.master.logs.append(half, 3, b"far")
    for task, first in (("a", silent), ("b", half)):
        served.end(job, first)
        served.end(job, served.attempt(job, task, 2, "succeeded", b"again"))
    told = served.stream(job, since=half, at=[f"{attempt}:{offset}" for attempt, offset in read.items()])
    assert (text_of(told, silent), text_of(told, half)) == (b"at last", b"far")


def test_what_there_is_now_comes_one_log_after_the_other(served: Served) -> None:
    names = [f"t{number}" for number in range(300)]
    job = served.job(*names)
    big = served.attempt(job, "t0", 1, "succeeded", b"x" * 3_000_000)
    for name in names[1:]:
        served.attempt(job, name, 1, "succeeded", name.encode())
    told = served.stream(job, follow=False)
    pieces = [event["attempt"] for name, event in told if name == "log"]
    assert pieces == sorted(pieces) and len(set(pieces)) == 300
    assert text_of(told, big) == b"x" * 3_000_000


def test_tries_that_came_and_went_while_the_line_was_broken_are_told(served: Served) -> None:
    job = served.job("a")
    before = served.attempt(job, "a", 1, "failed", b"heard of")
    (begin,) = [event for name, event in served.stream(job, follow=False) if name == "begin"]
    assert begin == {"newest": before}
    between = served.attempt(job, "a", 2, "failed", b"between")
    last = served.attempt(job, "a", 3, "running", b"last")
    told = served.stream(job, follow=False, since=before)
    assert [text_of(told, attempt) for attempt in (before, between, last)] == [b"", b"between", b"last"]


def test_one_task_is_followed_until_it_has_ended(served: Served) -> None:
    job = served.job("a", "b")
    in_a = served.attempt(job, "a", 1, "succeeded", b"text")
    served.master.writer.write(
        lambda tx: tx.connection.execute(update(tasks).where(tasks.c.name == "a").values(state=TaskState.SUCCEEDED))
    )
    told = served.stream(job, task="a")
    assert text_of(told, in_a) == b"text" and told[-1] == ("end", {"state": "succeeded"})


Maker = Callable[[str], Served]


@pytest.fixture
def two_masters(s3: Any, postgres: Any, migrated_postgres: str, tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    """On one PostgreSQL, with their logs in one bucket; each has its own data folder, and the key of the other."""
    url = postgres.database(migrated_postgres)
    shared = {"database_url": url, "files": "s3://kept/two-masters", "files_endpoint_url": s3.meta.endpoint_url}
    with serving(tmp_path / "one", **shared) as one:
        (tmp_path / "two").mkdir()
        (tmp_path / "two" / "master.key").write_bytes((tmp_path / "one" / "master.key").read_bytes())
        with serving(tmp_path / "two", **shared) as two:
            yield one, two
    postgres.drop(url)


def test_one_master_follows_what_comes_to_the_other(two_masters: tuple[Served, Served]) -> None:
    one, two = two_masters
    job = one.job("only")
    attempt = one.attempt(job, "only", 1, "running", b"came to one\n")
    told: list[tuple[str, dict[str, Any]]] = []
    thread = threading.Thread(target=lambda: told.extend(two.stream(job)))
    thread.start()
    until(lambda: two.master.agents.feed._waiting)
    assert two.master.logs.append(attempt, 12, b"came to two\n") == 24
    assert one.master.logs.append(attempt, 24, b"and one again\n") == 38
    one.master.logs.settle(attempt)
    one.end(job, attempt)
    thread.join(60)
    assert text_of(told, attempt) == b"came to one\ncame to two\nand one again\n"
    assert told[-1] == ("end", {"state": "succeeded"})
    assert one.log(job).content == two.log(job).content == text_of(told, attempt)
    assert not (one.master.settings.data_dir / "logs").exists()
