"""The configured cloud accounts, by name. A provider is found by its entry point; its SDK is imported when its first cloud
is used. Each is called at its account's pace."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, cast

from pydantic import ConfigDict, ValidationError, create_model

from orchestrator import faultpoints
from providers.base import Misconfigured, Provider, ProviderError
from providers.limited import LimitedProvider
from providers.limits import Limiter, Seconds, Usage

if TYPE_CHECKING:
    from orchestrator.settings import CloudSettings

GROUP = "elastic_orchestrator.providers"
Maker = Callable[..., Provider]


class UnknownCloud(Misconfigured):
    """A pool names a cloud that the settings do not have."""


class Clouds:
    """Providers by the names that pools use, made once each, for this installation."""

    def __init__(self, settings: Mapping[str, CloudSettings], installation: str, seconds: Seconds = time.monotonic) -> None:
        self._settings = settings
        self._installation = installation
        self._seconds = seconds
        self._providers: dict[str, Provider] = {}
        self._limiters: dict[str, Limiter] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        return sorted(self._settings)

    def renting(self) -> list[str]:
        """Clouds whose machines are launched and ended by us."""
        return [name for name in self.names() if self.rents(name)]

    def joined(self) -> list[str]:
        """Clouds whose machines exist already: they stay when their nodes end."""
        return [name for name in self.names() if not self.rents(name)]

    def rents(self, name: str) -> bool:
        """Whether machines are launched and ended there. A cloud that cannot be used now is taken for one that does."""
        try:
            return self.get(name).rents
        except ProviderError:
            return True

    def get(self, name: str) -> Provider:
        """The provider of this cloud. Raises UnknownCloud with the names there are, Misconfigured for wrong options."""
        with self._lock:
            if name not in self._providers:
                settings = self._settings.get(name)
                if settings is None:
                    known = ", ".join(self.names()) or "none"
                    raise UnknownCloud(
                        f"no cloud is named {name!r} in the settings; add [clouds.{name}] (there are: {known})"
                    )
                maker = _maker(name, settings.provider)
                options = _checked(name, maker, settings.options)
                provider = maker(installation=self._installation, **options)
                if faultpoints.on():
                    provider = cast(Provider, faultpoints.Watched(provider))
                self._providers[name] = LimitedProvider(provider, self._limiter(name))
            return self._providers[name]

    def usage(self, name: str) -> Usage:
        """How the calls to this cloud of the settings are, and to all that share its limiter."""
        return self._limiter(name).usage()

    def _limiter(self, cloud: str) -> Limiter:
        return self._limiters.setdefault(self._settings[cloud].limiter or cloud, Limiter(self._seconds))


def _maker(cloud: str, provider: str) -> Maker:
    """What makes this provider: its entry point, ours and strangers' alike."""
    found = entry_points(group=GROUP)
    for point in found:
        if point.name == provider:
            maker: Maker = point.load()
            return maker
    known = ", ".join(sorted({point.name for point in found})) or "none"
    raise Misconfigured(f"clouds.{cloud}.provider is {provider!r}, which is not installed; there are: {known}")


def _checked(cloud: str, maker: Maker, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options by the names and types of the maker's signature. Raises Misconfigured naming the option."""
    parameters = inspect.signature(maker, eval_str=True).parameters
    wanted = {name: parameter for name, parameter in parameters.items() if name != "installation"}
    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in wanted.items()
    }
    model = create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)
    try:
        checked = model(**options)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        known = ", ".join(sorted(wanted))
        told = "is not an option of this provider" if first["type"] == "extra_forbidden" else first["msg"]
        raise Misconfigured(f"clouds.{cloud}.{first['loc'][0]}: {told}; its options are {known}") from error
    return {name: getattr(checked, name) for name in options}
