"""Every endpoint of the OpenAPI document, tried by every role and by nobody, against the table that people read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from orchestrator.api.auth import make_token
from orchestrator.api.http import GUARDED, PUBLIC, build
from orchestrator.app import Master
from orchestrator.jobs.clients import client_id
from orchestrator.people import logins, users
from orchestrator.people.roles import Role
from orchestrator.settings import Settings
from orchestrator.store.writer import Tx

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "people.md"
ROW = re.compile(
    r"^\| `(GET|POST|PUT|PATCH|DELETE) (\S+)` \| (anybody|viewer|operator|admin) \| (yes|no) \|$", re.MULTILINE
)
FILLED = {"{kind}": "images", "{name}": "nothing"}
ENDLESS = "/api/v1/events/stream"


@dataclass(frozen=True)
class Asked:
    role: str
    of_client: bool


TABLE = {(method, path): Asked(role, limited == "yes") for method, path, role, limited in ROW.findall(DOCUMENT.read_text())}


@dataclass(frozen=True)
class Caller:
    role: Role | None
    limited: bool
    headers: dict[str, str]

    def expected(self, asked: Asked) -> int | None:
        """The refusal; None where the call is let through, whatever comes of it."""
        if asked.role == "anybody":
            return None
        if self.role is None:
            return 401
        let_in = self.role.covers(Role(asked.role)) and (asked.of_client or not self.limited)
        return None if let_in else 403


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Master:
    return Master(Settings(data_dir=tmp_path_factory.mktemp("roles")))


@pytest.fixture(scope="module")
def client(master: Master) -> Iterator[TestClient]:
    with TestClient(build(master)) as client:
        yield client


@pytest.fixture(scope="module")
def callers(master: Master) -> dict[str, Caller]:
    """Nobody, and each role by token and by cookie, for all clients and for one."""

    def make(tx: Tx) -> dict[str, Caller]:
        made = {"nobody": Caller(None, False, {})}
        acme = client_id(tx, "acme")
        for role in Role:
            for limited in (None, acme):
                name = f"{role}{'-of-acme' if limited else ''}"
                token = make_token(tx, name, role, client_id=limited)
                made[f"token {name}"] = Caller(role, limited is not None, {"Authorization": f"Bearer {token}"})
                users.add(tx, name, "!", role, client_id=limited, actor="test")
                user = users.find(tx.connection, name)
                assert user is not None
                cookie = logins.begin(tx, user["id"], 3600)
                who = logins.owner(tx.connection, cookie, tx.now)
                assert who is not None
                headers = {"Cookie": f"eo_session={cookie}", "X-CSRF-Token": str(who.csrf)}
                made[f"user {name}"] = Caller(role, limited is not None, headers)
        return made

    return master.writer.write(make)


def test_every_endpoint_stands_in_the_table(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {(method.upper(), path) for path in paths for method in paths[path]} == set(TABLE)


def test_every_endpoint_declares_what_it_asks() -> None:
    for part in GUARDED:
        for route in part.router.routes:
            declared = getattr(route.endpoint, "permission", None)  # type: ignore[attr-defined]
            assert declared is not None, f"{route.path}: say what it asks by @needs(…)"  # type: ignore[attr-defined]
    public = {route.path for router in PUBLIC for route in router.routes}  # type: ignore[attr-defined]
    assert public == {"/healthz", "/readyz", "/api/v1/session"}


@pytest.mark.parametrize(("method", "path"), sorted(TABLE), ids=" ".join)
def test_each_role_is_let_in_where_the_table_says(
    client: TestClient, callers: dict[str, Caller], method: str, path: str
) -> None:
    asked = TABLE[method, path]
    filled = re.sub(r"\{\w+\}", lambda found: FILLED.get(found[0], "999"), path)
    for name, caller in callers.items():
        expected = caller.expected(asked)
        if expected is None and (path == ENDLESS or (method, path) == ("DELETE", "/api/v1/session")):
            continue  # they would end the test, or the caller's login; `test_people` has them
        answer = client.request(method, filled, headers=caller.headers, json={} if method in ("POST", "PATCH") else None)
        if expected is None:
            assert answer.status_code not in (401, 403) or asked.role == "anybody", (name, answer.text)
        else:
            assert answer.status_code == expected, (name, answer.status_code, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"


def test_what_declares_nothing_is_for_admins(master: Master, callers: dict[str, Caller]) -> None:
    from fastapi import APIRouter, Depends

    from orchestrator.api.auth import authorise

    app = build(master)
    router = APIRouter()

    @router.get("/api/v1/forgotten")
    def forgotten() -> str:
        return "open"

    app.include_router(router, dependencies=[Depends(authorise)])
    # Not started: the master is the other application's.
    app.middleware_stack = app.build_middleware_stack()
    client = TestClient(app)
    for name, caller in callers.items():
        status = client.get("/api/v1/forgotten", headers=caller.headers).status_code
        let_in = caller.role is Role.ADMIN and not caller.limited
        assert status == (200 if let_in else 401 if caller.role is None else 403), name


def test_another_client_s_templates_and_parameters_are_not_there(client: TestClient, callers: dict[str, Caller]) -> None:
    free, limited = callers["token operator"].headers, callers["token operator-of-acme"].headers

    def status(headers: dict[str, str], method: str, path: str, body: object = None) -> int:
        return client.request(method, f"/api/v1/{path}", headers=headers, json=body).status_code

    file = {"name": "theirs", "client": "globex", "run": "true"}
    assert status(limited, "POST", "templates", {"file": file}) == 403
    assert status(free, "POST", "templates", {"file": file}) == 201
    assert status(free, "PUT", "clients/globex/params/KEY", {"value": "x"}) == 200
    for method, path in TABLE:
        if "{template}" in path or "/params/" in path or (path.endswith("}/params") and "clients" in path):
            filled = path.replace("{template}", "theirs").replace("{name}", "globex").replace("{param}", "KEY")
            bodies: dict[str, object] = {"rollback": {"version": "1"}, "launch": {}, "KEY": {"value": "x"}}
            body = bodies.get(filled.rsplit("/", 1)[1]) if method in ("POST", "PUT") else None
            assert status(limited, method, filled.removeprefix("/api/v1/").replace("{version}", "1"), body) == 404
    for path in ("templates", "templates?client=globex", "clients"):
        shown = client.get(f"/api/v1/{path}", headers=limited).json()["items"]
        assert {item.get("client", item["name"]) for item in shown} <= {"acme"}
    assert status(limited, "POST", "templates", {"file": {**file, "name": "ours", "client": "acme"}}) == 201
