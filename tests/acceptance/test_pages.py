"""The page as a browser is given it by a real master: right types, one strict policy, nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from orchestrator.api.http import build
from orchestrator.app import Master
from orchestrator.settings import Settings
from orchestrator.web.pages import STATIC

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
}
TEXTS = sorted(path.name for path in STATIC.iterdir() if path.suffix != ".png")
MODULES = [name for name in TEXTS if name.endswith(".js")]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    master = Master(Settings(data_dir=tmp_path_factory.mktemp("master")))
    with TestClient(build(master), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("path", ["/", *(f"/static/{path.name}" for path in STATIC.iterdir())])
def test_every_file_has_its_type_and_the_policy(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == TYPES[Path(path).suffix or ".html"]
    check_headers(answer.headers)


def test_an_unchanged_file_is_not_sent_again(client: TestClient) -> None:
    for path in ("/", "/static/main.js"):
        tag = client.get(path).headers["etag"]
        again = client.get(path, headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        check_headers(again.headers)


@pytest.mark.parametrize("name", ["nothing.js", "", "../pages.py", "%2e%2e/pages.py", "..%2f..%2fapp.py", "a/b.css"])
def test_what_is_not_there_is_not_found(client: TestClient, name: str) -> None:
    answer = client.get(f"/static/{name}")
    assert answer.status_code == 404
    assert "import" not in answer.text
    if answer.url.path.startswith("/static/"):
        check_headers(answer.headers)


@pytest.mark.parametrize("name", TEXTS)
def test_no_other_host_is_named(name: str) -> None:
    text = (STATIC / name).read_text()
    assert not re.search(r"https?:|wss?://|[\"'(]//", text)


def test_the_page_has_no_script_or_style_of_its_own() -> None:
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script([^>]*)>(.*?)</script>", page, re.S) == [(' type="module" src="/static/main.js"', "")]
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)


@pytest.mark.parametrize("name", MODULES)
def test_scripts_write_text_and_never_markup(name: str) -> None:
    text = (STATIC / name).read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc", text)
    assert len(text.splitlines()) < 250


def test_every_module_and_element_that_is_named_exists() -> None:
    page = (STATIC / "index.html").read_text()
    ids = set(re.findall(r'\sid="([\w-]+)"', page))
    for name in MODULES:
        text = (STATIC / name).read_text()
        assert {path.name for path in STATIC.iterdir()} >= set(re.findall(r'from "\./([\w.]+)"', text)), name
        assert ids >= set(re.findall(r'\$\("([\w-]+)"\)', text)), name


def test_the_page_opens_without_a_token_and_its_data_does_not(client: TestClient) -> None:
    assert client.get("/").status_code == 200
    for path in ("jobs", "nodes", "pools", "events", "events/stream"):
        assert client.get(f"/api/v1/{path}").status_code == 401


def check_headers(headers: object) -> None:
    policy = headers["content-security-policy"]  # type: ignore[index]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert headers["cache-control"] == "no-cache"  # type: ignore[index]
    assert headers["x-content-type-options"] == "nosniff"  # type: ignore[index]
