"""Templates, client parameters and secrets in their rows, on both databases."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from orchestrator.agents.claims import claim, holder
from orchestrator.jobs import clients, spec, templates
from orchestrator.jobs.layers import OfClient
from orchestrator.jobs.rerun import Rerun, rerun
from orchestrator.jobs.rotation import rotate
from orchestrator.jobs.secrets import Vault, opened
from orchestrator.jobs.submit import Launch, submit
from orchestrator.model.tables import ClientParam, Job, Template, TemplateVersion

SECRET = "hunter2-hunter2"


def job_file(**values: Any) -> str:
    return json.dumps({"name": "nightly", "client": "acme", "run": "true", **values})


def commit(store: Any, note: str = "", actor: str = "anna", **values: Any) -> templates.Committed:
    source = job_file(**values)
    done: templates.Committed = store.write(lambda tx: templates.commit(tx, spec.parse(source), source, note, actor=actor))
    return done


def find(store: Any, ref: str = "nightly") -> Any:
    with store.engine.connect() as connection:
        return templates.find(connection, ref)


def version(store: Any, ref: str | None = None) -> Any:
    with store.engine.connect() as connection:
        return templates.find_version(connection, find(store), ref)


# ---- versions --------------------------------------------------------------------------------------------------------


def test_a_commit_adds_a_version_and_what_is_current_already_adds_none(store: Any) -> None:
    first, same, second = commit(store, "first"), commit(store, "again"), commit(store, "second", priority=1)
    assert (first.number, first.created) == (1, True)
    assert same == templates.Committed(first.template_id, 1, first.sha256, created=False)
    assert (second.number, second.created) == (2, True) and second.sha256 != first.sha256
    assert [row.note for row in store.rows(TemplateVersion)] == ["first", "second"]
    assert find(store)["number"] == 2
    assert version(store, "1")["sha256"] == version(store, first.sha256[:8])["sha256"] == first.sha256
    assert spec.parse(version(store, "1")["document"]).version == first.sha256
    assert "+++ version 2" in templates.difference(version(store, "1"), version(store))


def test_the_same_job_written_otherwise_is_the_same_version(store: Any) -> None:
    assert commit(store, timeout="2m").created
    assert not commit(store, timeout={"after": 120}, priority=0).created


def test_a_rollback_loses_nothing(store: Any) -> None:
    first, _ = commit(store), commit(store, priority=1)
    store.write(lambda tx: templates.rollback(tx, find(store), 1, actor="ben"))
    assert version(store)["sha256"] == first.sha256
    assert not commit(store).created
    assert commit(store, priority=2).number == 3
    assert "nightly went from version 2 to 1" in store.reasons(subject="template")


def test_a_deleted_template_keeps_its_versions_and_comes_back_with_the_next_commit(store: Any) -> None:
    first = commit(store)
    store.write(lambda tx: templates.delete(tx, find(store), actor="ben"))
    assert find(store) is None
    again = commit(store)
    assert (again.number, again.created, again.template_id) == (2, True, first.template_id)


def test_two_clients_cannot_have_a_template_of_one_name(store: Any) -> None:
    commit(store)
    with pytest.raises(templates.TemplateRefused, match="give this one another name"):
        commit(store, client="globex")
    assert store.count(TemplateVersion) == 1


def test_who_commits_at_the_same_moment_is_next(store: Any) -> None:
    both_commit(store, store)


def test_who_commits_at_the_same_moment_at_another_master_is_next(masters: list[Any]) -> None:
    both_commit(*masters[:2])


def both_commit(one: Any, other: Any, times: int = 8) -> None:
    """Both survive, in order: no version is lost, none has a number twice, the last one is the current one."""
    start = threading.Barrier(2)

    def work(store: Any, actor: str) -> None:
        start.wait()
        for i in range(times):
            commit(store, f"{actor} {i}", actor, env={"BY": actor, "I": str(i)})

    people = [threading.Thread(target=work, args=args) for args in ((one, "anna"), (other, "ben"))]
    for person in people:
        person.start()
    for person in people:
        person.join()
    rows = one.rows(TemplateVersion)
    assert sorted(row.number for row in rows) == list(range(1, 2 * times + 1))
    for actor in ("anna", "ben"):
        notes = [row.note for row in sorted(rows, key=lambda row: row.number) if row.committed_by == actor]
        assert notes == [f"{actor} {i}" for i in range(times)]
    [template] = one.rows(Template)
    assert template.number == 2 * times


def test_every_job_names_its_version(store: Any) -> None:
    commit(store, params={"N": {"type": "integer", "required": True}})
    found = version(store)
    job = spec.parse(found["document"])
    launch = Launch({"N": 5}, template_version_id=found["id"])
    launched = store.write(lambda tx: submit(tx, job, actor="anna", launch=launch)).job_id
    row = store.one(Job, launched)
    assert (row.version, row.template_version_id, row.params) == (found["sha256"], found["id"], {"N": "5"})
    by_hand = store.one(Job, store.submit(job_file()))
    assert (by_hand.version, by_hand.template_version_id) == (spec.parse(job_file()).version, None)


# ---- parameters and secrets ------------------------------------------------------------------------------------------


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "secrets.key")


def set_param(store: Any, vault: Vault, name: str, value: str, *, secret: bool = False) -> None:
    param = OfClient(name, vault.seal(value) if secret else value, secret)
    store.write(lambda tx: clients.set_param(tx, "acme", param, actor="anna"))


def submitted(store: Any, vault: Vault, launch: dict[str, Any] | None = None, **values: Any) -> int:
    brought = Launch(launch or {}, seal=vault.seal)
    job = spec.parse(job_file(**values))
    return int(store.write(lambda tx: submit(tx, job, actor="anna", launch=brought)).job_id)


def everything(store: Any) -> str:
    """All that stands in the database, as text."""
    with store.engine.connect() as connection:
        tables = ("client_param", "job", "task", "event", "template_version")
        return "".join(str(row) for name in tables for row in connection.execute(text(f"SELECT * FROM {name}")))


def test_a_client_s_parameters_reach_its_jobs_and_no_one_else_s(store: Any, vault: Vault) -> None:
    set_param(store, vault, "REGION", "eu")
    set_param(store, vault, "REGION", "us")
    set_param(store, vault, "KEPT", "yes")
    mine = store.one(Job, submitted(store, vault, {"KEPT": "no"}))
    assert (mine.params, mine.spec["params_from"]) == (
        {"KEPT": "no", "REGION": "us"},
        {"KEPT": "launch", "REGION": "client"},
    )
    assert store.one(Job, submitted(store, vault, client="globex")).params == {}
    assert store.write(lambda tx: clients.unset_param(tx, "acme", "REGION", actor="anna"))
    assert not store.write(lambda tx: clients.unset_param(tx, "acme", "REGION", actor="anna"))
    assert store.one(Job, submitted(store, vault)).params == {"KEPT": "yes"}


def test_a_secret_stands_nowhere_in_plain_text(store: Any, vault: Vault) -> None:
    set_param(store, vault, "KEY", SECRET, secret=True)
    declared = {"PIN": {"secret": True, "required": True}}
    job_id = submitted(store, vault, {"PIN": SECRET + "!"}, params=declared)
    node = store.node(store.pool())
    [order] = store.write(lambda tx: claim(tx, holder(tx, node), 1))
    assert SECRET not in everything(store) and SECRET not in str(order)
    assert opened(order["env"], vault) == {"KEY": SECRET, "PIN": SECRET + "!"}
    assert store.one(Job, job_id).spec["params_from"] == {"KEY": "client", "PIN": "launch"}


def test_a_rotation_encrypts_every_secret_anew(store: Any, vault: Vault) -> None:
    set_param(store, vault, "KEY", SECRET, secret=True)
    set_param(store, vault, "OPEN", '{"secret": "no"}')
    job_id = submitted(store, vault, {"DAY": "1"})
    before = vault.path.read_text()
    done = rotate(store.engine, vault)
    assert (done.clients, done.jobs) == (1, 1)
    newest = Vault(vault.path.with_name("newest.key"))
    newest.path.write_text(vault.path.read_text().split()[0])
    row, job = store.rows(ClientParam)[0], store.one(Job, job_id)
    assert newest.open(row.value) == SECRET, "the key before is not needed any more"
    assert opened(job.params, newest) == {"KEY": SECRET}
    assert (job.params["DAY"], job.params["OPEN"]) == ("1", '{"secret": "no"}')
    assert vault.path.read_text().split()[1:] == before.split(), "kept for what was encrypted meanwhile"
    rotate(store.engine, vault)
    assert before.strip() not in vault.path.read_text()


def test_a_rerun_keeps_secrets_and_encrypts_those_it_gives_anew(store: Any, vault: Vault) -> None:
    job_id = submitted(store, vault, {"KEY": SECRET, "DAY": "1"}, params={"KEY": {"secret": True}})
    store.run_one(store.node(store.pool()), exit_code=1)
    asked = Rerun(params={"KEY": SECRET + "!", "DAY": "2"}, seal=vault.seal)
    kept = store.write(lambda tx: rerun(tx, job_id, Rerun(), actor="anna")).job_id
    anew = store.write(lambda tx: rerun(tx, job_id, asked, actor="anna")).job_id
    assert opened(store.one(Job, kept).params, vault) == {"KEY": SECRET}
    assert opened(store.one(Job, anew).params, vault) == {"KEY": SECRET + "!"}
    assert store.one(Job, anew).params["DAY"] == "2"
    assert SECRET not in everything(store)
    assert store.one(Job, anew).version == store.one(Job, job_id).version
    short = Rerun(params={"KEY": "123"}, seal=vault.seal)
    with pytest.raises(spec.SpecError, match="at least 4 characters"):
        store.write(lambda tx: rerun(tx, job_id, short, actor="anna"))
