"""The contract every cloud keeps: a few verbs, a few values, and errors named by what the caller does next.

A provider is synchronous and thread-safe, keeps no state of its own that matters after a crash, and translates its
SDK's error *codes* (never prose) into the tree below. `providers.contract` is the suite that proves one.

    ProviderError
    ├── Unavailable          the cloud did not do it now; try at the next tick
    │   └── RateLimited      … and not before `.retry_after_s`
    ├── NoCapacity           nothing was created; this kind of machine is not to be had now
    │   └── QuotaExceeded    … because of this account's own limit
    ├── Misconfigured        an operator must act; pause the pool and show `str(error)`
    │   └── Unauthorised     … on the credentials or their rights
    └── OutcomeUnknown       it may or may not have happened: look before asking again
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

# The tags every instance carries from its creation on. What bears our installation's id is ours; nothing else is.
TAG_INSTALLATION = "elastic-orchestrator:installation"
TAG_POOL = "elastic-orchestrator:pool"
TAG_LAUNCH = "elastic-orchestrator:launch"
TAG_NODE = "elastic-orchestrator:node"


class InstanceState(StrEnum):
    """What a cloud says of a machine, in one vocabulary for all clouds."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ENDING = "ending"  # on its way out: cannot come back, may still be billed
    ENDED = "ended"
    ERROR = "error"
    UNKNOWN = "unknown"

    @property
    def exists(self) -> bool:
        """True while the machine may still cost money or run anything (a stopped one keeps its disks)."""
        return self is not InstanceState.ENDED


class Cause(StrEnum):
    """Why a machine that came, or nearly came, is no good: what the cloud says by code, where that changes what is done
    next. Capacity and quota may show only after the launch was accepted; the next rung is tried then."""

    NO_CAPACITY = "no_capacity"
    QUOTA = "quota"
    RECLAIMED = "reclaimed"  # the cloud took it back (a spot machine)


@dataclass(frozen=True, slots=True)
class Instance:
    """One machine as its cloud shows it. `fault` is the cloud's own message when something went wrong, `cause` what kind
    of fault it is where the cloud tells by a code."""

    id: str
    state: InstanceState
    tags: Mapping[str, str] = field(default_factory=dict)
    address: str | None = None
    launched_at: datetime | None = None
    fault: str | None = None
    launch_index: int = 0  # the machine's place in its launch, 0 … count - 1, where the cloud tells
    cause: Cause | None = None

    @property
    def launch_id(self) -> str | None:
        return self.tags.get(TAG_LAUNCH)


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What one launch asks of a cloud.

    `launch_id` is unique among all installations and is the cloud's idempotency token: asking twice with the same
    request makes no second machine. `user_data` is raw, before any base64 of the cloud's. `template` holds the
    provider's own settings (subnet, key, security groups, …), already checked by `Provider.validate`.
    """

    launch_id: str
    count: int
    image: str
    instance_type: str
    user_data: bytes
    tags: Mapping[str, str]
    template: Mapping[str, object] = field(default_factory=dict)

    def refuse_user_data_over(self, limit: int, cloud: str) -> None:
        """Raise Misconfigured, before any call, where the cloud takes fewer bytes."""
        if (size := len(self.user_data)) > limit:
            raise Misconfigured(
                f"the user data have {size} bytes, {cloud} takes {limit}: shorten the pool's own additions, "
                "or let the machine fetch them at boot"
            )


@dataclass(frozen=True, slots=True)
class CatalogueItem:
    """An image, a size or a location that a pool may name."""

    id: str
    name: str
    detail: str = ""


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"  # launches may still work
    WRONG = "wrong"  # no launch can work until an operator acts


@dataclass(frozen=True, slots=True)
class Finding:
    """What `inspect` found of one thing: `subject` in a word or two (`image`, `subnet`, `quota`), `told` in a sentence
    that ends with the fix where something is wrong."""

    subject: str
    verdict: Verdict
    told: str


class Provider(Protocol):
    """One account of one cloud, seen by one installation.

    Third parties bring theirs by an entry point of the group `elastic_orchestrator.providers` that names a class like
    this one. It is called with `installation=` and the options of the cloud's settings as keywords; their names and
    types are checked against its signature first.
    """

    user_data_limit: int
    """Bytes of raw user data the cloud takes."""

    rents: bool
    """Whether machines are launched and ended here; False where they exist already and only join."""

    endpoint: str
    """URL of the cloud's API, for a look at its clock and its certificate; "" where it has none."""

    def validate(self, template: Mapping[str, object]) -> None:
        """Raise Misconfigured naming the unknown or ill-typed key of a pool's launch template. Makes no call."""

    def check(self) -> None:
        """Prove that the credentials and the region work: Misconfigured or Unauthorised with the fix, else None."""

    def inspect(self, image: str, instance_type: str, template: Mapping[str, object]) -> list[Finding]:
        """Look at each thing a launch with these settings needs (image, type, network, key, groups, quota left) and say
        of each whether it is there and fits. Creates nothing. Raises only where the cloud cannot be asked at all."""

    def launch(self, request: LaunchRequest) -> list[Instance]:
        """Start up to `request.count` machines, at least one, tagged at creation; never waits for an address.

        Idempotent by `request.launch_id`: a repeat gives the machines of the first call, even ended ones.
        Raises NoCapacity when nothing was created, OutcomeUnknown when the reply was lost.
        """

    def instances(self) -> list[Instance]:
        """Everything of this installation, all pages, ended ones only as long as the cloud shows them; or raise."""

    def terminate(self, ids: Iterable[str]) -> None:
        """Ask the end of these machines, in batches. Absent is success; asking twice is fine."""

    def impaired(self) -> Mapping[str, str]:
        """Running machines of this installation that fail the cloud's own status checks: id → what the cloud says.
        Empty where a cloud has no such checks. One paged listing at most."""

    def console(self, instance_id: str) -> str:
        """The boot log as far as the cloud has it, or ""."""

    def catalogue(self, kind: str) -> list[CatalogueItem]:
        """`images`, `sizes` or `locations` that a pool may name."""


class ProviderError(Exception):
    """Root of everything a provider raises. `str()` tells an operator what happened and what to do."""


class Unavailable(ProviderError):
    """The cloud did not do it now; nothing was changed. Try at the next tick."""


class RateLimited(Unavailable):
    """Too many calls: not again before `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoCapacity(ProviderError):
    """Nothing was created: the cloud has no such machine to give now."""


class QuotaExceeded(NoCapacity):
    """Nothing was created: the account's own limit is reached."""


class Misconfigured(ProviderError):
    """An operator must act before this can work; retrying does not help."""


class Unauthorised(Misconfigured):
    """The credentials are wrong, expired, or lack a right."""


class OutcomeUnknown(ProviderError):
    """The reply was lost: it may have happened. Look before asking again."""
