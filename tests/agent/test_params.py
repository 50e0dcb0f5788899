"""Parameters with a real agent and a real shell: every value arrives as itself, and no secret comes back in a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_master import RealMaster, real_master

from orchestrator.jobs import spec
from orchestrator.jobs.secrets import Vault
from orchestrator.jobs.submit import Launch, submit
from orchestrator.model.tables import Attempt, Job

HOSTILE = [
    "plain",
    "",
    " two  spaces ",
    'it\'s "quoted" and `ticked`',
    "$(touch pwned); touch pwned & touch pwned",
    "${HOME} $HOME %s %n \\n \\\\ \\",
    "first line\nsecond line\n\nlast\n",
    "-n --help",
    "*?[a]~!#",
    "naïve — 世界 🚀",
    "\x01\x1b[31m\t\r",
    "a" * 32_768,
]


@pytest.fixture
def master(store: Any, tmp_path: Path) -> Iterator[RealMaster]:
    with real_master(store, tmp_path, log_limit=1_000_000) as running:
        yield running


@pytest.fixture
def boot(master: RealMaster, pyz: Path) -> Iterator[Callable[[], None]]:
    """Starts a machine and waits until its node is ready."""
    node_id, box = master.machine(pyz)

    def start() -> None:
        box.start()
        master.ready(node_id)

    yield start
    box.close()


@pytest.fixture
def vault(master: RealMaster, tmp_path: Path) -> Vault:
    """By the same file as the running master's."""
    return Vault(tmp_path / "secrets.key")


def submitted(master: RealMaster, vault: Vault, document: dict[str, Any], params: dict[str, Any]) -> int:
    job = spec.parse({"name": "job", "client": "acme", **document})
    launch = Launch(params, seal=vault.seal)
    return int(master.store.write(lambda tx: submit(tx, job, actor="tester", launch=launch)).job_id)


def test_hostile_values_arrive_as_themselves(master: RealMaster, vault: Vault, boot: Callable[[], None]) -> None:
    params = {f"V{i}": value for i, value in enumerate(HOSTILE)}
    run = "".join(f'printf "%s\\0" "$V{i}"\n' for i in range(len(HOSTILE))) + "ls"
    boot()
    job_id = submitted(master, vault, {"run": run}, params)
    assert master.finished(job_id).state == "succeeded"
    *values, files = master.log(job_id).split(b"\0")
    assert [value.decode() for value in values] == HOSTILE
    assert files == b"", "nothing in a value was carried out"


def test_a_secret_reaches_its_task_and_not_its_log(master: RealMaster, vault: Vault, boot: Callable[[], None]) -> None:
    secret = "hunter2 'and' $(more)\nsecond-line-of-it"
    run = """
        printf '%s' "$KEY" | wc -c
        echo "whole: $KEY."
        env | grep ^KEY=
        printf 'in pieces: hunter2 '; sleep 0.6; printf "'and' "; sleep 0.6; printf '$(more)\\nsecond'; sleep 0.6
        echo '-line-of-it, and on'
    """
    boot()
    job_id = submitted(master, vault, {"run": run, "params": {"KEY": {"secret": True}}}, {"KEY": secret})
    assert master.finished(job_id).state == "succeeded"
    first, whole = "*" * len(secret.splitlines()[0]), "*" * len(secret)
    log = master.log(job_id)
    assert log.decode().split("\n") == [
        str(len(secret)),
        f"whole: {whole}.",
        f"KEY={first}",
        f"in pieces: {whole}, and on",
        "",
    ]
    [attempt] = master.store.rows(Attempt)
    assert attempt.log_size == len(log), "offsets are the agent's own"


def test_a_secret_that_no_key_opens_fails_its_task_and_says_why(
    master: RealMaster, vault: Vault, boot: Callable[[], None]
) -> None:
    document = {"run": "true", "params": {"KEY": {"secret": True}}, "retry": {"infrastructure_attempts": 2}}
    job_id = submitted(master, vault, document, {"KEY": "hunter2"})
    vault.path.unlink()
    boot()
    task = master.finished(job_id)
    assert (task.state, task.attempts) == ("failed", 2)
    assert "secret parameter KEY: there is no key file" in task.reason
    assert master.store.state(Job, job_id) == "failed"
    healthy = submitted(master, vault, {"run": "true"}, {})
    assert master.finished(healthy).state == "succeeded", "others' tasks run there"
