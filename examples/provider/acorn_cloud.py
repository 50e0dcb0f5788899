"""Acorn itself, in memory and over real HTTP, for the tests of its provider: a cloud that one can look behind and break."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, dict[str, Any]]
ITEMS = {"images": ["oak-12", "elm-9"], "sizes": ["small", "large"], "sites": ["north", "south"]}
PENDING_S = ENDING_S = 0.05


class Cloud:
    """Its machines by id, and what goes wrong next. `faults` are (verb, code, calls let pass before)."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls = 0
        self.machines: dict[str, dict[str, Any]] = {}
        self._launches: dict[str, dict[str, Any]] = {}
        self.heal()

    def heal(self) -> None:
        self.faults: list[tuple[str, str, int]] = []
        self.delays: dict[str, float] = {}
        self.page = 500
        self.hidden_s = 0.0
        self.room = 10_000
        self.dies = False

    def fault(self, verb: str) -> str | None:
        for place, (struck, code, after) in enumerate(self.faults):
            if struck == verb:
                if after:
                    self.faults[place] = (struck, code, after - 1)
                    return None
                del self.faults[place]
                return code
        return None

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Answer:
        match method, path.strip("/").split("/"):
            case "PUT", ["launches", name]:
                return self._launch(name, body)
            case "GET", ["machines"]:
                return self._list(query["tag"][0], query.get("after", [""])[0])
            case "GET", ["machines", name, "console"]:
                return 200, {"text": "booted\n"} if name in self.machines else {}
            case "POST", ["end"]:
                for name in body:
                    if name in self.machines:
                        self.machines[name].setdefault("ended_at", time.monotonic())
                return 200, {}
            case "GET", [("images" | "sizes" | "sites") as kind]:
                return 200, {"items": ITEMS[kind]}
        return 200, {}

    def _launch(self, name: str, asked: dict[str, Any]) -> Answer:
        if name not in self._launches:
            if self.room < 1:
                return 409, {"code": "no_room"}
            self._launches[name] = asked
            for index in range(min(asked["count"], self.room)):
                self.start(asked["tags"], index=index, launch=name, user_data=asked["user_data"])
        if self._launches[name] != asked:
            return 409, {"code": "other_launch"}
        return 200, {"machines": [self._shown(seen) for seen in self.machines.values() if seen["launch"] == name]}

    def start(self, tags: dict[str, str], index: int = 0, launch: str = "", user_data: str = "") -> str:
        id_ = f"m-{len(self.machines):06}"
        self.machines[id_] = {
            "id": id_,
            "tags": tags,
            "index": index,
            "launch": launch,
            "user_data": user_data,
            "launched_at": datetime.now(UTC).isoformat(),
            "since": time.monotonic(),
            "address": f"10.0.0.{len(self.machines) % 250}",
            **({"state": "error", "fault": "its disk failed"} if self.dies else {}),
        }
        return id_

    def _list(self, tag: str, after: str) -> Answer:
        key, _, value = tag.partition("=")
        seen_from = time.monotonic() - self.hidden_s
        found = [seen for seen in self.machines.values() if seen["tags"].get(key) == value and seen["since"] <= seen_from]
        rest = sorted((seen for seen in found if seen["id"] > after), key=lambda seen: str(seen["id"]))
        page = rest[: self.page]
        return 200, {
            "machines": [self._shown(seen) for seen in page],
            "next": page[-1]["id"] if len(rest) > self.page else None,
        }

    def _shown(self, seen: dict[str, Any]) -> dict[str, Any]:
        return {**seen, "state": self.state(seen["id"])}

    def state(self, id_: str) -> str:
        seen, now = self.machines[id_], time.monotonic()
        if "ended_at" in seen:
            return "ending" if now < seen["ended_at"] + ENDING_S else "ended"
        return str(seen.get("state") or ("pending" if now < seen["since"] + PENDING_S else "running"))


VERBS = {"PUT": "launch", "POST": "terminate"}
CODES = {"slow_down": 429, "bad_key": 401, "expired_key": 401, "over_quota": 403, "no_room": 409, "broken": 500}


@contextmanager
def serving(cloud: Cloud) -> Iterator[str]:
    """The cloud on loopback; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_one_call(self) -> None:
            url = urlsplit(self.path)
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
            last = url.path.rpartition("/")[2]
            verb = VERBS.get(self.command) or {"account": "check", "machines": "instances"}.get(last, last)
            with cloud.lock:
                cloud.calls += 1
                code, delay_s = cloud.fault(verb), cloud.delays.pop(verb, 0)
            time.sleep(delay_s)
            if code in CODES:
                return self._reply(CODES[code], {"code": code})
            with cloud.lock:
                told = cloud.answer(self.command, url.path, parse_qs(url.query), body) if code != "lost request" else None
            if told is None or code == "lost reply":
                self.close_connection = True
                return None
            return self._reply(*told)

        do_GET = do_PUT = do_POST = handle_one_call

        def _reply(self, status: int, told: dict[str, Any]) -> None:
            content = json.dumps(told).encode()
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(content)))
            if status == 429:
                self.send_header("Retry-After", "7")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A caller that gave up has hung up."""

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
