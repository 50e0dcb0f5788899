"""Backups of a running master, and the way back while machines run that the backup does not know."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from theatre import Director, lines, until

from orchestrator import backup
from orchestrator.demo.stage import Stage, stage
from orchestrator.jobs.secrets import Vault
from orchestrator.model.tables import Attempt, Node, Task
from orchestrator.settings import Settings
from orchestrator.store.installation import installation_id
from providers.base import TAG_LAUNCH

QUICK = "look_s = 1\norphan_grace_s = 2"
pytestmark = pytest.mark.timeout(600)  # whole masters start and stop, which takes long on a busy host


def orchestrator(folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The command, as an operator gives it on the master's host."""
    environment = {**os.environ, **{f"ORCHESTRATOR_{name.upper()}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "orchestrator", *words]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60)


def on(here: Stage, *words: str) -> str:
    done = orchestrator(here.folder, *words, "--config", str(here.config))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path / "stage", tmp_path / "data", boot_delay_s=0.1, stop_delay_s=0.1, settings=QUICK) as opened:
        (tmp_path / "marks").mkdir()
        yield opened


def job(name: str, marks: Path) -> dict[str, object]:
    run = f"echo {name} >> {marks}/begun; echo begun; until [ -e {marks}/go-{name} ]; do sleep 0.05; done; echo done"
    target = {"token": f"{name}-$JOB_ID", "infrastructure": {"pool": "local", "count": 1}}
    return {"name": name, "client": "acme", "run": run, **target}


def test_restored_while_machines_run(here: Stage, tmp_path: Path) -> None:
    """One job ran when the backup was made; another came later, with a machine that the backup does not know."""
    director, marks, file = Director(here), tmp_path / "marks", tmp_path / "master.backup"
    director.pool()
    known = director.submit(job("known", marks))
    until(lambda: lines(marks / "begun") == ["known"])
    said = on(here, "backup", str(file))
    assert director.get("/jobs")["items"][0]["state"] == "running", "the master went on meanwhile"
    assert str(file) in said and file.stat().st_mode & 0o777 == 0o600
    director.submit(job("forgotten", marks), key="its key")
    until(lambda: lines(marks / "begun") == ["known", "forgotten"])
    token = here.token

    refused = orchestrator(here.folder, "restore", str(file), "--config", str(here.config))
    assert (refused.returncode, "another master" in refused.stderr) == (2, True), "not under a running master"
    director.kill9()
    refused = orchestrator(here.folder, "restore", str(file), "--config", str(here.config))
    assert (refused.returncode, "--replace" in refused.stderr) == (2, True)
    on(here, "restore", str(file), "--replace")
    here.start_master()

    assert here.token == token
    assert [each["name"] for each in director.get("/jobs")["items"]] == ["known"]
    again = director.submit(job("forgotten", marks), key="its key")  # as its client does, who finds it gone
    for name in ("known", "forgotten"):
        (marks / f"go-{name}").touch()
    for each, name in ((known, "known"), (again, "forgotten")):
        assert director.finished(each)["state"] == "succeeded"
        assert director.log(each, name) == "begun\ndone\n", "no line of the log that had its number"
    director.all_gone()
    ends = [node["end_reason"] for node in director.nodes() if node["instance_id"]]
    assert sorted(ends) == ["job_done", "job_done", "restored"]
    told = [event["reason"] for event in director.events()]
    assert any("orphan" in reason for reason in told), "the forgotten job's machine"
    assert any(reason.startswith("restored from the backup") for reason in told)
    launched = [tag["Value"] for m in director.machines() for tag in m["Tags"] if tag["Key"] == TAG_LAUNCH]
    assert len(launched) == len(set(launched)) == 4, "no idempotency token was used for another launch"
    assert list(here.data_dir.glob("orchestrator.db.before-restore-*")), "and what was there is kept"
    assert list(here.data_dir.glob("logs/*/*.log.before-restore-*"))


@pytest.mark.parametrize("content", [b"", b"not a backup", b"PK" * 6000])
def test_a_file_that_is_no_backup(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    done = orchestrator(tmp_path, "restore", "file", data_dir=str(tmp_path / "data"))
    assert done.returncode == 2 and "not a whole backup" in done.stderr
    assert not list((tmp_path / "data").glob("*.db"))


def test_a_backup_of_nothing(tmp_path: Path) -> None:
    done = orchestrator(tmp_path, "backup", "file", data_dir=str(tmp_path / "data"))
    assert done.returncode == 2 and "there is no database" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_backup_brings_the_keys_of_secrets_back_to_where_the_settings_keep_them(
    migrated_sqlite: Path, tmp_path: Path, store_at: Any
) -> None:
    settings = Settings(data_dir=tmp_path / "data", secrets_key=tmp_path / "keys" / "of secrets")
    settings.data_dir.mkdir()
    shutil.copy(migrated_sqlite, settings.data_dir / "orchestrator.db")
    store_at(settings.database).write(installation_id)
    sealed = Vault(settings.secrets_file).seal("hunter2")
    backup.back_up(settings, tmp_path / "file")
    shutil.rmtree(tmp_path / "keys")
    backup.restore(settings, tmp_path / "file", replace=True)
    assert Vault(settings.secrets_file).open(sealed) == "hunter2"
    assert settings.secrets_file.stat().st_mode & 0o777 == 0o600


def test_postgresql_has_its_own_tools(tmp_path: Path) -> None:
    """The command names them, and hides the password."""
    done = orchestrator(
        tmp_path, "backup", "file", database_url="postgresql://eo:hunter2@db/eo", data_dir=str(tmp_path / "data")
    )
    assert done.returncode == 2
    assert "pg_dump" in done.stderr and "master.key" in done.stderr and "secrets.key" in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_postgresql_that_was_restored_by_its_own_tools(database_url: str, tmp_path: Path, store_at: Any) -> None:
    store = store_at(database_url)
    node = store.node(store.pool())
    job = store.job()
    (attempt,) = store.claim(node)
    log = tmp_path / "data" / "logs" / "000000" / f"{attempt + 1}.log"
    log.parent.mkdir(parents=True)
    log.touch()
    done = orchestrator(tmp_path, "restore", database_url=database_url, data_dir=str(tmp_path / "data"))
    assert done.returncode == 0 and "1 node(s) will be ended" in done.stdout, done.stderr
    assert (store.state(Node, node), store.one(Node, node).end_reason) == ("terminating", "restored")
    assert store.states(Attempt) == ["lost"] and store.states(Task, job_id=job) == ["queued"]
    assert store.node(1) > backup.PASSED_OVER and store.job() > backup.PASSED_OVER
    assert not log.exists(), "the number of that attempt may be given again"


def test_migrate_and_a_schema_too_new(tmp_path: Path) -> None:
    settings = {"data_dir": str(tmp_path / "data"), "port": "0"}
    assert "none → 0001" in orchestrator(tmp_path, "migrate", "--to", "0001", **settings).stdout
    assert "0001 → " in orchestrator(tmp_path, "migrate", **settings).stdout
    back = orchestrator(tmp_path, "migrate", "--to", "0001", **settings)
    assert (back.returncode, back.stdout.strip().endswith("→ 0001")) == (0, True)
    wrong = orchestrator(tmp_path, "migrate", "--to", "1789", **settings)
    assert (wrong.returncode, "there are 0001" in wrong.stderr) == (2, True)
    database = sqlite3.connect(tmp_path / "data" / "orchestrator.db")
    database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.commit()
    database.close()
    for command in ("serve", "migrate"):
        refused = orchestrator(tmp_path, command, **settings)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1, "one line, no trace"
        assert "schema 9999" in refused.stderr and "Install that version again" in refused.stderr
