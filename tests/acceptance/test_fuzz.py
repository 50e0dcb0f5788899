"""The API under requests made from its own OpenAPI document: no server error, no undocumented answer."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from orchestrator.api.auth import make_token
from orchestrator.api.http import build
from orchestrator.app import Master
from orchestrator.settings import CloudSettings, Settings


def no_server_error(ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case) -> None:
    """A cloud that does not answer is told with its own status where a cloud is asked; nothing else ever fails here."""
    asks_a_cloud = case.path.startswith("/api/v1/clouds/") or case.path.endswith("/console")
    assert response.status_code < 500 or (asks_a_cloud and response.status_code in (502, 503)), response.text


STREAMS = ["/api/v1/events/stream", "/api/v1/jobs/{job_id}/logs/stream"]  # which need not end
CHECKS = (no_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
NOWHERE = CloudSettings(endpoint_url="http://127.0.0.1:9", access_key_id="none", secret_access_key="none")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A real server whose one cloud does not answer, and a token for it."""
    folder: Path = tmp_path_factory.mktemp("fuzz")
    # Nothing may leave this host, whatever URL is made up.
    master = Master(Settings(data_dir=folder, clouds={"aws": NOWHERE}, webhook_hosts=[]))
    token = master.writer.write(lambda tx: make_token(tx, "fuzz"))
    server = uvicorn.Server(uvicorn.Config(build(master), port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started and time.monotonic() < end:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {token}"}
    pool = {"name": "p", "cloud": "aws", "launch": {"image": "ami-1", "instance_type": "t3.micro"}}
    assert httpx.post(f"{url}/api/v1/pools", json=pool, headers=headers).status_code == 201
    job = {
        "name": "j",
        "client": "c",
        "tasks": [{"name": "a", "run": "true"}, {"name": "b", "run": "true", "needs": ["a"]}],
    }
    assert httpx.post(f"{url}/api/v1/jobs", json=job, headers=headers).status_code == 201
    yield url, token
    server.should_exit = True
    thread.join(20)


def test_no_request_breaks_the_api(served: tuple[str, str]) -> None:
    url, token = served
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json").exclude(path=STREAMS)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, checks=list(CHECKS))

        check()
