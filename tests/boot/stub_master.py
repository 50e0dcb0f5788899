"""A stub master on loopback that serves a stub agent and takes its enrolments."""

import hashlib
import io
import json
import queue
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from guest_network import MASTER_HOST

from orchestrator.fleet.bootstrap import BootstrapParams


@dataclass
class StubMaster:
    """Where it listens, what it serves, and who has called home."""

    port: int
    agent: bytes
    enrolments: "queue.Queue[dict[str, object]]" = field(default_factory=queue.Queue)

    def params(self, agent_sha256: str = "", boot_timeout_s: int = 60) -> BootstrapParams:
        """What a machine must be told to find this master; `agent_sha256` may be another one than served."""
        return BootstrapParams(
            master_url=f"http://{MASTER_HOST}:{self.port}",
            ca_pin="",
            enrolment_secret="only-this-once",
            agent_sha256=agent_sha256 or hashlib.sha256(self.agent).hexdigest(),
            agent="download",
            boot_timeout_s=boot_timeout_s,
            lease_s=900,
            limit=16384,
        )


@contextmanager
def stub_master() -> Iterator[StubMaster]:
    """A StubMaster on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, stub.agent) if self.path == "/agent/v1/agent.pyz" else self.answer(404)

        def do_POST(self) -> None:
            assert self.path == "/agent/v1/enrol"
            stub.enrolments.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(201)

        def answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stub = StubMaster(server.server_port, _stub_agent())
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield stub
        server.shutdown()


def _stub_agent() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(Path(__file__).with_name("stub_agent.py"), "__main__.py")
    return file.getvalue()
