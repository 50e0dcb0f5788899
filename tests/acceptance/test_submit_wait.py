"""`submit --wait` for people and for cron: real terminals, real signals, a master that is killed meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from theatre import Director, until

from orchestrator.demo.stage import Stage, stage

DEADLINE_S = 60.0
COMMAND = (sys.executable, "-m", "orchestrator")
PLAIN = {key: value for key, value in os.environ.items() if not key.startswith("ORCHESTRATOR_")}
LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  ")


@dataclass
class Person:
    """Runs the command in a folder of its own, with or without a terminal."""

    stage: Stage
    folder: Path

    @property
    def director(self) -> Director:
        return Director(self.stage)

    @property
    def env(self) -> dict[str, str]:
        return PLAIN | {"ORCHESTRATOR_URL": self.stage.url, "ORCHESTRATOR_TOKEN": self.stage.token}

    def file(self, run: str = "true", **document: Any) -> str:
        work = {"run": run} if "tasks" not in document else {}
        path = self.folder / f"{len(list(self.folder.iterdir()))}.yaml"
        path.write_text(json.dumps({"name": "job", "client": "acme", **work, **document}))
        return str(path)

    def sleeper(self) -> str:
        """Takes long, and ends at once when it is asked to."""
        return self.file("echo begun; exec sleep 300", timeout={"after": "10m", "grace": "1s"})

    def run(self, *words: str, status: int, url: str | None = None) -> subprocess.CompletedProcess[str]:
        env = self.env | ({"ORCHESTRATOR_URL": url} if url else {})
        done = subprocess.run(
            [*COMMAND, *words], env=env, cwd=self.folder, capture_output=True, text=True, timeout=DEADLINE_S
        )
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def begin(self, *words: str) -> tuple[subprocess.Popen[str], int]:
        """The command, and the number of the job that it waits for, which runs."""
        process = subprocess.Popen(
            [*COMMAND, *words], env=self.env, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        job = int(process.stdout.readline())
        until(lambda: self.director.job(job)["state"] == "running")
        return process, job


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, person: Person, *words: str) -> None:
        self.seen = ""
        self._child, self._fd = pty.fork()
        if self._child == 0:
            os.chdir(person.folder)
            os.execve(sys.executable, [*COMMAND, *words], {**person.env, "TERM": "xterm-256color"})
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))

    def shows(self, text: str) -> None:
        """Waits until it has shown this; what came before is forgotten."""
        until(lambda: self._read(text), DEADLINE_S, lambda: self.seen)
        self.seen = self.seen.partition(text)[2]

    def _read(self, text: str) -> bool:
        if select.select([self._fd], [], [], 0)[0]:
            with contextlib.suppress(OSError):  # the other side is closed: the command has ended
                self.seen += os.read(self._fd, 65536).decode(errors="replace")
        return text in self.seen

    def types(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def signal(self, number: int) -> None:
        os.kill(self._child, number)

    def status(self) -> int:
        deadline = time.monotonic() + DEADLINE_S
        while (ended := os.waitpid(self._child, os.WNOHANG))[0] == 0:
            self._read("")  # a full terminal would keep it from ending
            assert time.monotonic() < deadline, self.seen
            time.sleep(0.05)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(ended[1])


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    root = tmp_path_factory.mktemp("waiting")
    with stage(root / "stage", root / "data", boot_delay_s=0.1, stop_delay_s=0.1) as here:
        (root / "work").mkdir()
        person = Person(here, root / "work")
        person.director.pool(min_nodes=1, slots=8)
        until(lambda: [node for node in person.director.nodes() if node["state"] == "ready"])
        yield person


# ---- how it ended ----------------------------------------------------------------------------------------------------


def test_a_success_is_0_and_a_line_a_state(person: Person) -> None:
    done = person.run("submit", person.file("sleep 1; echo noise"), "--wait", status=0)
    job = done.stdout.strip()
    assert job.isdigit()
    lines = done.stderr.splitlines()
    assert all(LINE.match(line) for line in lines), lines
    assert f"job {job} succeeded: tasks: 1 succeeded" in lines[-1]
    assert sum(f"job {job} running: its first task runs" in line for line in lines) == 1
    assert len(lines) <= 3, "one line a state"
    assert "noise" not in done.stderr


@pytest.mark.parametrize(("exit_code", "status"), [(1, 1), (7, 7), (125, 125), (126, 1), (255, 1)])
def test_a_failure_has_the_tasks_own_status(person: Person, exit_code: int, status: int) -> None:
    done = person.run("submit", person.file(f"echo why; exit {exit_code}"), "--wait", status=status)
    assert done.stderr.splitlines()[-2:][0] == "  | why"


def test_a_killed_task_has_no_status_of_its_own(person: Person) -> None:
    person.run("submit", person.file("kill -9 $$"), "--wait", "--quiet", status=1)


def test_the_first_task_to_fail_gives_the_status_and_the_end_of_its_log(person: Person) -> None:
    tasks = [
        {"name": "late", "run": "sleep 1.5; echo second; exit 9"},
        {"name": "early", "run": "seq 1 30; printf 'the cause\\033[2J'; exit 4"},
        {"name": "after", "run": "true", "needs": ["early"]},
    ]
    done = person.run("submit", person.file(tasks=tasks), "--wait", status=4)
    job = done.stdout.strip()
    assert "task early, the first of 2 that failed" in done.stderr
    assert "  | 30\n  | the cause\N{REPLACEMENT CHARACTER}[2J\n" in done.stderr, "a log does nothing to a terminal"
    assert "  | 11\n" not in done.stderr and "  | 12\n" in done.stderr, "its last 20 lines"
    assert "second" not in done.stderr
    assert f"orchestrator job logs {job} --task early" in done.stderr

    again = person.run("job", "wait", job, "--output", "json", status=4)
    assert json.loads(again.stdout)["state"] == "failed"


def test_json_is_the_job_as_it_ended(person: Person) -> None:
    done = person.run("submit", person.file(), "--wait", "--output", "json", status=0)
    document = json.loads(done.stdout)
    assert (document["state"], document["open_tasks"]) == ("succeeded", 0)


def test_quiet_speaks_only_of_failures(person: Person) -> None:
    done = person.run("submit", person.file(), "--wait", "--quiet", status=0)
    assert (done.stdout, done.stderr) == ("", "")
    done = person.run("submit", person.file("echo the cause; exit 5"), "--wait", "-q", status=5)
    assert done.stdout == ""
    assert "failed: tasks: 1 failed" in done.stderr and "  | the cause" in done.stderr


def test_cancelled_elsewhere_is_203(person: Person) -> None:
    process, job = person.begin("submit", person.sleeper(), "--wait")
    person.director.post(f"/jobs/{job}/cancel")
    _, told = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 203, told
    assert f"job {job} cancelled" in told


def test_what_is_not_the_jobs_stands_above(person: Person) -> None:
    assert "tiemout" in person.run("submit", person.file(tiemout="1h"), "--wait", status=202).stderr
    assert "cannot be read" in person.run("submit", "nowhere.yaml", "--wait", status=202).stderr
    assert "no job 999" in person.run("job", "wait", "999", status=202).stderr
    away = ("--wait", "--wait-timeout", "1s")
    assert "orchestrator serve" in person.run("submit", person.file(), *away, status=204, url="http://127.0.0.1:1").stderr
    assert "is not a duration" in person.run("submit", person.file(), "--wait", "--wait-timeout", "soon", status=2).stderr


def test_a_job_that_takes_too_long_goes_on(person: Person) -> None:
    done = person.run("submit", person.sleeper(), "--wait", "--wait-timeout", "2s", "--output", "json", status=205)
    document = json.loads(done.stdout)
    assert document["state"] in ("queued", "running")
    assert f"`orchestrator job wait {document['id']}` waits again" in done.stderr
    person.director.post(f"/jobs/{document['id']}/cancel")


def test_a_key_gives_the_same_job_and_its_status(person: Person) -> None:
    """As a cron line that is started twice."""
    line = ("submit", person.file("exit 6"), "--wait", "--key", "nightly-2026-03-02")
    first = person.run(*line, status=6)
    second = person.run(*line, status=6)
    assert first.stdout == second.stdout
    assert "nothing new was created" in second.stderr
    assert person.run(*line, "--quiet", status=6).stderr.count("nothing new") == 0


# ---- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_signal_detaches(person: Person, number: int, status: int) -> None:
    process, job = person.begin("submit", person.sleeper(), "--wait")
    process.send_signal(number)
    _, told = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == status, told
    assert f"detached: job {job} goes on; `orchestrator job wait {job}`" in told
    assert person.director.job(job)["state"] == "running"
    assert person.director.job(job)["cancel_requested_at"] is None
    person.director.post(f"/jobs/{job}/cancel")


def test_a_signal_cancels_where_that_is_the_rule(person: Person) -> None:
    process, job = person.begin("submit", person.sleeper(), "--wait", "--on-interrupt", "cancel")
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 203, told
    assert f"job {job} is being cancelled" in told
    assert person.director.job(job)["state"] == "cancelled"


def test_a_second_signal_leaves_a_job_that_will_not_end(person: Person) -> None:
    stubborn = person.file("trap '' TERM; while :; do sleep 0.1; done", timeout={"after": "10m", "grace": "20s"})
    process, _ = person.begin("submit", stubborn, "--wait", "--on-interrupt", "cancel")
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert any("is being cancelled" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=15)
    assert process.returncode == 143


# ---- at a terminal ---------------------------------------------------------------------------------------------------


def test_a_terminal_shows_a_picture_and_asks(person: Person) -> None:
    tasks = [
        {"name": "first", "run": "exec sleep 300", "timeout": {"after": "10m", "grace": "1s"}},
        {"name": "second", "run": "true", "needs": ["first"]},
    ]
    terminal = Terminal(person, "submit", person.file(tasks=tasks), "--wait")
    terminal.shows("1 \x1b[36mrunning")
    terminal.shows("nodes:")
    terminal.shows("runs on node")
    [newest] = person.director.get("/jobs", limit=1)["items"]

    terminal.types("\x03")
    terminal.shows("[c]ancel it, [d]etach and let it go on, or Enter to wait on?")
    terminal.types("\n")
    terminal.shows("runs on node")
    assert person.director.job(newest["id"])["cancel_requested_at"] is None

    terminal.types("\x03")
    terminal.shows("[c]ancel")
    terminal.types("c\n")
    terminal.shows("is being cancelled")
    terminal.shows("cancelled after")
    assert terminal.status() == 203


def test_a_terminal_detaches_on_request_and_on_TERM(person: Person) -> None:  # noqa: N802
    terminal = Terminal(person, "submit", person.sleeper(), "--wait")
    terminal.shows("runs on node")
    terminal.types("\x03")
    terminal.shows("[d]etach")
    terminal.types("d\n")
    terminal.shows("detached: job")
    assert terminal.status() == 130
    [job] = person.director.get("/jobs", limit=1)["items"]

    terminal = Terminal(person, "job", "wait", str(job["id"]))
    terminal.shows("runs on node")
    terminal.signal(signal.SIGTERM)
    terminal.shows("detached: job")
    assert terminal.status() == 143

    terminal = Terminal(person, "job", "wait", str(job["id"]), "--on-interrupt", "cancel")
    terminal.shows("runs on node")
    terminal.types("\x03")
    terminal.shows("is being cancelled")
    assert terminal.status() == 203


# ---- a master that goes and comes ------------------------------------------------------------------------------------


def test_a_killed_master_is_waited_for(person: Person) -> None:
    go = person.folder / "go"
    file = person.file(f"until [ -e {go} ]; do sleep 0.1; done; exit 3")
    process, job = person.begin("submit", file, "--wait")
    terminal = Terminal(person, "job", "wait", str(job))
    terminal.shows("runs on node")

    person.director.kill9()
    terminal.shows("no master answers")
    person.stage.start_master()
    terminal.shows("the master answers again")
    go.touch()

    _, told = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 3, told
    assert "no master answers" in told and "the master answers again" in told
    assert terminal.status() == 3


def test_a_submission_waits_for_a_master_that_is_being_started(person: Person) -> None:
    person.director.kill9()
    file = person.file()
    process = subprocess.Popen(
        [*COMMAND, "submit", file, "--wait"], env=person.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "no master answers" in process.stderr.readline()
    person.stage.start_master()
    out, told = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, told
    assert out.strip().isdigit()
