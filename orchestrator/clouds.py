"""The configured cloud accounts, by name. A provider's SDK is imported when its first cloud is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from providers.base import Misconfigured, Provider

if TYPE_CHECKING:
    from orchestrator.settings import CloudSettings


class UnknownCloud(Misconfigured):
    """A pool names a cloud that the settings do not have."""


class Clouds:
    """Providers by the names that pools use, made once each, for this installation."""

    def __init__(self, settings: Mapping[str, CloudSettings], installation: str) -> None:
        self._settings = settings
        self._installation = installation
        self._providers: dict[str, Provider] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        return sorted(self._settings)

    def get(self, name: str) -> Provider:
        """The provider of this cloud. Raises UnknownCloud with the names there are."""
        with self._lock:
            if name not in self._providers:
                settings = self._settings.get(name)
                if settings is None:
                    known = ", ".join(self.names()) or "none"
                    raise UnknownCloud(
                        f"no cloud is named {name!r} in the settings; add [clouds.{name}] (there are: {known})"
                    )
                self._providers[name] = _MAKERS[settings.provider](settings, self._installation)
            return self._providers[name]


def _ec2(settings: CloudSettings, installation: str) -> Provider:
    from providers.ec2 import Ec2Provider

    options: dict[str, Any] = settings.model_dump(exclude={"provider"}, exclude_none=True)
    return Ec2Provider(installation=installation, **options)


_MAKERS: dict[str, Callable[[CloudSettings, str], Provider]] = {"ec2": _ec2}
