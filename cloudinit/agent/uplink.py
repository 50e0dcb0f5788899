"""The line to the master: one call whose answer counts, and at most one older call that waits there and is overtaken."""

import random
import select
import selectors
import time

from calls import Call, Failed
from faultpoints import reach
from machine import say


class Uplink:
    """`step` moves the calls on and returns the next answer, or None when there is nothing to do now.

    However the line to the master was lost, the next try after it is back comes within `silence_s`, after which the master
    would take the node for lost: connecting, waiting for an answer and pausing each have their share of it.
    """

    def __init__(self, master, silence_s):
        # type: (..., float) -> None
        self._master = master
        share_s = silence_s / 3.0
        self.wait_s = min(20.0, share_s)  # how long a call with nothing to say may wait at the master
        self._answer_s = min(25.0, share_s)  # and its answer on the way
        self._longest_pause_s = min(6.0, share_s / 2.5)
        master.connect_s = min(10.0, share_s)
        self._call = None  # type: Call | None
        self._waits = False  # the call under way had nothing to say and may wait at the master
        self._overtaken = None  # type: Call | None
        self._free = []  # type: list  # connections at rest
        self._failures = 0
        self._said = ""  # the last failure: told once while it stays the same
        self._not_before = 0.0
        self._heard = time.monotonic()
        self.gone = False

    @property
    def idle(self):
        # type: () -> bool
        return self._waits and self._overtaken is None

    def silent_s(self):
        # type: () -> float
        return time.monotonic() - self._heard

    def pause_s(self):
        # type: () -> float
        return max(0.0, self._not_before - time.monotonic()) if self._call is None else 60.0

    def step(self, selector, message):
        # type: (selectors.BaseSelector, ...) -> dict | None
        try:
            self._finish_overtaken(selector)
            if self._call is None:
                body = message(False)
                if body is not None:
                    self._begin(selector, body)
            elif self._waits and self._overtaken is None:
                news = message(True)
                if news is not None:
                    self._overtaken, self._call = self._call, None
                    self._begin(selector, news)
            return self._advance(selector)
        except Failed as error:
            self._fail(selector, error)
            return None

    def _begin(self, selector, body):
        # type: (selectors.BaseSelector, dict) -> None
        if time.monotonic() < self._not_before:
            return
        reach("agent.call.before")
        connection = self._rested() or self._master.connect()
        self._call = Call(connection, self._master.request("/agent/v1/sync", body), body["wait_s"] + self._answer_s)
        self._waits = body["wait_s"] > 0
        selector.register(connection, selectors.EVENT_READ)

    def _advance(self, selector):
        # type: (selectors.BaseSelector) -> dict | None
        call = self._call
        if call is None:
            return None
        if not call.step():
            call.check_time()
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if call.wants_to_write else 0)
            selector.modify(call.socket, events)
            return None
        self._call = None
        self._rest(selector, call)
        if call.status == 200:
            self._failures, self._said = 0, ""
            self._heard = time.monotonic()
            reach("agent.call.after")
            return call.answer()
        if call.status == 410:
            self.gone = True
            return None
        raise Failed("the master answered %d: %s" % (call.status, call.answer().get("error", "")))

    def _finish_overtaken(self, selector):
        # type: (selectors.BaseSelector) -> None
        """Its answer is empty: the master gave its place to the newer call. Orders it may still carry come again."""
        if self._overtaken is None:
            return
        try:
            if self._overtaken.step():
                self._rest(selector, self._overtaken)
                self._overtaken = None
            else:
                self._overtaken.check_time()
        except Failed:
            self._drop(selector, self._overtaken)
            self._overtaken = None

    def _rested(self):
        # type: () -> object
        """A connection that was kept. One that has something to read was closed by the master meanwhile."""
        while self._free:
            connection = self._free.pop()
            if not select.select([connection], [], [], 0)[0]:
                return connection
            connection.close()
        return None

    def _rest(self, selector, call):
        # type: (selectors.BaseSelector, Call) -> None
        selector.unregister(call.socket)
        if call.keep:
            self._free.append(call.socket)
        else:
            call.socket.close()

    def _drop(self, selector, call):
        # type: (selectors.BaseSelector, Call) -> None
        try:
            selector.unregister(call.socket)
        except (KeyError, ValueError):
            pass
        call.socket.close()

    def _fail(self, selector, error):
        # type: (selectors.BaseSelector, Failed) -> None
        """Try again, later each time, and not all nodes at once."""
        if str(error) != self._said:
            self._said = str(error)
            say(self._said)
        for call in (self._call, self._overtaken):
            if call is not None:
                self._drop(selector, call)
        for connection in self._free:
            connection.close()
        self._call, self._overtaken, self._free, self._waits = None, None, [], False
        self._failures += 1
        pause_s = min(0.1 * 2 ** min(self._failures, 7), self._longest_pause_s)
        self._not_before = time.monotonic() + pause_s * random.uniform(0.5, 1.5)
