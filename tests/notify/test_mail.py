"""E-mail through a real mail server that wants STARTTLS and a password."""

from __future__ import annotations

from collections.abc import Callable
from email.message import EmailMessage
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError
from receivers import Mailbox, Post

from orchestrator.model.tables import Job, Notification, Task
from orchestrator.notify.message import FAILED_TASKS
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from conftest import Store

Made = Callable[..., Settings]
MAIL = {"email": "ops@example.org"}


def body(message: EmailMessage) -> str:
    return "\n".join(message.get_content().splitlines()) + "\n"


def test_a_failed_job_is_told_in_plain_text(post: Post, mailbox: Mailbox, mail_settings: Made, store: Store) -> None:
    post.settings = mail_settings()
    job = post.ended_job(MAIL, exit_code=7)

    assert post.step() is None

    assert store.states(Notification) == ["sent"]
    [message] = mailbox.messages
    assert message["Subject"] == f"job #{job} failed: t0 exited with 7 [acme]"
    assert (message["From"], message["To"]) == ("orchestrator@example.org", "ops@example.org")
    assert message["Message-ID"] == "<eo-test-1@example.org>"
    assert message["Auto-Submitted"] == "auto-generated", "holiday replies are not wanted"
    assert message.get_content_type() == "text/plain"
    for told in (
        f"Job {job}, job, failed.",
        "client:    acme",
        "t0 exited with 7 (1 try): exit status 7",
        f"/#/jobs/{job}\n",
    ):
        assert told in body(message)


def test_one_that_succeeded_says_so(post: Post, mailbox: Mailbox, mail_settings: Made) -> None:
    post.settings = mail_settings()
    job = post.ended_job(MAIL)
    post.step()
    assert mailbox.messages[0]["Subject"] == f"job #{job} succeeded [acme]"
    assert "Failed tasks" not in body(mailbox.messages[0])


def test_nothing_that_a_job_says_becomes_a_header_or_a_line(
    post: Post, mailbox: Mailbox, mail_settings: Made, store: Store
) -> None:
    """Names cannot hold a line break; reasons may, and stand in one line of the body. Even past the job file's rules."""
    post.settings = mail_settings()
    job = post.ended_job(MAIL, exit_code=1)
    evil = "x\r\nBcc: victim@example.org\r\n\r\n.\r\nMAIL FROM:<a@b>\x1b[2J"
    store.force(Task, 1, reason=evil)
    store.force(Job, job, reason=evil, submitted_by=evil)
    post.step()
    [message] = mailbox.messages
    assert message["Bcc"] is None
    assert "Bcc: victim@example.org" in body(message), "it is told, in its line"
    assert not any(line.startswith(("Bcc", "MAIL", ".")) for line in body(message).splitlines())
    assert "\x1b" not in body(message)

    other = post.ended_job(MAIL)
    store.force(Job, other, name="x\r\nBcc: victim@example.org")
    post.step()
    assert len(mailbox.messages) == 1, "the library refuses such a subject; nothing is sent"
    assert "its log has the cause" in store.one(Notification, 2).reason


def test_only_so_many_failed_tasks_are_told(post: Post, mailbox: Mailbox, mail_settings: Made, store: Store) -> None:
    post.settings = mail_settings()
    node = store.node(store.pool(), slots=50)
    store.job(tasks=FAILED_TASKS + 5, notify=[MAIL])
    while store.run_one(node, exit_code=1):
        pass
    post.step()
    assert body(mailbox.messages[0]).count("exited with 1") == FAILED_TASKS
    assert f"(the first {FAILED_TASKS})" in body(mailbox.messages[0])


# ---- what the server, or nobody, says --------------------------------------------------------------------------------


def test_a_wrong_password_waits_for_an_operator(post: Post, mailbox: Mailbox, mail_settings: Made, store: Store) -> None:
    settings = mail_settings()
    assert settings.smtp_password_file is not None
    right = settings.smtp_password_file.read_text()
    settings.smtp_password_file.write_text("wrong")
    post.settings = settings
    post.ended_job(MAIL)
    wait_s = post.step()
    row = store.one(Notification, 1)
    assert (row.state, mailbox.messages) == ("pending", [])
    assert "535" in row.reason and "check smtp_user" in row.reason and right.strip() not in row.reason

    settings.smtp_password_file.write_text(right)
    assert wait_s is not None
    store.clock.move(wait_s)
    post.step()
    assert store.states(Notification) == ["sent"], "the file is read at each message"


@pytest.mark.parametrize(
    ("answer", "state"),
    [("550 no such user", "failed"), ("450 greylisted, come again", "pending")],
    ids=["for good", "for now"],
)
def test_a_refused_recipient(
    post: Post, mailbox: Mailbox, mail_settings: Made, store: Store, answer: str, state: str
) -> None:
    post.settings = mail_settings()
    mailbox.refuse = answer
    post.ended_job(MAIL)
    post.step()
    row = store.one(Notification, 1)
    assert (row.state, row.reason) == (state, f"127.0.0.1 answered {answer}")


def test_a_server_whose_certificate_is_nobodys_gets_no_password(
    post: Post, mailbox: Mailbox, mail_settings: Made, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.settings = mail_settings()
    monkeypatch.delenv("SSL_CERT_FILE")
    post.ended_job(MAIL)
    post.step()
    assert "certificate" in store.one(Notification, 1).reason
    assert mailbox.messages == []


def test_without_a_mail_server_the_fix_is_told(post: Post, store: Store) -> None:
    post.ended_job(MAIL)
    assert post.step() is not None
    assert "set smtp_host and mail_from" in store.one(Notification, 1).reason


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"smtp_host": "mail", "mail_from": None}, "set mail_from"),
        ({"mail_from": "A\r\nBcc: x@y.org"}, "one e-mail address"),
        ({"smtp_tls": "none"}, "in clear"),
    ],
)
def test_settings_that_could_not_send_are_refused(mail_settings: Made, wrong: dict[str, str], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        mail_settings(**wrong)


def test_the_password_is_in_no_printed_settings(mail_settings: Made) -> None:
    assert "hush" not in repr(mail_settings(smtp_password="hush", webhook_secret="hush"))
