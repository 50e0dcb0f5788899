"""The command line as a person has it: the real command, a real master process, a local cloud whose machines boot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from orchestrator.cli.audit import audit
from orchestrator.cli.session import Output, Session
from orchestrator.demo.stage import Stage, stage

DEADLINE_S = 60.0
LAUNCH = ("--cloud", "local", "--image", "ami-local", "--instance-type", "t3.micro")
COMMAND = (sys.executable, "-m", "orchestrator")
PLAIN = {key: value for key, value in os.environ.items() if not key.startswith("ORCHESTRATOR_")}


@dataclass
class Cli:
    """Runs the command in a folder of its own, told by the environment where the master is."""

    stage: Stage
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return PLAIN | {"ORCHESTRATOR_URL": self.stage.url, "ORCHESTRATOR_TOKEN": self.stage.token}

    def run(
        self, *arguments: str, status: int = 0, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command's result; its exit status is as expected, and it never shows a traceback."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            cwd=self.folder,
            env=env or self.env,
        )
        assert done.returncode == status, f"exit {done.returncode}, wanted {status}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def together(self, *lines: tuple[str, ...], status: int = 0, stdin: str = "") -> list[subprocess.CompletedProcess[str]]:
        """Commands that do not mind each other, at once."""
        with ThreadPoolExecutor(3) as threads:
            return list(threads.map(lambda line: self.run(*line, status=status, stdin=stdin), lines))

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--output", "json", status=status).stdout)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder, env=self.env
        )

    def api(self, path: str) -> Any:
        """What the master says, for waiting without a process each time."""
        with self.stage.api() as api:
            return api.get(f"/{path}").json()

    def ready_node(self) -> int:
        found = until(lambda: self.api("nodes?state=ready")["items"], "the machine that is kept up")
        return int(found[0]["id"])

    def file(self, name: str, **document: Any) -> str:
        """A job file; JSON is YAML too."""
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps({"name": name, "client": "acme", **document}))
        return str(path)

    def sleeper(self, name: str) -> str:
        """A job that takes long, on the machine that is kept up; it ends at once when it is asked to."""
        return self.file(name, run="echo begun; exec sleep 300", timeout={"after": "10m", "grace": "1s"})


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A master with one pool that keeps a machine up, so that jobs without a token need not wait for one."""
    root = tmp_path_factory.mktemp("cli")
    with stage(root / "stage", root / "data", boot_delay_s=0.2, stop_delay_s=0.1) as here:
        (root / "work").mkdir()
        cli = Cli(here, root / "work")
        cli.run("pool", "create", "main", *LAUNCH, "--max-nodes", "4", "--slots", "4", "--launch", "sizes.LARGE=m5.large")
        cli.run("pool", "scale", "main", "1")
        yield cli


def until(true: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if result := true():
            return result
        time.sleep(0.1)
    raise AssertionError(f"never came: {what}")


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the command told so far, up to the line with this text."""
    assert process.stderr is not None
    told = ""
    for line in process.stderr:
        told += line
        if text in line:
            return told
    raise AssertionError(f"{text!r} was never told:\n{told}")


# ---- jobs ------------------------------------------------------------------------------------------------------------


def test_a_job_is_submitted_waited_for_and_read(cli: Cli) -> None:
    tasks = [
        {"name": "first", "run": 'printf "%s \\303\\251\\377" "$WHO"'},
        {"name": "second", "run": "echo and $WHERE", "needs": ["first"]},
    ]
    rented = {"token": "two-$JOB_ID", "infrastructure": {"pool": "main", "count": 1}}
    file = cli.file("two", params={"WHO": "file", "WHERE": "there"}, tasks=tasks, **rented)

    done = cli.run("submit", file, "--param", "WHO=launch=wins", "--wait")

    job = done.stdout.strip()
    assert job.isdigit()
    assert f"job {job} succeeded" in done.stderr
    log = subprocess.run([*COMMAND, "job", "logs", job, "--task", "first"], capture_output=True, env=cli.env)
    assert log.stdout == b"launch=wins \xc3\xa9\xff", "a log comes byte for byte"
    log = subprocess.run([*COMMAND, "job", "logs", job], capture_output=True, env=cli.env)
    assert log.stdout == b"first | launch=wins \xc3\xa9\xff\nsecond | and there\n"
    assert "first, second" in cli.run("job", "logs", job, "--tail", "1", status=2).stderr
    shown = cli.run("job", "show", job).stdout
    assert "2 of 2 ended" in shown and "second" in shown
    assert "ended succeeded" in cli.run("job", "explain", job).stdout
    assert f"job {job} queued → running" in cli.run("events", "--job", job).stdout
    assert "had ended already" in cli.run("job", "cancel", job).stdout


def test_a_failed_job_goes_on_where_it_failed(cli: Cli) -> None:
    tasks = [
        {"name": "first", "run": 'echo WORD=kept >> "$ORCHESTRATOR_OUTPUT"'},
        {"name": "second", "run": 'echo "$WORD"; exit "$CODE"', "needs": ["first"]},
        {"name": "many", "array": 101, "run": "true", "needs": ["second"]},
    ]
    job = cli.run("submit", cli.file("again", params={"CODE": "3"}, tasks=tasks), "--wait", status=3).stdout.strip()
    shown = cli.run("job", "show", job).stdout
    assert "many    101" in shown and "101 skipped" in shown and "many[0]" not in shown
    assert "upstream_failed: needs second" in cli.run("job", "show", job, "--name", "many[7]").stdout
    again = cli.run("job", "rerun", job, "--failed", "--param", "CODE=0", "--wait").stdout.strip()
    assert cli.run("job", "logs", again, "--task", "second").stdout == "kept\n"
    shown = cli.run("job", "show", again, "--state", "succeeded", "--limit", "2").stdout
    assert f"rerun of   {job}" in shown and f"kept from job {job}" in shown
    assert cli.json("job", "show", job)["reruns"] == [int(again)]
    assert "all of job" in cli.run("job", "rerun", again, "--failed", status=2).stderr


def test_following_a_log_survives_a_restart_of_the_master(cli: Cli) -> None:
    file = cli.file("survivor", run='echo begun; while [ ! -e "$GO" ]; do sleep 0.1; done; echo done')
    go = cli.folder / "go"
    job = cli.run("submit", file, "--param", f"GO={go}").stdout.strip()
    following = cli.begin("job", "logs", job, "--follow")
    assert following.stdout is not None and following.stdout.readline() == "begun\n"

    cli.stage.master.send_signal(signal.SIGTERM)
    cli.stage.master.wait(DEADLINE_S)
    cli.stage.start_master()
    go.touch()

    assert following.communicate(timeout=DEADLINE_S)[0] == "done\n"
    assert following.returncode == 0


def test_logs_of_several_tasks_are_followed_across_a_restart(cli: Cli) -> None:
    """Each line comes once, whole, with its task's name; a retry is told apart; the command ends with the job."""
    wait = 'while [ ! -e "$GO" ]; do sleep 0.1; done'
    tasks = [
        {"name": "a", "run": f"printf 'a 1\\na '; {wait}; echo 2"},
        {
            "name": "b",
            "run": f"{wait}; echo b $ORCHESTRATOR_ATTEMPT; exit $((2 - ORCHESTRATOR_ATTEMPT))",
            "retry": {"attempts": 2},
        },
        {"name": "c", "run": "printf end", "needs": ["a", "b"]},
    ]
    go = cli.folder / "go-on"
    job = cli.run("submit", cli.file("several", tasks=tasks), "--param", f"GO={go}").stdout.strip()
    following = cli.begin("job", "logs", job, "-f")
    assert following.stdout is not None and following.stdout.readline() == "a | a 1\n"
    cli.stage.master.send_signal(signal.SIGTERM)
    cli.stage.master.wait(DEADLINE_S)
    cli.stage.start_master()
    go.touch()
    told, why = following.communicate(timeout=DEADLINE_S)
    assert following.returncode == 0, why
    assert sorted(told.splitlines()) == ["a | a 2", "b | b 1", "b#2 | b 2", "c | end"]
    assert cli.run("job", "logs", job, "--task", "b", "--attempt", "1").stdout == "b 1\n"
    assert "no attempt 3" in cli.run("job", "logs", job, "--task", "b", "--attempt", "3", status=2).stderr


def test_what_a_job_left_is_listed_and_fetched(cli: Cli) -> None:
    """On a machine that is gone by then; nothing is written outside the folder that was named."""
    tasks = [
        {"name": "first", "run": "mkdir out; printf one > out/a.csv; printf two > 'b c.txt'", "artifacts": ["**"]},
        {"name": "second", "run": "printf three > a.csv; exit 1", "artifacts": ["*.csv"], "artifacts_on": "always"},
    ]
    rented = {"token": "left-$JOB_ID", "infrastructure": {"pool": "main", "count": 1}}
    job = cli.run("submit", cli.file("leaves", tasks=tasks, **rented), "--wait", status=1).stdout.strip()
    listed = json.loads(cli.run("job", "artifacts", job, "--output", "json").stdout)["items"]
    assert sorted((item["task"], item["path"], item["size"]) for item in listed) == [
        ("first", "b c.txt", 3), ("first", "out/a.csv", 3), ("second", "a.csv", 5),
    ]  # fmt: skip
    assert "out/a.csv" in cli.run("job", "artifacts", job).stdout
    to = cli.folder / "fetched"
    cli.run("job", "download", job, "--to", str(to))
    found = {str(path.relative_to(to)): path.read_text() for path in to.rglob("*") if path.is_file()}
    assert found == {"first/out/a.csv": "one", "first/b c.txt": "two", "second/a.csv": "three"}
    cli.run("job", "download", job, "*.txt", "--task", "first", "--to", str(cli.folder / "one"))
    assert [path.name for path in (cli.folder / "one").rglob("*") if path.is_file()] == ["b c.txt"]
    assert "is like *.pdf" in cli.run("job", "download", job, "*.pdf", status=2).stderr

    trap = cli.folder / "trap"
    trap.mkdir()
    (cli.folder / "outside").mkdir()
    (trap / "first").symlink_to(cli.folder / "outside")
    assert "leads out" in cli.run("job", "download", job, "--to", str(trap), status=2).stderr
    assert not list((cli.folder / "outside").iterdir())


def test_first_last_and_found_lines(cli: Cli) -> None:
    job = cli.run("submit", cli.file("lines", run="seq -f 'line %g' 2000; printf 'No End'"), "--wait").stdout.strip()
    assert cli.run("job", "logs", job, "--head", "2").stdout == "line 1\nline 2\n"
    assert cli.run("job", "logs", job, "--tail", "2").stdout == "line 2000\nNo End"
    assert cli.run("job", "logs", job, "-f", "--tail", "1").stdout == "No End"
    assert cli.run("job", "logs", job, "--search", "LINE 199").stdout.splitlines() == [
        "lines:199: line 199",
        *(f"lines:{number}: line {number}" for number in range(1990, 2000)),
    ]
    assert cli.run("job", "logs", job, "--search", "no end").stdout == "lines:2001: No End\n"
    assert "no line" in cli.run("job", "logs", job, "--search", "line [0-9]").stderr, "a text, not a pattern"
    assert "only one" in cli.run("job", "logs", job, "--head", "1", "--tail", "1", status=2).stderr


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"tasks": [{"name": "a", "run": "true", "needs": ["b"]}]}, "bad.yaml:1: tasks[0].needs[0]: no task is named 'b'"),
        ({"run": "true", "tiemout": "1h"}, "bad.yaml:1: tiemout: unknown field"),
        ({"run": "true", "infrastructure": {"pool": "nowhere", "count": 1}, "token": "t"}, "nowhere"),
    ],
    ids=["a need without a task", "an unknown field", "an unknown pool"],
)
def test_a_bad_job_file_is_refused_whole(cli: Cli, document: dict[str, Any], told: str) -> None:
    file = cli.file("bad", **{"client": "refused", **document})
    done = cli.run("submit", file, status=2)
    assert told in done.stderr
    assert done.stdout == ""
    assert cli.api("jobs?client=refused")["items"] == []


def test_files_that_cannot_be_read_are_refused_before_the_master_is_asked(cli: Cli) -> None:
    text = "name: x\nclient: acme\nrun: true\n"
    bad = {
        "nowhere.yaml": (None, "nowhere.yaml: cannot be read"),
        "syntax.yaml": ("name: [x\nrun: y", "syntax.yaml:2: $: not valid YAML"),
        "list.yaml": ("[]", "a job file is a mapping"),
        "date.yaml": (
            text + "params: {DAY: 2025-01-31}",
            "date.yaml:4: params.DAY: 2025-01-31 is not text but a date; put it in quotes",
        ),
    }
    for name, (content, _) in bad.items():
        if content is not None:
            (cli.folder / name).write_text(content)
    away = ("--url", "http://127.0.0.1:1")
    told = [done.stderr for done in cli.together(*(("submit", name, *away) for name in bad), status=2)]
    for line, (_, wanted) in zip(told, bad.values(), strict=True):
        assert wanted in line
    assert "KEY=VALUE" in cli.run("submit", "-", "--param", "x", *away, stdin=text, status=2).stderr


def test_the_settings_say_where_the_master_and_its_token_are(cli: Cli) -> None:
    config = ("--config", str(cli.stage.config))
    assert cli.run("job", "list", *config, env=PLAIN).stdout.startswith("ID")
    here = str(cli.folder)
    told = cli.run("job", "list", "--url", cli.stage.url, status=2, env={**PLAIN, "ORCHESTRATOR_DATA_DIR": here}).stderr
    assert f"{here}/admin.token cannot be read" in told
    assert "admin.token" in cli.run("job", "list", "--token", "eo_wrong", status=2).stderr
    # The token of this host's master goes to no other host.
    known = Session(Output.TEXT, "http://master.example", None, cli.stage.config)
    assert "authorization" not in known.api._http.headers
    assert "authorization" in Session(Output.TEXT, cli.stage.url, None, cli.stage.config).api._http.headers


def test_without_a_master_the_status_is_4_and_the_fix_is_told(cli: Cli) -> None:
    away = ("--url", "http://127.0.0.1:1")
    submit = ("submit", cli.sleeper("nowhere"))
    for told in cli.together(("job", "list", *away), (*submit, *away), ("events", "--follow", *away), status=4):
        assert "orchestrator serve" in told.stderr
        assert told.stdout == ""


def test_wrong_settings_are_told_by_name(cli: Cli) -> None:
    wrong = cli.folder / "wrong.toml"
    wrong.write_text('port = "many"\nnonsense = 1\n')
    for arguments in (("job", "list"), ("serve",)):
        done = subprocess.run(
            [*COMMAND, *arguments, "--config", str(wrong)], capture_output=True, text=True, env=PLAIN, timeout=DEADLINE_S
        )
        assert done.returncode == 2
        assert "port: " in done.stderr and "nonsense: " in done.stderr and "Traceback" not in done.stderr


# ---- submitting twice ------------------------------------------------------------------------------------------------


def test_a_key_makes_asking_again_safe(cli: Cli) -> None:
    file = cli.file("once", run="true")
    first = cli.json("submit", file, "--idempotency-key", "once")
    second = cli.run("submit", file, "--idempotency-key", "once")
    assert second.stdout.strip() == str(first["id"])
    assert "nothing new was created" in second.stderr


# ---- pools, nodes, audit ---------------------------------------------------------------------------------------------


def test_pools(cli: Cli) -> None:
    made = cli.json("pool", "create", "spare", *LAUNCH, "--launch", 'security_group_ids=["sg-1"]', "--boot-timeout", "77")
    assert made["launch"]["security_group_ids"] == ["sg-1"]
    assert (made["boot_timeout_s"], made["max_nodes"]) == (77, 10)
    assert "there already" in cli.run("pool", "create", "spare", *LAUNCH, status=2).stderr
    assert "error: launch: 'speed'" in cli.run("pool", "create", "x", *LAUNCH, "--launch", "speed=9", status=2).stderr
    assert "error: min_nodes: " in cli.run("pool", "scale", "spare", "11", status=2).stderr
    assert cli.api("pools/spare")["min_nodes"] == 0, "nothing was raised"
    assert cli.json("pool", "pause", "spare")["state"] == "paused"
    assert "paused" in cli.run("pool", "explain", "spare").stdout
    assert cli.json("pool", "resume", "spare")["state"] == "active"
    assert cli.api("pools/main")["launch"]["sizes"] == {"LARGE": "m5.large"}
    assert "is being deleted" in cli.run("pool", "delete", "spare").stdout
    for verb in ("show", "delete"):
        assert "there is no pool nowhere" in cli.run("pool", verb, "nowhere", status=2).stderr


def test_nodes(cli: Cli) -> None:
    number = str(cli.ready_node())
    listed = cli.run("node", "list", "--pool", "main").stdout
    assert number in listed and "ready" in listed
    assert "machine" in cli.run("node", "explain", number).stdout
    assert "booting" not in cli.run("node", "show", number).stdout
    assert cli.json("node", "terminate", number)["state"] in ("draining", "terminating")
    until(lambda: cli.api(f"nodes/{number}")["state"] == "terminated", "its end")
    ended = cli.json("node", "list", "--state", "terminated")["items"]
    assert int(number) in [node["id"] for node in ended]
    assert "no node 999" in cli.run("node", "show", "999", status=2).stderr
    assert "no pool nowhere" in cli.run("node", "list", "--pool", "nowhere", status=2).stderr


def test_audit_agrees_or_says_what_does_not(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    cli.ready_node()
    assert "accounted for" in cli.run("audit").stdout
    cli.stage.cloud.faults({"action": "DescribeInstances", "error": "UnauthorizedOperation", "status": 403})
    try:
        assert "trouble: cloud local does not answer" in cli.run("audit", status=1).stderr
    finally:
        cli.stage.cloud.clear_faults()

    orphan = {"cloud": "local", "machine": "i-1", "cloud_says": "running", "node": None, "we_say": "unknown"}
    orphan["trouble"] = "orphan: ours, but no node's"
    document = {"agrees": False, "alive": 1, "accounted": 0, "unreachable": {}, "findings": [orphan]}
    session = Session(Output.TEXT, None, None, None)
    session.__dict__["api"] = SimpleNamespace(get=lambda path: document)
    with pytest.raises(typer.Exit) as ended:
        audit(session)
    assert ended.value.exit_code == 1
    assert "trouble: machine i-1 in cloud local: orphan" in capsys.readouterr().err


def test_json_is_one_document_and_nothing_else(cli: Cli) -> None:
    job = cli.run("submit", cli.file("document", run="true"), "--wait").stdout.strip()
    lines = [
        ("job", "list", "--limit", "1"),
        ("job", "explain", job),
        ("job", "wait", job),
        ("pool", "list"),
        ("node", "list", "--all"),
        ("audit",),
        ("events", "--limit", "3"),
    ]
    for done in cli.together(*((*line, "--output", "json") for line in lines)):
        assert isinstance(json.loads(done.stdout), dict), done.args
    assert [task["state"] for task in cli.json("job", "show", job)["task_list"]] == ["succeeded"]


# ---- the command itself ----------------------------------------------------------------------------------------------


def test_help_is_quick_because_it_loads_nothing_heavy() -> None:
    heavy = ("httpx", "rich", "pydantic", "sqlalchemy", "fastapi", "yaml", "boto3")
    code = f"import sys, orchestrator.cli.main; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
    told = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True).stdout
    assert "Exit status" in told
    for name in ("serve", "submit", "job", "pool", "node", "audit", "events"):
        assert name in told
