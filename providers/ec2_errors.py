"""What EC2's refusals mean to us: a table of its error codes, and of the SDK's own exceptions.

Codes are stable and documented, texts are neither: only codes are looked at. The module imports the SDK when a call is
made, not before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .base import (
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

_BY_KIND: dict[type[ProviderError], str] = {
    RateLimited: """
        RequestLimitExceeded Throttling ThrottlingException ThrottledException RequestThrottled SlowDown
        RequestThrottledException TooManyRequestsException BandwidthLimitExceeded EC2ThrottledException
        PriorRequestNotComplete""",
    NoCapacity: """
        InsufficientInstanceCapacity InsufficientHostCapacity InsufficientReservedInstanceCapacity InsufficientCapacity
        InsufficientAddressCapacity InsufficientFreeAddressesInSubnet InsufficientVolumeCapacity Unsupported
        SpotMaxPriceTooLow ReservationCapacityExceeded UnfulfillableCapacity InsufficientCapacityOnHost""",
    QuotaExceeded: """
        InstanceLimitExceeded VcpuLimitExceeded MaxSpotInstanceCountExceeded VolumeLimitExceeded MaxIOPSLimitExceeded
        ResourceLimitExceeded NetworkInterfaceLimitExceeded HostLimitExceeded AddressLimitExceeded MaxFleetCountExceeded
        MaxSpotFleetRequestCountExceeded TargetCapacityLimitExceededException""",
    Unauthorised: """
        AuthFailure UnauthorizedOperation InvalidClientTokenId ExpiredToken ExpiredTokenException RequestExpired
        SignatureDoesNotMatch InvalidSignatureException IncompleteSignature MissingAuthenticationToken
        InvalidAccessKeyId UnrecognizedClientException InvalidToken AccessDenied AccessDeniedException
        OptInRequired Blocked""",
    OutcomeUnknown: "IdempotentParameterMismatch",
    Unavailable: "InternalError InternalFailure ServerInternal ServiceUnavailable Unavailable RequestTimeout",
}
_KIND_BY_CODE = {code: kind for kind, codes in _BY_KIND.items() for code in codes.split()}
_RECLAIMED = {"Server.SpotInstanceTermination", "Server.SpotInstanceShutdown"}

_FIX: dict[type[ProviderError], str] = {
    RateLimited: "The account makes too many calls; it is tried again later by itself.",
    NoCapacity: "Nothing was created; it is tried again later. Other instance types or zones may have room.",
    QuotaExceeded: "Nothing was created; have the account's quota raised, or lower the pool's maximum.",
    Misconfigured: "Correct the pool's launch template or the cloud's settings.",
    Unauthorised: "Check the credentials of this cloud, this host's clock, and that their policy allows the call.",
    OutcomeUnknown: "It may or may not have happened; the listing of instances tells.",
    Unavailable: "Nothing was changed; it is tried again later by itself.",
}


def code_of(error: Any) -> str:
    """The code of a refusal (a ClientError of the SDK), or ""."""
    return str(error.response.get("Error", {}).get("Code", ""))


def cause_of(reason: str | None) -> Cause | None:
    """What the code of an instance's `StateReason` means: who is at fault, a dot, and often the code that a call refused
    for the same reason would have had (`Client.VolumeLimitExceeded`)."""
    if reason in _RECLAIMED:
        return Cause.RECLAIMED
    kind = _KIND_BY_CODE.get((reason or "").partition(".")[2])
    if kind is QuotaExceeded:
        return Cause.QUOTA
    return Cause.NO_CAPACITY if kind is NoCapacity else None


@contextmanager
def translated(doing: str, *, launching: bool = False) -> Iterator[None]:
    """The SDK's errors as ours. `doing` and `launching` as for `translate`."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (BotoCoreError, ClientError, ResponseParserError) as error:
        raise translate(error, doing, launching=launching) from error


def barren(errors: Any, doing: str) -> ProviderError:
    """The error of ours for a fleet that came to nothing. EC2 said why for each of its pools of machines (`errors`).

    One pool short of capacity is enough for NoCapacity: the others may be misnamed, but this one will do another day.
    What may pass, throttling say, counts as that too: EC2 gives a repeat of this call the same answer, so the way on
    is another launch.
    """
    kinds = [_KIND_BY_CODE.get(error.get("ErrorCode", ""), Misconfigured) for error in errors] or [NoCapacity]
    if all(kind is QuotaExceeded for kind in kinds):
        kind: type[ProviderError] = QuotaExceeded
    elif all(issubclass(kind, Misconfigured) for kind in kinds):
        kind = kinds[0]
    else:
        kind = NoCapacity
    told = dict.fromkeys(map(_of_pool, errors))
    return kind(f"EC2 did not {doing}: {'; '.join(told) or 'no reason given'}. {_FIX[kind]}")


def _of_pool(error: Any) -> str:
    """One pool's error: where, the text, the code."""
    where = error.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
    place = " in ".join(where[key] for key in ("InstanceType", "SubnetId", "AvailabilityZone") if where.get(key))
    text = str(error.get("ErrorMessage", "")).strip().rstrip(".") or "no reason given"
    return f"{place}: {text} ({error.get('ErrorCode', 'no code')})"


def translate(error: Exception, doing: str, *, launching: bool = False) -> ProviderError:
    """The error of ours for one of the SDK's. `doing` begins the message ("launch 3 machines").

    For a launch every failure that may have come after the work was done is OutcomeUnknown; all else that we do can
    be done again, so there it is Unavailable.
    """
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return _refusal(error.response, doing, launching)
    kind = _kind_of_failure(error)
    if kind is OutcomeUnknown and not launching:
        kind = Unavailable
    return kind(f"EC2 could not {doing}: {error} {_FIX[kind]}")


def _refusal(reply: Any, doing: str, launching: bool) -> ProviderError:
    """EC2 answered, and not with a yes."""
    code = str(reply.get("Error", {}).get("Code", ""))
    text = str(reply.get("Error", {}).get("Message", "")).strip()
    meta = reply.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode", 0))
    kind = _KIND_BY_CODE.get(code) or (Misconfigured if 400 <= status < 500 else Unavailable)
    if kind is Unavailable and launching:
        kind = OutcomeUnknown
    message = f"EC2 did not {doing}: {text or 'no reason given'} ({code or status}). {_FIX[kind]}"
    if kind is RateLimited:
        after = str(meta.get("HTTPHeaders", {}).get("retry-after", ""))
        return RateLimited(message, float(after)) if after.isdigit() else RateLimited(message)
    return kind(message)


def _kind_of_failure(error: Exception) -> type[ProviderError]:
    """EC2 was not heard. What is sure not to have been sent is Unavailable, what may have arrived OutcomeUnknown."""
    from botocore import exceptions as sdk

    no_credentials = (
        sdk.NoCredentialsError,
        sdk.PartialCredentialsError,
        sdk.CredentialRetrievalError,
        sdk.TokenRetrievalError,
        sdk.NoAuthTokenError,
        sdk.UnauthorizedSSOTokenError,
        sdk.SSOTokenLoadError,
        sdk.ProfileNotFound,
        sdk.ConfigNotFound,
    )
    wrong_call = (
        sdk.ParamValidationError,
        sdk.ValidationError,
        sdk.NoRegionError,
        sdk.InvalidRegionError,
        sdk.UnknownEndpointError,
        sdk.InvalidEndpointConfigurationError,
        sdk.EndpointProviderError,
    )
    never_sent = (sdk.EndpointConnectionError, sdk.ConnectTimeoutError, sdk.ProxyConnectionError)
    if isinstance(error, no_credentials):
        return Unauthorised
    if isinstance(error, wrong_call):
        return Misconfigured
    return Unavailable if isinstance(error, never_sent) else OutcomeUnknown
