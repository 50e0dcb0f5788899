"""Any provider, at its account's pace: no call too many, none without an end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import TypeVar

from .base import (
    CatalogueItem,
    Finding,
    Instance,
    LaunchRequest,
    OutcomeUnknown,
    Provider,
    ProviderError,
    Unavailable,
)
from .limits import Limiter

T = TypeVar("T")
WITHIN_S = 120.0  # several times what one request may take: a verb may need some of them


class LimitedProvider:
    """A provider around another one, which may be anybody's.

    Each call is made on a thread of its own, so that one that never comes back costs its caller `within_s` seconds and
    its account one place, not more. Raises RateLimited where the call would be one too many; it was not made then.
    """

    def __init__(self, inner: Provider, limiter: Limiter, within_s: float = WITHIN_S) -> None:
        self._inner = inner
        self._limiter = limiter
        self._within_s = within_s
        self._launching: set[str] = set()
        self._lock = threading.Lock()
        self.user_data_limit = inner.user_data_limit
        self.rents = inner.rents
        self.endpoint: str = getattr(inner, "endpoint", "")  # a provider older than this attribute may lack it

    def validate(self, template: Mapping[str, object]) -> None:
        self._inner.validate(template)

    def check(self) -> None:
        self._call("check", self._inner.check)

    def inspect(self, image: str, instance_type: str, template: Mapping[str, object]) -> list[Finding]:
        return self._call("inspect", lambda: self._inner.inspect(image, instance_type, template))

    def launch(self, request: LaunchRequest) -> list[Instance]:
        return self._call("launch", lambda: self._launch_alone(request), OutcomeUnknown)

    def instances(self) -> list[Instance]:
        return self._call("instances", self._inner.instances)

    def terminate(self, ids: Iterable[str]) -> None:
        wanted = list(ids)
        self._call("terminate", lambda: self._inner.terminate(wanted))

    def impaired(self) -> Mapping[str, str]:
        return self._call("impaired", self._inner.impaired)

    def console(self, instance_id: str) -> str:
        return self._call("console", lambda: self._inner.console(instance_id))

    def catalogue(self, kind: str) -> list[CatalogueItem]:
        return self._call("catalogue", lambda: self._inner.catalogue(kind))

    def _launch_alone(self, request: LaunchRequest) -> list[Instance]:
        """A launch given up as too slow may still be under way: its own repeat must not run beside it."""
        with self._lock:
            if request.launch_id in self._launching:
                raise OutcomeUnknown("the same launch is still under way from an earlier try")
            self._launching.add(request.launch_id)
        try:
            return self._inner.launch(request)
        finally:
            with self._lock:
                self._launching.discard(request.launch_id)

    def _call(self, verb: str, work: Callable[[], T], late: type[ProviderError] = Unavailable) -> T:
        entered = self._limiter.enter(verb)
        call: Future[T] = Future()

        def carry_out() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                self._limiter.leave(verb, entered, error)
                call.set_exception(error)
            else:
                self._limiter.leave(verb, entered, None)
                call.set_result(result)

        try:
            threading.Thread(target=carry_out, name=f"cloud-{verb}", daemon=True).start()
        except RuntimeError as error:
            self._limiter.leave(verb, entered, None)
            raise Unavailable(f"this machine has no thread left for a call to the cloud: {error}") from error
        try:
            return call.result(self._within_s)
        except TimeoutError:
            if call.done():  # the provider's own
                raise
            raise late(f"the cloud has not answered {verb} in {self._within_s:g} s; see `orchestrator doctor`") from None
