"""What OpenStack's refusals mean to us: a table of its statuses, and of the SDK's own exceptions.

Statuses are looked at, texts are not, but for two things that Nova tells by no code at all, both at the end of this
file. The module imports the SDK when the first error comes, not before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .base import (
    Cause,
    Misconfigured,
    OutcomeUnknown,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    Unauthorised,
    Unavailable,
)

_BY_STATUS: dict[int, type[ProviderError]] = {
    401: Unauthorised,
    408: Unavailable,
    413: RateLimited,  # what was 429 before there was one
    429: RateLimited,
}

SETTLES_S = 3.0

_FIX: dict[type[ProviderError], str] = {
    RateLimited: "The account makes too many calls; it is tried again later by itself.",
    QuotaExceeded: "Nothing was created; have the project's quota raised, or lower the pool's maximum.",
    Misconfigured: "Correct the pool's launch template or the cloud's settings.",
    Unauthorised: "Check the credentials in clouds.yaml, whether they have expired, and the roles of their user.",
    OutcomeUnknown: "It may or may not have happened; the listing of servers tells.",
    Unavailable: "Nothing was changed; it is tried again later by itself.",
}


@contextmanager
def translated(doing: str, *, launching: bool = False) -> Iterator[None]:
    """The SDK's errors as ours. `doing` completes "OpenStack did not …" ("launch 3 machines").

    For a launch every failure that may have come after the work was done is OutcomeUnknown; all else that we do can be
    done again, so there it is Unavailable.
    """
    try:
        yield
    except ProviderError:
        raise
    except Exception as error:
        ours = _translate(error, doing, launching)
        if ours is None:
            raise
        raise ours from error


def settles_in_s(error: BaseException | None, timeout_s: float) -> float:
    """How long a call that failed so may still be carried out: not at all where Nova itself has answered, for another
    time-out where we or a gateway gave up waiting, for moments where the connection broke."""
    from keystoneauth1 import exceptions as sdk

    if isinstance(error, sdk.ConnectTimeout | sdk.BadGateway | sdk.GatewayTimeout):
        return max(SETTLES_S, timeout_s)
    return 0.0 if isinstance(error, sdk.HttpError) else SETTLES_S


def _translate(error: Exception, doing: str, launching: bool) -> ProviderError | None:
    from keystoneauth1 import exceptions as sdk

    if isinstance(error, sdk.HttpError) and error.http_status:
        return _refusal(error, doing, launching)
    kind = _kind_of_failure(error)
    if kind is Unavailable and launching:
        kind = OutcomeUnknown
    return kind(f"OpenStack did not {doing}: {str(error).rstrip('.')}. {_FIX[kind]}") if kind else None


def _refusal(error: Any, doing: str, launching: bool) -> ProviderError:
    """A service answered, and not with a yes."""
    status, text = int(error.http_status), _text(error.response) or str(error)
    if status == 403:
        kind = _kind_of_forbidden(text)
    elif status == 409 and not launching:
        kind = Unavailable  # the server is in the midst of something else
    else:
        kind = _BY_STATUS.get(status) or (Unavailable if status >= 500 else Misconfigured)
    if kind is Unavailable and launching:
        kind = OutcomeUnknown
    message = f"OpenStack did not {doing}: {text.rstrip('.')} (HTTP {status}). {_FIX[kind]}"
    if kind is RateLimited:
        after = error.response.headers.get("Retry-After", "") if error.response is not None else ""
        return RateLimited(message, float(after)) if after.isdigit() else RateLimited(message)
    return kind(message)


def _kind_of_failure(error: Exception) -> type[ProviderError] | None:
    """Nobody answered, or not sensibly, or it was not even asked. None: no error of the SDK."""
    from keystoneauth1 import exceptions as sdk
    from openstack.exceptions import SDKException
    from requests.exceptions import JSONDecodeError

    credentials = (sdk.AuthPluginException, sdk.MissingAuthMethods, sdk.AuthorizationFailure)
    unheard = (sdk.ConnectionError, sdk.DiscoveryFailure, sdk.InvalidResponse, JSONDecodeError)
    if isinstance(error, credentials):
        return Unauthorised
    if isinstance(error, unheard):
        return Unavailable
    return Misconfigured if isinstance(error, sdk.ClientException | SDKException) else None


def _text(response: Any) -> str:
    """The service's own sentence: `{"forbidden": {"message": …}}` as JSON, or a page with tags."""
    if response is None:
        return ""
    try:
        (said, *_) = response.json().values()
        return str(said["message"])
    except (ValueError, AttributeError, KeyError, TypeError):
        return " ".join(re.sub(r"<[^>]*>", " ", response.text).split())[:300]


# -- where only the text tells --

# Nova and Neutron answer 403 to a full quota as to a missing right, and to a wish that cannot be, all without a code.
# Nova's texts: nova/exception.py, OverQuota and its heirs, PolicyNotAuthorized; oslo.limit's with unified limits.
_QUOTA = re.compile(r"quota|over a limit|Maximum number of ports|TooManyInstances", re.IGNORECASE)
_RIGHT = re.compile(r"policy|not authorized|forbidden to|rule:", re.IGNORECASE)

# A server in ERROR has a fault of code 500 whatever happened. The scheduler: nova/exception.py, NoValidHost and
# MaxRetriesExceeded; the late recheck of the quota: TooManyInstances; addresses and volumes: passed on by the compute.
_NO_CAPACITY = re.compile(
    r"No valid host was found|Exceeded maximum number of retries|Exhausted all hosts"
    r"|[Nn]o more IP addresses|[Nn]o fixed IP addresses|Zero fixed ips",
)


def _kind_of_forbidden(text: str) -> type[ProviderError]:
    if _QUOTA.search(text):
        return QuotaExceeded
    return Unauthorised if _RIGHT.search(text) else Misconfigured


def cause_of(fault: str) -> Cause | None:
    """What a server in ERROR died of, where its fault tells; None for all else."""
    if _QUOTA.search(fault):
        return Cause.QUOTA
    return Cause.NO_CAPACITY if _NO_CAPACITY.search(fault) else None
