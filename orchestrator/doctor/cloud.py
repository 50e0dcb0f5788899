"""One cloud: whether it takes our calls, at what pace, and whether its clock and its certificate are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPException

from orchestrator.clock import Clock
from orchestrator.doctor.probe import ask, expiry, shown_certificate
from providers.base import Finding, Misconfigured, Provider, ProviderError, RateLimited, Unauthorised, Verdict
from providers.limits import Usage

TAKES_CALLS = ("credentials", "settings", "answers")  # what `answers` may find wrong
SKEW_NOTED_S = 30.0
SKEW_REFUSED_S = 240.0  # signatures of EC2 hold five minutes


def answers(provider: Provider, usage: Callable[[], Usage]) -> Iterator[Finding]:
    """Credentials, region and endpoint, by one small call; then whether the cloud holds us back."""
    try:
        provider.check()
    except RateLimited as error:
        yield Finding("rate limit", Verdict.WARNING, f"not asked now: {error}")
    except Unauthorised as error:
        yield Finding("credentials", Verdict.WRONG, str(error))
    except Misconfigured as error:
        yield Finding("settings", Verdict.WRONG, str(error))
    except ProviderError as error:
        yield Finding("answers", Verdict.WRONG, str(error))
    else:
        yield Finding("credentials", Verdict.OK, "it answers and takes the credentials")
    pace = usage()
    if pace.throttled_for_s is not None:
        told = f"the cloud has refused {pace.refused} call(s) as too many; now at most {pace.rate:g} a second are made"
        yield Finding("rate limit", Verdict.WARNING, f"{told}, slowly more again. Who else uses this account?")


def endpoint(url: str, clock: Clock) -> Iterator[Finding]:
    """The clock and the certificate of the cloud's API, where it shows them. Its silence is told by `answers`."""
    if not url:
        return
    with suppress(OSError, HTTPException, ValueError):
        headers, _ = ask("HEAD", url)
        if date := headers["Date"]:
            yield _skew((clock() - parsedate_to_datetime(date)).total_seconds())
    if url.startswith("https:"):
        with suppress(OSError, ValueError):
            yield expiry(shown_certificate(url), f"that of {url}", clock(), "who runs this cloud must renew it")


def _skew(ahead_s: float) -> Finding:
    """`ahead_s`: how much later it is here than in the cloud, to a second or two."""
    how = f"the clock here is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the cloud's"
    if abs(ahead_s) < SKEW_NOTED_S:
        return Finding("clock", Verdict.OK, how)
    verdict = Verdict.WRONG if abs(ahead_s) >= SKEW_REFUSED_S else Verdict.WARNING
    return Finding("clock", verdict, f"{how}: signed calls are refused when it is some minutes; set it by NTP")
