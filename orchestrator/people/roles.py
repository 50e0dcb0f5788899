"""Roles, and who a caller is. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    """Each may do what the ones before it may: a viewer reads, an operator acts, an admin decides who and what there is."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        return _ORDER.index(self) >= _ORDER.index(needed)


_ORDER = tuple(Role)


@dataclass(frozen=True, slots=True)
class Permission:
    """What an endpoint asks of its caller. `of_client`: callers limited to one client may come too, for what is theirs."""

    role: Role
    of_client: bool = False

    def refusal(self, who: Identity) -> str | None:
        """Why this caller may not, and what to do about it; None when they may."""
        if not who.role.covers(self.role):
            return f"{who.actor} is {who.role}, and this takes {self.role}; ask an admin for that role"
        if who.client is not None and not self.of_client:
            return f"{who.actor} is limited to client {who.client}, and this concerns all of them; ask somebody who is not"
        return None


ADMIN_ONLY = Permission(Role.ADMIN)
"""What is asked where nothing was declared: nothing is open by mistake."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls: a person by their name, a token as `token NAME`. `client` limits them to one client's things.

    `csrf` is what a browser must send with each change, None for a token."""

    actor: str
    role: Role
    client_id: int | None = None
    client: str | None = None
    user_id: int | None = None
    csrf: str | None = None
    expires_at: datetime | None = None

    def sees(self, client: str) -> bool:
        """Whether what belongs to this client is there for them at all."""
        return self.client is None or self.client == client
