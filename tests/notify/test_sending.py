"""Notifications go out at least once and say who they are; what fails is tried again, and given up with its reason."""

from __future__ import annotations

import re
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from receiver import Got, Receiver
from receivers import Post

from orchestrator.model.tables import Job, Notification, Template, TemplateVersion, table
from orchestrator.notify.sender import LEASE_S, PATIENCE, again_in_s
from orchestrator.settings import Settings
from orchestrator.store.writer import Writer

if TYPE_CHECKING:
    from conftest import Store


DOCUMENT = Path(__file__).parents[2] / "docs" / "notifications.md"


def signed(got: Got, secret: str) -> bool:
    """As the documents tell receivers to check it."""
    scope: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[1], scope)  # type: ignore[index]
    genuine, sent_at, seen = scope["genuine"], float(got.headers["X-Orchestrator-Timestamp"]), set[str]()
    fresh = bool(genuine(got.headers, got.body, secret, seen, lambda: sent_at + 60))
    assert not genuine(got.headers, got.body, secret, seen, lambda: sent_at + 60), "a double, or a forgery"
    assert not genuine(got.headers, got.body, secret, set(), lambda: sent_at + 900), "a replay"
    assert not genuine(got.headers, got.body + b" ", secret, set(), lambda: sent_at), "not what was signed"
    return fresh


def test_a_webhook_tells_the_whole_story_signed(post: Post, receiver: Receiver, store: Store) -> None:
    job = post.ended_job({"webhook": receiver.url}, exit_code=7)

    assert post.step() is None, "nothing is left to do"

    [got] = receiver.got
    assert got.headers["X-Orchestrator-Event"] == got.document["event"] == "job.failed"
    assert got.headers["X-Orchestrator-Id"] == got.document["id"] == "eo-test-1"
    assert int(got.headers["X-Orchestrator-Timestamp"]) == int(store.clock().timestamp())
    assert signed(got, post.courier.secret())
    told = got.document["job"]
    assert (told["id"], told["name"], told["client"], told["state"]) == (job, "job", "acme", "failed")
    assert told["reason"] == "tasks: 1 failed"
    assert told["url"] == f"http://127.0.0.1:8642/#/jobs/{job}"
    assert told["submitted_at"] <= told["finished_at"]
    assert (told["template"], told["template_version"]) == (None, None)
    [task] = got.document["failed_tasks"]
    assert (task["name"], task["exit_code"], task["attempts"]) == ("t0", 7, 1)
    [row] = store.rows(Notification)
    assert (row.state, row.tries, row.sent_at, row.run_after) == ("sent", 1, store.clock(), None)
    assert "answered 204" in row.reason
    post.step()
    assert len(receiver.got) == 1, "once sent it is done with"


def test_a_job_from_a_template_names_its_version(post: Post, receiver: Receiver, store: Store) -> None:
    job = post.ended_job({"webhook": receiver.url})
    client = store.one(Job, job).client_id
    now = {"created_at": store.clock()}
    store.write(
        lambda tx: tx.connection.execute(table(Template).insert().values(name="nightly", client_id=client, number=3, **now))
    )
    version = {
        "template_id": 1,
        "number": 3,
        "sha256": "ab",
        "document": {},
        "source": "",
        "note": "",
        "committed_by": "me",
    }
    version["committed_at"] = store.clock()
    store.write(lambda tx: tx.connection.execute(table(TemplateVersion).insert().values(version)))
    store.force(Job, job, template_version_id=1)
    post.step()
    told = receiver.got[0].document["job"]
    assert (told["template"], told["template_version"]) == ("nightly", 3)


def test_a_named_secret_is_the_clients_own(post: Post, receiver: Receiver) -> None:
    post.ended_job({"webhook": receiver.url, "secret": "billing"})
    post.step()
    [got] = receiver.got
    assert signed(got, post.courier.secret("acme", "billing"))
    assert not signed(got, post.courier.secret())
    assert not signed(got, post.courier.secret("rival", "billing"))


def test_a_secret_of_the_settings_is_used(post: Post, receiver: Receiver) -> None:
    post.settings = post.settings.model_copy(update={"webhook_secret": SecretStr("mine")})
    post.ended_job({"webhook": receiver.url})
    post.step()
    assert signed(receiver.got[0], "mine")


def test_https_is_checked_against_the_hosts_authorities(
    post: Post, secure_receiver: Receiver, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.ended_job({"webhook": secure_receiver.url})
    post.step()
    assert store.states(Notification) == ["sent"]
    monkeypatch.delenv("SSL_CERT_FILE")
    post.ended_job({"webhook": secure_receiver.url})
    post.step()
    assert store.states(Notification) == ["sent", "pending"]
    assert "certificate" in store.one(Notification, 2).reason


def test_a_host_is_called_by_its_name_at_the_addresses_it_has(post: Post, receiver: Receiver) -> None:
    """`localhost` is ::1 first on many hosts, where nobody listens."""
    post.ended_job({"webhook": f"http://localhost:{receiver.port}/a?b=c"})
    post.step()
    assert receiver.got[0].path == "/a?b=c"
    assert receiver.got[0].headers["Host"] == f"localhost:{receiver.port}"


# ---- trying again ----------------------------------------------------------------------------------------------------


def test_a_failure_is_tried_again_later_under_the_same_id(post: Post, receiver: Receiver, store: Store) -> None:
    receiver.answers = [(500, {}), (503, {}), (200, {})]
    job = post.ended_job({"webhook": receiver.url})

    assert post.step() == again_in_s(1, 0.5)
    [row] = store.rows(Notification)
    assert (row.state, row.tries, row.reason) == ("pending", 1, "127.0.0.1 answered 500")
    post.step()
    assert len(receiver.got) == 1, "not before its time"
    store.clock.move(again_in_s(1, 0.5))
    assert post.step() == again_in_s(2, 0.5)
    store.clock.move(again_in_s(2, 0.5))
    post.step()

    assert store.states(Notification) == ["sent"]
    assert [got.document["id"] for got in receiver.got] == ["eo-test-1"] * 3
    assert len({got.headers["X-Orchestrator-Timestamp"] for got in receiver.got}) == 3, "a late one is no replay"
    assert any("answered 503; again at" in reason for reason in store.reasons(subject="notification", job_id=job))


def test_back_off_doubles_to_an_hour_and_is_spread() -> None:
    assert [again_in_s(n, 0.5) for n in (1, 2, 3)] == [10, 20, 40]
    assert again_in_s(1000, 0.5) == 3600
    assert (again_in_s(1, 0.0), again_in_s(1, 1.0)) == (7.5, 12.5)


@pytest.mark.parametrize(
    ("retry_after", "wait_s"), [("120", 120), ("Mon, 02 Mar 2026 09:00:00 GMT", 3600), ("soon", 10), ("0", 1)]
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_receivers_wish_for_later_is_heeded(
    post: Post, receiver: Receiver, status: int, retry_after: str, wait_s: float
) -> None:
    receiver.answers = [(status, {"Retry-After": retry_after})]
    post.ended_job({"webhook": receiver.url})
    assert post.step() == wait_s


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 410])
def test_a_refusal_is_final_and_says_why(post: Post, receiver: Receiver, store: Store, status: int) -> None:
    receiver.answers = [(status, {"Location": receiver.url + "/elsewhere"})]
    job = post.ended_job({"webhook": receiver.url})
    assert post.step() is None
    [row] = store.rows(Notification)
    assert row.state == "failed" and str(status) in row.reason
    assert len(receiver.got) == 1, "redirects are not followed"
    assert any(str(status) in event for event in store.reasons(subject="notification", to_state="failed", job_id=job))


def test_after_a_day_it_is_given_up(post: Post, store: Store, receiver: Receiver) -> None:
    receiver.close()
    post.ended_job({"webhook": receiver.url})
    while (wait_s := post.step()) is not None:
        store.clock.move(wait_s)
    [row] = store.rows(Notification)
    assert row.state == "failed"
    assert f"given up after {row.tries} tries in a day" in row.reason and "does not answer" in row.reason
    assert 20 < row.tries < 60
    assert store.clock() - row.created_at <= PATIENCE
    assert store.clock() - row.created_at > PATIENCE - timedelta(hours=2)


def test_a_busy_place_holds_up_nobody_else(post: Post, receiver: Receiver, store: Store) -> None:
    """A receiver that is slow has few of a batch, however many wait for it."""
    away = "http://127.0.0.1:9/hook"
    for _ in range(20):
        post.ended_job({"webhook": away})
    post.ended_job({"webhook": receiver.url})
    post.step()
    assert len(receiver.got) == 1
    assert sum(row.tries for row in store.rows(Notification)) == 3


# ---- once each -------------------------------------------------------------------------------------------------------


def test_two_masters_send_each_once(masters: list[Store], receiver: Receiver, tmp_path: Path) -> None:
    posts = [Post(store, Settings(data_dir=tmp_path)) for store in masters]
    for _ in range(12):
        posts[0].ended_job({"webhook": f"{receiver.url}"})
    threads = [threading.Thread(target=lambda post=post: [post.step() for _ in range(8)]) for post in posts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [got.document["id"] for got in receiver.got]
    assert sorted(ids) == sorted(set(ids)) and len(ids) == 12
    assert set(masters[0].states(Notification)) == {"sent"}


def test_a_sender_that_died_leaves_a_lease_that_runs_out(post: Post, receiver: Receiver, store: Store) -> None:
    """Between the answer and the note: it is sent again under the same id, and a note that comes late changes nothing."""
    post.ended_job({"webhook": receiver.url})
    sender = post.sender()
    dead = Writer(store.engine, store.clock)
    sender._writer = dead  # its first write is the claim, its second the note
    writes = dead.write

    def until_the_claim(work: Any) -> Any:
        dead.write = late  # type: ignore[method-assign]
        return writes(work)

    notes: list[Any] = []

    def late(work: Any) -> Any:
        notes.append(work)

    dead.write = until_the_claim  # type: ignore[method-assign]
    assert sender.step() == LEASE_S
    assert store.states(Notification) == ["pending"]
    assert post.step() is not None and len(receiver.got) == 1, "it may still be under way"

    store.clock.move(LEASE_S)
    post.step()
    assert [got.document["id"] for got in receiver.got] == ["eo-test-1"] * 2
    assert [(row.state, row.tries) for row in store.rows(Notification)] == [("sent", 2)]
    writes(notes[0])
    assert [(row.state, row.tries) for row in store.rows(Notification)] == [("sent", 2)]
    dead.close()


def test_failed_tasks_come_in_the_order_they_failed(post: Post, receiver: Receiver, store: Store) -> None:
    node = store.node(store.pool())
    store.job(tasks=3, notify=[{"webhook": receiver.url}])
    attempts = store.claim(node, 3)
    while attempts:
        store.clock.move(5)
        store.report(node, attempts.pop(), exit_code=len(attempts) + 1)
        attempts += store.claim(node, 3)
    post.step()
    failed = receiver.got[0].document["failed_tasks"]
    assert [task["finished_at"] for task in failed] == sorted(task["finished_at"] for task in failed)
    assert len(failed) == 3
