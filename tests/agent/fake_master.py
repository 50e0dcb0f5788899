"""A master that a test scripts, over real HTTP; and the real agent as a process on a machine of files."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Json = dict[str, Any]
SOURCES = Path(__file__).resolve().parents[2] / "cloudinit" / "agent"


def until(wanted: Callable[[], object], within_s: float = 20.0, why: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + within_s
    while not wanted():
        assert time.monotonic() < deadline, why()
        time.sleep(0.01)


class FakeMaster:
    """It keeps to the protocol unless a test sets one of its switches. All that came is kept, repeats included."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.changed = threading.Condition()
        self.slots, self.lease_s = 1, 60
        self.told: Json = {}  # at enrolment besides, as a newer master does
        self.enrolments: list[Json] = []
        self.enrol_answers: list[tuple[int, Json]] = []  # given first, then it lets everyone in
        self.syncs: list[Json] = []
        self.results: list[Json] = []
        self.logs: dict[int, bytearray] = {}
        self.latest_connection: socket.socket | None = None  # the one on which the last call came
        self.orders: dict[int, Json] = {}  # not ended yet: each answer carries those that the agent does not know
        self.stops: dict[int, str] = {}
        self.draining = False
        self.gone = False
        # Switches
        self.lose: Callable[[Json], bool] = lambda message: False  # act on it, then hang up without an answer
        self.twist: Callable[[Json, Json], Json] = lambda message, answer: answer  # the last word on an answer
        self.take_logs: Callable[[Json, bytearray], int | None] = lambda chunk, have: None  # the offset to answer
        self.overtaken: Callable[[Json], list[Json]] = lambda message: []  # orders on the reply to an overtaken poll
        self.acknowledges = True
        self.repeats_orders = False
        self.deaf = False
        self._newest = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.deaf = True
        with self.changed:
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    # what a test says and asks

    def order(self, attempt: int, run: str, *, timeout_s: float | None = None, grace_s: float = 10.0, **env: str) -> None:
        env = {"ORCHESTRATOR_ATTEMPT_ID": str(attempt), **env}
        with self.changed:
            self.orders[attempt] = {
                "attempt": attempt,
                "run": run,
                "env": env,
                "timeout_s": timeout_s,
                "grace_s": grace_s,
            }
            self.changed.notify_all()

    def set(self, **switches: Any) -> None:
        with self.changed:
            for name, value in switches.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def stop(self, attempt: int, why: str = "cancelled") -> None:
        with self.changed:
            self.stops[attempt] = why
            self.changed.notify_all()

    def of(self, attempt: int) -> list[Json]:
        return [result for result in list(self.results) if result["attempt"] == attempt]

    def result(self, attempt: int, within_s: float = 20.0) -> Json:
        until(lambda: self.of(attempt), within_s, lambda: f"no result of {attempt}; syncs: {self.syncs[-3:]}")
        return self.of(attempt)[0]

    def log(self, attempt: int) -> bytes:
        return bytes(self.logs.get(attempt, b""))

    def outcomes(self) -> Counter[str]:
        return Counter(result["outcome"] for result in list(self.results))

    # the protocol

    def _handler(fake) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.latest_connection = self.connection
                if fake.deaf:
                    return self._hang_up()
                answer = fake._enrol(message) if self.path.endswith("/enrol") else fake._sync(message)
                if answer is None or fake.deaf:
                    return self._hang_up()
                status, body = answer
                content = json.dumps(body).encode()
                self.send_response_only(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return None

            def _hang_up(self) -> None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:  # the agent was killed, or refused our certificate
                    return

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler

    def _enrol(self, message: Json) -> tuple[int, Json]:
        self.enrolments.append(message)
        if self.enrol_answers:
            return self.enrol_answers.pop(0)
        return 200, {"node_id": 7, "slots": self.slots, "lease_s": self.lease_s, **self.told}

    def _sync(self, message: Json) -> tuple[int, Json] | None:
        with self.changed:
            self.syncs.append(message)
            self._newest += 1
            me = self._newest
            self.changed.notify_all()
            if self.gone:
                return 410, {"error": "this node has ended"}
            offsets = {chunk["attempt"]: self._store(chunk) for chunk in message["logs"]}
            reported = [result["attempt"] for result in message["results"]]
            self.results += message["results"]
            if self.acknowledges:
                for attempt in reported:
                    self.orders.pop(attempt, None)
                    self.stops.pop(attempt, None)
            until_ = time.monotonic() + message["wait_s"]
            while not (self._has_news(message) or self.gone or self.deaf or me != self._newest):
                if not self.changed.wait(until_ - time.monotonic()):
                    break
            if self.deaf or self.lose(message):
                return None
            if self.gone:
                return 410, {"error": "this node has ended"}
            mine = me == self._newest
            answer: Json = {
                "orders": self._undelivered(message)[: max(0, message["free"])] if mine else self.overtaken(message),
                "stop": [{"attempt": attempt, "why": why} for attempt, why in self.stops.items()],
                "acknowledged": reported if self.acknowledges else [],
                "logs": [{"attempt": attempt, "offset": offset} for attempt, offset in offsets.items()],
                "draining": self.draining,
            }
            return 200, self.twist(message, answer)

    def _has_news(self, message: Json) -> bool:
        stops = self.stops.keys() - set(message.get("stopping", []))
        orders = message["free"] > 0 and bool(self._undelivered(message))
        return bool(orders or stops or (self.draining and not message.get("draining")))

    def _undelivered(self, message: Json) -> list[Json]:
        known = set() if self.repeats_orders else set(message["known"])
        return [order for attempt, order in self.orders.items() if attempt not in known]

    def _store(self, chunk: Json) -> int:
        have = self.logs.setdefault(chunk["attempt"], bytearray())
        answer = self.take_logs(chunk, have)
        if answer is not None:
            return answer
        data = base64.b64decode(chunk["data"], validate=True)
        if chunk["offset"] <= len(have):
            have += data[len(have) - chunk["offset"] :]
        return len(have)


class AgentBox:
    """A machine of files under `root` with a real agent on it, whose power button only leaves a mark."""

    def __init__(self, root: Path, pyz: Path, url: str, instance_id: str = "i-0123456789abcdef0") -> None:
        self.root, self.pyz = root, pyz
        self.config = {"master_url": url, "ca_pin": "", "enrolment_secret": "7.secret", "lease_s": 30}
        self.config["at_end"] = "power_off"
        for folder in ("etc", "sbin", "var/lib/cloud/data"):
            (root / folder).mkdir(parents=True)
        (root / "var/lib/cloud/data/instance-id").write_text(instance_id + "\n")
        poweroff = root / "sbin/poweroff"
        poweroff.write_text(f"#!/bin/sh\ntouch '{root}/is-off'\n")
        poweroff.chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None
        self.within: list[str] = []  # a command that ends by becoming the agent
        self.environment: dict[str, str] = {}

    def start(self) -> AgentBox:
        config = self.root / "etc/agent.json"
        config.write_text(json.dumps(self.config))
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.root), "ORCHESTRATOR_ROOT": str(self.root)}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "A_SECRET_OF_THE_HOST": "no job sees it"}
        environment |= self.environment
        command = [
            *self.within,
            sys.executable,
            "-E",
            "-s",
            str(self.pyz),
            "--config",
            str(config),
            "--root",
            str(self.root),
        ]
        with (self.root / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def said(self) -> str:
        return (self.root / "agent.log").read_text()

    @property
    def is_off(self) -> bool:
        return (self.root / "is-off").exists()

    def state(self, *names: str) -> Path:
        return Path(self.root, "var/lib/elastic-orchestrator", *names)

    def status(self) -> Mapping[str, str]:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def kill9(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait(self, within_s: float = 20.0) -> int:
        assert self.process is not None
        return self.process.wait(within_s)

    def close(self) -> None:
        """End the agent and whatever runs for it, by the mark that all of it carries in its environment."""
        if self.process is not None and self.process.poll() is None:
            self.kill9()
        for pid in self.descendants():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def descendants(self) -> list[int]:
        """Living processes that were started on this machine."""
        mark = f"ORCHESTRATOR_ROOT={self.root}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in entry.read_bytes().split(b"\0") and int(entry.parent.name) != self.pid:
                    found.append(int(entry.parent.name))
            except OSError:
                continue
        return found
