"""People and tokens at a real master, on both databases: logins, sessions, scopes, the record of calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MovableClock, Store
from sqlalchemy import insert
from starlette.testclient import TestClient

from orchestrator.api.auth import make_token
from orchestrator.api.http import build
from orchestrator.app import Master
from orchestrator.cli.serve import first_admin
from orchestrator.model.tables import Artifact, Task, table
from orchestrator.people.backoff import FREE, LONGEST_S, Backoff
from orchestrator.people.passwords import LONGEST
from orchestrator.people.roles import Role
from orchestrator.settings import Settings

PASSWORD = "correct horse battery"
HTTPS = "https://master.test"
SESSION = "/api/v1/session"
Json = dict[str, Any]


@pytest.fixture
def master(database_url: str, tmp_path: Path, clock: MovableClock) -> Master:
    return Master(Settings(data_dir=tmp_path / "data", database_url=database_url), clock)


@pytest.fixture
def browser(master: Master) -> Iterator[TestClient]:
    """A browser that keeps cookies, at a started master."""
    with TestClient(build(master), base_url=HTTPS) as client:
        yield client


@pytest.fixture
def another(browser: TestClient) -> Callable[..., TestClient]:
    """Another program or browser, without the first one's cookies."""

    def make(token: str | None = None, address: str = "10.0.0.7") -> TestClient:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return TestClient(browser.app, base_url=HTTPS, headers=headers, client=(address, 40000))

    return make


@pytest.fixture
def admin(master: Master, another: Callable[..., TestClient]) -> TestClient:
    return another(master.writer.write(lambda tx: make_token(tx, "boss")))


def add(admin: TestClient, name: str = "ada", **more: Any) -> Json:
    body = {"name": name, "role": "operator", "password": PASSWORD, **more}
    answer = admin.post("/api/v1/users", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def token(admin: TestClient, name: str, **more: Any) -> str:
    answer = admin.post("/api/v1/tokens", json={"name": name, "role": "operator", **more})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


def log_in(browser: TestClient, name: str = "ada", password: str = PASSWORD, **more: Any) -> Json:
    answer = browser.post(SESSION, json={"name": name, "password": password, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def submit(client: TestClient, of: str, **headers: str) -> Any:
    return client.post("/api/v1/jobs", json={"name": "j", "client": of, "run": "true"}, headers=headers)


# ---- the first admin -------------------------------------------------------------------------------------------------


def test_the_first_start_makes_an_admin_whose_password_is_changed_at_the_login(master: Master, browser: TestClient) -> None:
    password = first_admin(master)
    assert password is not None
    assert first_admin(master) is None, "there is somebody"
    refused = browser.post(SESSION, json={"name": "admin", "password": password})
    assert refused.status_code == 403
    assert [error["path"] for error in refused.json()["errors"]] == ["new_password"]
    assert "set-cookie" not in refused.headers
    again = {"name": "admin", "password": password, "new_password": password}
    assert browser.post(SESSION, json=again).status_code == 422
    assert log_in(browser, "admin", password, new_password=PASSWORD)["role"] == "admin"
    assert browser.get("/api/v1/users").status_code == 200
    assert browser.post(SESSION, json={"name": "admin", "password": password}).status_code == 401


def test_a_link_logs_in_once_and_is_no_cookie(browser: TestClient, admin: TestClient, clock: MovableClock) -> None:
    add(admin)
    link = admin.post("/api/v1/users/ada/link").json()["link"].partition("#link=")[2]
    assert browser.get(SESSION, headers={"Cookie": f"eo_session={link}"}).status_code == 401
    assert browser.post(SESSION, json={"link": link}).json()["actor"] == "ada"
    assert browser.post(SESSION, json={"link": link}).status_code == 401
    assert browser.post(SESSION, json={"link": browser.cookies["eo_session"]}).status_code == 401
    late = admin.post("/api/v1/users/ada/link").json()["link"].partition("#link=")[2]
    clock.move(601)
    assert browser.post(SESSION, json={"link": late}).status_code == 401


# ---- sessions --------------------------------------------------------------------------------------------------------


def test_a_session_is_a_safe_cookie_and_changes_want_its_csrf_token(browser: TestClient, admin: TestClient) -> None:
    add(admin)
    answer = browser.post(SESSION, json={"name": "ada", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert {"httponly", "samesite=lax", "secure", "path=/"} <= {part.strip() for part in cookie.split(";")}
    csrf = answer.json()["csrf"]
    assert browser.get("/api/v1/jobs").status_code == 200
    assert submit(browser, "acme").status_code == 403
    assert submit(browser, "acme", **{"X-CSRF-Token": "guess"}).status_code == 403
    done = submit(browser, "acme", **{"X-CSRF-Token": csrf})
    assert done.status_code == 201
    assert browser.get(f"/api/v1/jobs/{done.json()['id']}").json()["submitted_by"] == "ada"
    assert browser.post(f"/api/v1/jobs/{done.json()['id']}/cancel").status_code == 403


def test_a_csrf_token_of_another_or_an_ended_session_is_refused(
    browser: TestClient, admin: TestClient, another: Callable[..., TestClient]
) -> None:
    add(admin)
    add(admin, "eve")
    theirs = log_in(another(), "eve")["csrf"]
    earlier = log_in(browser)["csrf"]
    assert submit(browser, "acme", **{"X-CSRF-Token": theirs}).status_code == 403
    assert browser.delete(SESSION, headers={"X-CSRF-Token": theirs}).status_code == 403
    now = log_in(browser)["csrf"]
    assert submit(browser, "acme", **{"X-CSRF-Token": earlier}).status_code == 403
    assert submit(browser, "acme", **{"X-CSRF-Token": now}).status_code == 201


def test_a_login_never_takes_the_cookie_it_is_given(
    browser: TestClient, admin: TestClient, another: Callable[..., TestClient]
) -> None:
    add(admin)
    planted = "eos_planted-by-somebody-else"
    browser.cookies.set("eo_session", planted)
    log_in(browser)
    first = browser.cookies.get("eo_session", domain="master.test")
    assert first not in (None, planted)
    log_in(browser)
    assert another().get(SESSION, headers={"Cookie": f"eo_session={first}"}).status_code == 401, "it ended with the next"
    assert another().get(SESSION, headers={"Cookie": f"eo_session={planted}"}).status_code == 401


def test_a_session_ends_by_logout_expiry_and_whatever_changes_its_person(
    browser: TestClient, admin: TestClient, clock: MovableClock
) -> None:
    add(admin)
    csrf = log_in(browser)["csrf"]
    copied = browser.cookies["eo_session"]
    assert browser.delete(SESSION, headers={"X-CSRF-Token": csrf}).status_code == 200
    assert browser.get(SESSION, headers={"Cookie": f"eo_session={copied}"}).status_code == 401
    log_in(browser)
    clock.move(12 * 3600 + 1)
    assert browser.get(SESSION).status_code == 401
    for change in ({"role": "viewer"}, {"client": "acme"}, {"disabled": True}):
        admin.patch("/api/v1/users/ada", json={"disabled": False})
        log_in(browser)
        assert admin.patch("/api/v1/users/ada", json=change).status_code == 200
        assert browser.get(SESSION).status_code == 401, change
    assert browser.post(SESSION, json={"name": "ada", "password": PASSWORD}).status_code == 401, "disabled"
    admin.patch("/api/v1/users/ada", json={"disabled": False})
    log_in(browser)
    fresh = admin.post("/api/v1/users/ada/password", json={}).json()["password"]
    assert browser.get(SESSION).status_code == 401
    log_in(browser, "ada", fresh, new_password=PASSWORD + "!")
    assert admin.delete("/api/v1/users/ada").status_code == 200
    assert browser.get(SESSION).status_code == 401
    assert admin.get("/api/v1/users").json()["items"] == []


def test_a_login_from_another_site_s_page_is_refused(browser: TestClient, admin: TestClient) -> None:
    add(admin)
    body = {"name": "ada", "password": PASSWORD}
    for origin in ("https://evil.test", "null"):
        assert browser.post(SESSION, json=body, headers={"Origin": origin}).status_code == 403
    assert browser.post(SESSION, json=body, headers={"Origin": HTTPS}).status_code == 200


# ---- guessing and hostile input --------------------------------------------------------------------------------------


def test_who_guesses_is_told_to_wait_by_name_and_by_address(
    browser: TestClient, admin: TestClient, another: Callable[..., TestClient]
) -> None:
    add(admin)
    guesser = another(address="10.6.6.6")
    for _ in range(FREE):
        assert guesser.post(SESSION, json={"name": "ada", "password": "wrong"}).status_code == 401
    held = guesser.post(SESSION, json={"name": "ada", "password": PASSWORD})
    assert held.status_code == 429
    assert int(held.headers["retry-after"]) >= 1
    assert guesser.post(SESSION, json={"name": "bob", "password": "wrong"}).status_code == 429, "by address"
    assert another().post(SESSION, json={"name": "ada", "password": PASSWORD}).status_code == 429, "by name"
    add(admin, "eve")
    log_in(another(), "eve")
    link = admin.post("/api/v1/users/ada/link").json()["link"].partition("#link=")[2]
    assert browser.post(SESSION, json={"link": link}).status_code == 200, "a held name comes in by a link"


def test_tries_double_the_wait_and_a_right_one_forgives() -> None:
    backoff, now = Backoff(), 1000.0
    for _ in range(FREE):
        assert backoff.begin(["ada"], now) == 0
    for expected in (1, 2, 4, 8):
        assert backoff.begin(["ada", "bob"], now) == expected
        now += expected
        assert backoff.begin(["ada"], now) == 0
    assert backoff.begin(["bob"], now) == 0, "a call that was held counts for nobody"
    for _ in range(30):
        now += LONGEST_S
        assert backoff.begin(["ada"], now) == 0, "the wait has an end"
    backoff.forgive("ada")
    assert backoff.begin(["ada"], now) == 0
    for _ in range(FREE):
        assert backoff.begin(["office"], now) == 0
        backoff.take_back("office")
    assert backoff.begin(["office"], now) == 0, "who logs in rightly is never held for it"


@pytest.mark.parametrize(
    "body",
    [
        {"name": "ada", "password": "x" * (LONGEST + 1)},
        {"name": "ada", "password": PASSWORD, "new_password": "short"},
        {"name": "ada", "password": PASSWORD, "new_password": "y" * 1_000_000},
        {"name": "a" * 101, "password": "x"},
        {"link": "eol_" + "x" * 1000},
        {"name": "ada", "password": PASSWORD, "role": "admin"},
        {"name": {"$ne": ""}, "password": "x"},
    ],
)
def test_a_login_of_the_wrong_shape_is_refused(browser: TestClient, admin: TestClient, body: Json) -> None:
    assert browser.post(SESSION, json=body).status_code == 422


@pytest.mark.parametrize("name", ["", "a\x00b", "á", "ад", "ada\n", "\u202eada", "ada' OR 1=1 --", "admin\ud800"])
def test_odd_names_are_nobody(browser: TestClient, admin: TestClient, name: str) -> None:
    headers = {"Content-Type": "application/json"}
    login = json.dumps({"name": name, "password": "x"})
    assert browser.post(SESSION, content=login, headers=headers).status_code in (401, 422)
    fresh = json.dumps({"name": name, "password": PASSWORD, "role": "viewer"})
    assert admin.post("/api/v1/users", content=fresh, headers=headers).status_code == 422
    assert all("\n" not in event["reason"] for event in admin.get("/api/v1/events?requests=true").json()["items"])


def test_odd_names_in_addresses_are_not_found(admin: TestClient) -> None:
    for path in ("users/%00", "users/%F0%9F%A6%84", "tokens/%00x", "events?actor=%00"):
        method = "DELETE" if path.startswith("tokens") else "GET"
        assert admin.request(method, f"/api/v1/{path}").status_code in (404, 422), path


def test_a_password_may_have_letters_of_any_script_however_they_are_composed(
    browser: TestClient, admin: TestClient
) -> None:
    add(admin, password="пароль-ключ-é")
    log_in(browser, password="пароль-ключ-e\u0301")


def test_names_are_taken_once_and_those_of_the_machinery_never(admin: TestClient) -> None:
    add(admin)
    again = admin.post("/api/v1/users", json={"name": "ada", "role": "viewer"})
    assert again.status_code == 409
    assert admin.post("/api/v1/users", json={"name": "master", "role": "viewer"}).status_code == 422


# ---- tokens ----------------------------------------------------------------------------------------------------------


def test_a_token_has_a_role_an_end_and_can_be_revoked(
    admin: TestClient, another: Callable[..., TestClient], clock: MovableClock
) -> None:
    nightly = another(token(admin, "nightly", expires_in="90d"))
    assert nightly.get(SESSION).json() | {"expires_at": None} == {
        "actor": "token nightly", "role": "operator", "client": None, "csrf": None, "expires_at": None,
    }  # fmt: skip
    assert submit(nightly, "acme").status_code == 201
    assert nightly.post("/api/v1/tokens", json={"name": "more", "role": "admin"}).status_code == 403
    assert admin.post("/api/v1/tokens", json={"name": "nightly", "role": "viewer"}).status_code == 409
    clock.move(90 * 86400 - 1)
    assert nightly.get("/api/v1/jobs").status_code == 200
    clock.move(1)
    assert nightly.get("/api/v1/jobs").status_code == 401
    reader = another(token(admin, "nightly", role="viewer"))
    assert submit(reader, "acme").status_code == 403
    assert reader.get("/api/v1/jobs").status_code == 200
    assert admin.delete("/api/v1/tokens/nightly").status_code == 200
    assert reader.get("/api/v1/jobs").status_code == 401
    assert admin.delete("/api/v1/tokens/nightly").status_code == 404


def test_a_person_s_tokens_end_with_them(
    browser: TestClient, admin: TestClient, another: Callable[..., TestClient]
) -> None:
    add(admin, role="admin")
    browser.headers["X-CSRF-Token"] = log_in(browser)["csrf"]
    theirs = another(token(browser, "theirs"))
    assert theirs.get("/api/v1/jobs").status_code == 200
    admin.patch("/api/v1/users/ada", json={"disabled": True})
    assert theirs.get("/api/v1/jobs").status_code == 401
    admin.patch("/api/v1/users/ada", json={"disabled": False})
    assert theirs.get("/api/v1/jobs").status_code == 200
    admin.delete("/api/v1/users/ada")
    assert theirs.get("/api/v1/jobs").status_code == 401


def test_a_header_counts_before_a_cookie(browser: TestClient, admin: TestClient) -> None:
    add(admin)
    log_in(browser)
    assert browser.get(SESSION, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert browser.get(SESSION, headers={"Authorization": "Basic cHJveHk6cHJveHk="}).json()["actor"] == "ada"


# ---- one client ------------------------------------------------------------------------------------------------------


def test_who_is_limited_to_a_client_sees_and_touches_nothing_else(
    admin: TestClient, another: Callable[..., TestClient]
) -> None:
    mine, other = (submit(admin, of, **{"Idempotency-Key": of}).json()["id"] for of in ("acme", "globex"))
    acme = another(token(admin, "acme", client="acme"))
    assert [job["id"] for job in acme.get("/api/v1/jobs").json()["items"]] == [mine]
    assert acme.get("/api/v1/jobs", params={"client": "globex"}).json()["items"] == []
    for path in ("", "/tasks", "/tasks/summary", "/attempts", "/logs", "/artifacts", "/notifications", "/explain"):
        assert acme.get(f"/api/v1/jobs/{mine}{path}").status_code == 200, path
        hidden = acme.get(f"/api/v1/jobs/{other}{path}")
        absent = acme.get(f"/api/v1/jobs/999{path}")
        assert (hidden.status_code, hidden.text.replace(str(other), "N")) == (404, absent.text.replace("999", "N")), path
    for path in ("cancel", "rerun"):
        assert acme.post(f"/api/v1/jobs/{other}/{path}", json={}).status_code == 404, path
    assert acme.get(f"/api/v1/jobs/{other}/logs/stream").status_code == 404
    assert acme.get("/api/v1/clients/globex/notify").status_code == 404
    assert acme.post("/api/v1/clients/globex/notify", json={"webhook": "https://acme.test/"}).status_code in (404, 422)
    assert admin.get(f"/api/v1/jobs/{other}").json()["cancel_requested_at"] is None
    assert {event["job_id"] for event in acme.get("/api/v1/events").json()["items"]} == {mine}
    assert acme.get("/api/v1/events", params={"job_id": other}).json()["items"] == []
    assert acme.get("/api/v1/events", params={"requests": True}).json()["items"] == []
    refused = submit(acme, "globex")
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (403, "client")
    assert submit(acme, "acme", **{"Idempotency-Key": "globex"}).status_code == 422, "another client's key tells no id"
    assert submit(acme, "acme", **{"Idempotency-Key": "acme"}).json() == {"id": mine, "repeated": True}
    assert acme.post(f"/api/v1/jobs/{mine}/cancel").status_code == 200


def test_another_client_s_artifact_is_not_there(
    master: Master, admin: TestClient, another: Callable[..., TestClient], clock: MovableClock
) -> None:
    submit(admin, "globex")
    store = Store(master.engine, clock)
    (attempt,) = store.claim(store.node(store.pool()))
    (task,) = store.rows(Task)
    file = {"job_id": task.job_id, "task_id": task.id, "attempt_id": attempt, "path": "secret", "size": 1, "sha256": "0"}
    store.write(lambda tx: tx.connection.execute(insert(table(Artifact)).values(**file, stored_at=tx.now)))
    store.close()
    seen = {of: another(token(admin, of, client=of)).get("/api/v1/artifacts/1").status_code for of in ("acme", "globex")}
    assert seen == {"acme": 404, "globex": 410}, "its row is there, its bytes are not"


# ---- the record of calls ---------------------------------------------------------------------------------------------


def test_changes_logins_and_refusals_are_on_record_and_a_flood_is_one_of_them(
    browser: TestClient, admin: TestClient, another: Callable[..., TestClient], clock: MovableClock
) -> None:
    add(admin)
    job_id = submit(admin, "acme").json()["id"]
    guest = another(address="10.6.6.6")
    for _ in range(20):
        assert guest.get("/api/v1/jobs").status_code == 401
        assert submit(guest, "acme").status_code == 401
    guest.post(SESSION, json={"name": "ada", "password": "wrong"})
    csrf = log_in(browser)["csrf"]
    browser.post(f"/api/v1/jobs/{job_id}/cancel?x=%1B%5B31m", headers={"X-CSRF-Token": csrf})
    browser.get("/api/v1/jobs")
    told = [
        (event["actor"], event["reason"], event["detail"])
        for event in reversed(admin.get("/api/v1/events", params={"requests": True}).json()["items"])
    ]
    assert told == [
        ("token boss", "POST /api/v1/users: 201", "from 10.0.0.7"),
        ("nobody", "GET /api/v1/jobs: 401", "from 10.6.6.6"),
        ("nobody", "POST /api/v1/session as 'ada': 401", "from 10.6.6.6"),
        ("ada", "POST /api/v1/session as 'ada': 200", "from testclient"),
        ("ada", f"POST /api/v1/jobs/{job_id}/cancel?x=%1B%5B31m: 200", "from testclient"),
    ]
    clock.move(61)
    guest.post(SESSION, json={"name": "ada", "password": "wrong"})
    (last,) = admin.get("/api/v1/events", params={"requests": True, "limit": 1}).json()["items"]
    assert (last["actor"], last["reason"]) == ("nobody", "POST /api/v1/session as 'ada': 401")
    (submitted,) = [
        event
        for event in admin.get("/api/v1/events", params={"actor": "token boss", "job_id": job_id}).json()["items"]
        if event["to_state"] == "queued"
    ]
    assert submitted["detail"] == "from 10.0.0.7"


def test_old_tokens_are_admin_s(master: Master, another: Callable[..., TestClient]) -> None:
    text = master.writer.write(lambda tx: make_token(tx, "old"))
    assert another(text).get(SESSION).json()["role"] == Role.ADMIN
