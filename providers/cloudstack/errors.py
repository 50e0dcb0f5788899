"""What CloudStack's refusals mean to us: a table of its error codes, and of the HTTP library's own exceptions.

Only codes are looked at; some texts name account and user by an id that changes with every call. The one number that is
taken from a text is how long a throttled account has to wait, which is nowhere else: it only makes the wait shorter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..base import (
    Cause,
    Misconfigured,
    NoCapacity,
    OutcomeUnknown,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    Unauthorised,
    Unavailable,
)

THROTTLED, PARAMETER, NOT_ALLOWED, NOT_OURS = 429, 431, 432, 531
_KIND_BY_CODE: dict[int, type[ProviderError]] = {
    THROTTLED: RateLimited,
    401: Unauthorised,  # also for an unknown command, and for a request that has expired
    NOT_ALLOWED: Unauthorised,  # the role does not allow the command
    511: Unauthorised,  # a second factor is wanted
    NOT_OURS: Unauthorised,  # another account's
    532: QuotaExceeded,
    533: NoCapacity,
    535: QuotaExceeded,
    503: Unavailable,
    530: Unavailable,
    534: Unavailable,
    536: Unavailable,
    537: Misconfigured,
}
CAUSE_BY_CODE = {532: Cause.QUOTA, 533: Cause.NO_CAPACITY, 535: Cause.QUOTA}

_FIX: dict[type[ProviderError], str] = {
    RateLimited: "The account makes too many calls; it is tried again later by itself.",
    NoCapacity: "Nothing was created; it is tried again later. Other offerings or zones may have room.",
    QuotaExceeded: "Nothing was created; have the account's limit raised, or lower the pool's maximum.",
    Misconfigured: "Correct the pool's launch template or the cloud's settings.",
    Unauthorised: "Check the credentials of this cloud, this host's clock, and that the user's role allows the command.",
    OutcomeUnknown: "It may or may not have happened; the listing of machines tells.",
    Unavailable: "Nothing was changed; it is tried again later by itself.",
}
_WAIT = re.compile(r"\[(\d{1,7})\] ?ms")
_WAIT_S = 1.0  # where the text has no number; the allowance is one of seconds


class Refusal(Exception):
    """CloudStack answered, and not with a yes: its own `code`, and its words for people."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text.rstrip('.') or 'no reason given'} ({code})")
        self.code = code
        self.text = text

    @property
    def wait_s(self) -> float:
        found = _WAIT.search(self.text)
        return int(found.group(1)) / 1000 if found else _WAIT_S


class NotCloudStack(Exception):
    """Something answered that is not CloudStack's API: a proxy before it, or the web server it runs in."""

    def __init__(self, status: int, body: str) -> None:
        start = " ".join(re.sub(r"<[^>]*>", " ", body).split())[:120]
        super().__init__(f"an answer that is not CloudStack's, HTTP status {status}: {start or 'empty'}")
        self.status = status


@contextmanager
def translated(doing: str, *, launching: bool = False) -> Iterator[None]:
    """Their errors as ours."""
    import ssl

    from requests.exceptions import RequestException

    try:
        yield
    except (Refusal, NotCloudStack, RequestException, ssl.SSLError, OSError) as error:
        raise translate(error, doing, launching=launching) from error


def translate(error: Exception, doing: str, *, launching: bool = False) -> ProviderError:
    """The error of ours for one of theirs. `doing` begins the message ("launch a machine").

    For a launch every failure that may have come after the work was done is OutcomeUnknown; all else that we do can be
    done again, so there it is Unavailable.
    """
    if isinstance(error, Refusal):
        kind = _KIND_BY_CODE.get(error.code) or (Misconfigured if error.code < 500 else Unavailable)
    elif isinstance(error, NotCloudStack):
        kind = Misconfigured if error.status < 500 else Unavailable
    else:
        kind = _kind_of_failure(error)
    if kind is Unavailable and launching and not _never_sent(error):
        kind = OutcomeUnknown
    message = f"CloudStack did not {doing}: {str(error).rstrip('.')}. {_FIX[kind]}"
    return RateLimited(message, error.wait_s) if kind is RateLimited and isinstance(error, Refusal) else kind(message)


def _kind_of_failure(error: Exception) -> type[ProviderError]:
    """CloudStack was not heard."""
    import ssl

    from requests import exceptions as http

    below: BaseException | None = error
    while below is not None:
        if isinstance(below, ssl.SSLCertVerificationError | http.InvalidURL | http.InvalidSchema | http.TooManyRedirects):
            return Misconfigured
        below = below.__context__
    return Unavailable


def _never_sent(error: Exception) -> bool:
    """Whether it is sure that the request did not leave: no connection came about."""
    from requests import exceptions as http
    from urllib3.exceptions import NewConnectionError

    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(error, http.ConnectTimeout | http.ProxyError) or isinstance(reason, NewConnectionError)
