"""Notice of a spot machine's end, from the cloud's metadata service, asked without ever holding up the loop.

EC2's way: a token by PUT (IMDSv2), then `spot/instance-action`, which does not exist (404) until the machine is to be
taken back, and says when from then on. ORCHESTRATOR_IMDS names another service than the link-local one.
"""

import os
import selectors
import socket
import time

from calls import Call, Failed
from machine import say

LINK_LOCAL = "http://169.254.169.254"
LOOK_S = 5.0
ANSWER_S = 2.0
ASK = "%s /latest/%s HTTP/1.1\r\nHost: %s\r\nX-aws-ec2-metadata-token%s\r\nContent-Length: 0\r\n\r\n"


class Interruption:
    """`step` at each turn of the loop, no later than after `pause_s`. `news`, once known and until the master has heard it,
    is when the machine will be taken (seconds since 1970). A service that cannot be reached says nothing: the master sees
    the machine's end all the same."""

    def __init__(self):
        # type: () -> None
        place = os.environ.get("ORCHESTRATOR_IMDS", LINK_LOCAL).partition("://")[2].rstrip("/")
        host, _, port = place.partition(":")
        self._place, self._address = place, (host, int(port or 80))
        self._token = ""
        self._call = None  # type: Call | None
        self._next = 0.0
        self._known = False
        self.news = None  # type: float | None

    def told(self, news):
        # type: (float | None) -> None
        """The master has heard this."""
        if news is not None:
            self.news = None

    def pause_s(self):
        # type: () -> float
        if self._call is not None:
            return ANSWER_S
        return LOOK_S if self._known else max(0.0, self._next - time.monotonic())

    def step(self, selector):
        # type: (selectors.BaseSelector) -> None
        try:
            if self._call is None:
                if not self._known and time.monotonic() >= self._next:
                    self._begin(selector)
            elif self._call.step():
                self._answered(self._end(selector))
            else:
                self._call.check_time()
                events = selectors.EVENT_WRITE if self._call.wants_to_write else selectors.EVENT_READ
                selector.modify(self._call.socket, events)
        except Failed:
            self._end(selector)

    def _begin(self, selector):
        # type: (selectors.BaseSelector) -> None
        self._next = time.monotonic() + LOOK_S
        connection = socket.socket()
        connection.setblocking(False)
        try:
            connection.connect_ex(self._address)  # a refusal shows at the first step
        except OSError:  # a name that means nothing here
            connection.close()
            return
        if self._token:
            text = ASK % ("GET", "meta-data/spot/instance-action", self._place, ": " + self._token)
        else:
            text = ASK % ("PUT", "api/token", self._place, "-ttl-seconds: 21600")
        self._call = Call(connection, text.encode("ascii"), ANSWER_S)
        selector.register(connection, selectors.EVENT_WRITE)

    def _end(self, selector):
        # type: (selectors.BaseSelector) -> Call
        call, self._call = self._call, None
        selector.unregister(call.socket)
        call.socket.close()
        return call

    def _answered(self, call):
        # type: (Call) -> None
        if not self._token:
            if call.status == 200:
                self._token = call.body().decode("ascii", "ignore").strip()
                self._next = 0.0  # and now the question itself
        elif call.status == 200:
            self._known, self.news = True, _moment(call.answer().get("time"))
            say("the cloud takes this machine back at %s" % time.strftime("%H:%M:%S", time.gmtime(self.news)))
        elif call.status == 401:
            self._token = ""  # it has expired


def _moment(text):
    # type: (object) -> float
    """`2026-03-02T08:22:00Z`; what cannot be read is two minutes from now, as EC2 promises."""
    import calendar  # costs a megabyte, once, at the end of a machine's life

    try:
        return float(calendar.timegm(time.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return time.time() + 120.0
