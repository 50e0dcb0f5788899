"""A job's end becomes rows for those who want to hear of it, in the same transaction, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.jobs import notify_clients
from orchestrator.jobs.notify import MOST, Notify, shown
from orchestrator.jobs.spec import SpecError, parse
from orchestrator.model.tables import Event, Notification

if TYPE_CHECKING:
    from conftest import Store

HOOK = {"webhook": "https://hooks.example.org/services/T0/secret"}
MAIL = {"email": "ops@example.org"}


def end(store: Store, exit_code: int = 0, **values: Any) -> int:
    node = store.node(store.pool())
    job = store.job(**values)
    while store.run_one(node, exit_code=exit_code):
        pass
    return job


def told(store: Store) -> list[str]:
    return [shown(row.target) for row in store.rows(Notification)]


def test_a_job_that_nobody_asks_after_writes_nothing(store: Store) -> None:
    end(store, tasks=2)
    assert store.rows(Notification) == []


@pytest.mark.parametrize(
    ("exit_code", "heard"), [(0, ["ops@example.org"]), (3, ["https://hooks.example.org/…", "ops@example.org"])]
)
def test_each_place_hears_of_the_ends_it_asked_for(store: Store, exit_code: int, heard: list[str]) -> None:
    job = end(store, exit_code, tasks=3, notify=[{**HOOK, "on": ["failed", "cancelled"]}, MAIL])
    assert told(store) == heard
    assert {(row.job_id, row.state, row.tries) for row in store.rows(Notification)} == {(job, "pending", 0)}
    outcome = "failed" if exit_code else "succeeded"
    assert f"ops@example.org is to hear that the job {outcome}" in store.reasons(subject="notification", job_id=job)


def test_a_job_cancelled_before_it_began_is_told_of_too(store: Store) -> None:
    job = store.job(notify=[{**MAIL, "on": "cancelled"}])
    store.cancel(job)
    assert told(store) == ["ops@example.org"]


def test_the_clients_own_list_counts_as_it_is_at_the_end(store: Store) -> None:
    node = store.node(store.pool())
    store.job(notify=[MAIL])
    other = store.submit({"name": "other", "client": "rival", "run": "true"})
    store.write(lambda tx: notify_clients.add(tx, "acme", Notify(**HOOK), actor="me"))
    store.write(lambda tx: notify_clients.add(tx, "acme", Notify(**MAIL), actor="me"))
    while store.run_one(node):
        pass
    assert told(store) == ["ops@example.org", "https://hooks.example.org/…"], "whoever is named twice hears once"
    assert store.rows(Notification, job_id=other) == []


def test_a_clients_list_keeps_its_numbers(store: Store) -> None:
    def add(client: str = "new", **wish: Any) -> int:
        return int(store.write(lambda tx: notify_clients.add(tx, client, Notify(**wish), actor="me"))["number"])

    assert [add(**HOOK), add(**MAIL), add(**HOOK)] == [1, 2, 3], "the client need not have had a job"
    assert store.write(lambda tx: notify_clients.remove(tx, "new", 2, actor="me"))
    assert not store.write(lambda tx: notify_clients.remove(tx, "new", 2, actor="me"))
    assert not store.write(lambda tx: notify_clients.remove(tx, "nobody", 1, actor="me"))
    assert add(**MAIL) == 4
    assert "secret" not in str([row.reason for row in store.rows(Event)]), "the path of a webhook is its password"
    for _ in range(MOST - 3):
        add(**MAIL)
    with pytest.raises(notify_clients.ListFull):
        add(**MAIL)


# ---- the job file ----------------------------------------------------------------------------------------------------


def test_on_is_a_word_in_yaml() -> None:
    text = "name: j\nclient: c\nrun: 'true'\nparams: {COUNTRY: no}\nnotify:\n  - {email: a@b.org, on: [failed]}\n  - webhook: http://h/\n    on: always\n"
    job = parse(text)
    assert [wish.on for wish in job.notify] == [["failed"], ["always"]]
    assert job.params["COUNTRY"].default == "no"
    assert [wish.document() for wish in job.notify] == [{"email": "a@b.org", "on": ["failed"]}, {"webhook": "http://h/"}]


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        ({}, "names one place"),
        ({**HOOK, **MAIL}, "names one place"),
        ({**MAIL, "secret": "s"}, "secret signs webhooks"),
        ({**MAIL, "on": ["never"]}, "on[0]"),
        ({**MAIL, "on": []}, "on"),
        ({"mail": "x"}, "unknown field"),
        *(
            ({"email": text}, "is not one e-mail address")
            for text in (
                "a@b.org\nBcc: x@y.org",
                "a@b.org\r\nBcc: x@y.org",
                "a@b.org, x@y.org",
                "A <a@b.org>",
                "a b@c.org",
                "a@b.org\n",
                "ä@b.org",
                "a",
                "@b",
            )
        ),
        *(
            ({"webhook": text}, "is not the URL of a webhook")
            for text in (
                "ftp://h/",
                "file:///etc/passwd",
                "//h/",
                "http://u:p@h/",
                "http://h/ x",
                "http://h/\r\nX: y",
                "http://h\\@x/",
                "http://",
                "http://h/é",
            )
        ),
        ({"webhook": "http://h:65536/"}, "no valid port"),
        ({"webhook": "http://h:0/"}, "no valid port"),
    ],
)
def test_what_is_no_place_is_refused(wish: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse({"name": "j", "client": "c", "run": "true", "notify": [wish]})
    assert "notify[0]" in str(refused.value) and complaint in str(refused.value)
