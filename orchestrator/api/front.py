"""What stands before API and agents: from which address what is allowed, and which calls come in at which door."""

from __future__ import annotations

from starlette.types import Scope

from orchestrator.api.problems import Problem
from orchestrator.api.record import address_of
from orchestrator.levels import HEALTH, AllowedHosts, needed, parse
from orchestrator.settings import Settings

ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - it is compared, not bound


class Front:
    """Asked before a call is looked at. `in_the_way` is false where no setting wants it asked."""

    def __init__(self, settings: Settings) -> None:
        self._hosts = AllowedHosts(parse(settings.allowed_hosts))
        self._agents = settings.agents_apart
        self.in_the_way = bool(self._hosts) or self._agents is not None

    def refusal(self, scope: Scope) -> Problem | None:
        """Why this call goes no further; None when it may."""
        path = scope["path"]
        if self._agents is not None and self._wrong_door(scope, path):
            return Problem(404, "Not found", f"{path} is not served at this address (agents_host, agents_port)")
        scope["level"] = level = self._hosts.level(address_of(scope))
        least = needed(scope["method"], path)
        if level >= least:
            return None
        told = f"{address_of(scope)} is allowed {level.name.lower()}, and this takes {least.name.lower()}"
        return Problem(403, "Not from here", f"{told}; see allowed_hosts in the master's settings")

    def _wrong_door(self, scope: Scope, path: str) -> bool:
        assert self._agents is not None
        host, port = scope["server"] or ("", 0)
        theirs = port == self._agents[1] and (self._agents[0] in ANYWHERE or host == self._agents[0])
        return path.startswith("/agent/") != theirs and path not in HEALTH
