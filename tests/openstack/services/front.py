"""What stands before each service: it counts the calls, and spoils those it is told to.

`/_front` takes rules (POST, one JSON object each), gives the number of calls (GET) and forgets the rules (DELETE). A rule
is as `Fault` of the contract tests has it: call, status, headers, text, drop, delay_s, times, skip.
"""

import json
import re
import socket
import threading
import time


class Front:
    def __init__(self, service):
        self.service = service
        self.rules, self.calls = [], 0
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"].startswith("/_front"):
            return self.told(environ, start_response)
        rule = self.matching(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        time.sleep(rule.get("delay_s", 0))
        if rule.get("status"):
            body(environ)
            said = {"fault": {"code": rule["status"], "message": rule["text"]}}
            return answer(start_response, rule["status"], said, rule["headers"])
        if rule.get("drop") == "request":
            return hang_up(environ)
        reply = self.service(environ, start_response)
        if rule.get("drop") == "reply":
            list(reply)
            return hang_up(environ)
        return reply

    def matching(self, call):
        with self.lock:
            self.calls += 1
            for rule in self.rules:
                if rule["times"] and re.fullmatch(rule["call"], call):
                    if rule["skip"]:
                        rule["skip"] -= 1
                        continue
                    rule["times"] -= 1
                    return rule
        return {}

    def told(self, environ, start_response):
        with self.lock:
            if environ["REQUEST_METHOD"] == "POST":
                self.rules.append(json.loads(body(environ)))
            if environ["REQUEST_METHOD"] == "DELETE":
                self.rules.clear()
            return answer(start_response, 200, {"calls": self.calls})


def body(environ):
    return environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def answer(start_response, status, said, headers=()):
    text = json.dumps(said).encode()
    always = {"Content-Type": "application/json", "Content-Length": str(len(text))}
    start_response(f"{status} Told", list({**always, **dict(headers)}.items()))
    return [text]


def hang_up(environ):
    """The client sees its connection closed without a word."""
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError
