"""Who hears how a job ended: the `notify` list of a job file, and of a client."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

Outcome = Literal["succeeded", "failed", "cancelled", "always"]
MOST = 20
_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?)(:[0-9]{1,5})?([/?][!-~]*)?")
# One mailbox in plain letters: no comma, space or line break, so that it is one address in any header.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,200}[A-Za-z0-9])?")


def _checked_url(text: str) -> str:
    if not _URL.fullmatch(text):
        raise ValueError("is not the URL of a webhook; write one such as https://host/path, in ASCII, without a user")
    try:
        port = urlsplit(text).port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("has no valid port; write 1 … 65535, or leave it out")
    return text


def is_address(text: str) -> bool:
    return len(text) <= 254 and _ADDRESS.fullmatch(text) is not None


def _checked_address(text: str) -> str:
    if not is_address(text):
        raise ValueError("is not one e-mail address; write one such as ops@example.org, and an entry for each other one")
    return text


class Notify(BaseModel):
    """One place that hears of a job's end: a webhook or an e-mail address, and of which ends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    webhook: Annotated[str, StringConstraints(max_length=2000), AfterValidator(_checked_url)] | None = None
    email: Annotated[str, StringConstraints(max_length=254), AfterValidator(_checked_address)] | None = None
    on: Annotated[list[Outcome], Field(min_length=1, max_length=4)] = ["always"]
    secret: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_outcome_may_stand_alone(cls, data: Any) -> Any:
        return {**data, "on": [data["on"]]} if isinstance(data, Mapping) and isinstance(data.get("on"), str) else data

    @model_validator(mode="after")
    def _one_place(self) -> Notify:
        if (self.webhook is None) == (self.email is None):
            raise ValueError("names one place; write webhook: URL or email: ADDRESS")
        if self.secret is not None and self.webhook is None:
            raise ValueError("secret signs webhooks; leave it out for e-mail")
        return self

    def document(self) -> dict[str, Any]:
        return self.model_dump(exclude_defaults=True)


def places(wishes: Iterable[Sequence[Mapping[str, Any]] | None], outcome: str) -> list[dict[str, Any]]:
    """The places that these lists want told of this outcome, each once: `webhook` or `email`, and `secret`."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for wish in (wish for each in wishes for wish in each or ()):
        if not {outcome, "always"}.isdisjoint(wish.get("on", ("always",))):
            place = {name: wish[name] for name in ("webhook", "email", "secret") if wish.get(name)}
            found.setdefault(tuple(place.items()), place)
    return list(found.values())


def shown(place: Mapping[str, Any]) -> str:
    """The place as it may be shown: the path of a webhook's URL is often its password."""
    if "webhook" not in place:
        return str(place["email"])
    parts = urlsplit(place["webhook"])
    return f"{parts.scheme}://{parts.netloc}" + ("/…" if parts.path.strip("/") or parts.query else "")
