"""One row of the cloud's list as a machine. Pure: what is known of a machine's jobs is handed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ..base import Cause, Instance, InstanceState
from .errors import CAUSE_BY_CODE, Refusal
from .template import DETAIL_INDEX, tags

_STATES = {
    "Starting": InstanceState.PENDING,
    "Running": InstanceState.RUNNING,
    "Migrating": InstanceState.RUNNING,
    "Stopping": InstanceState.STOPPING,
    "Stopped": InstanceState.STOPPED,
    "Shutdown": InstanceState.STOPPED,
    "Destroyed": InstanceState.ENDED,
    "Expunging": InstanceState.ENDED,
    "Error": InstanceState.ERROR,
}
_ALIVE = (InstanceState.PENDING, InstanceState.RUNNING, InstanceState.STOPPING, InstanceState.STOPPED)
_BEFORE_ITS_JOB = timedelta(minutes=2)  # a machine may be listed before the job that starts it

_STOPPED = "it powered itself off, or was stopped in the cloud"
_NEVER_STARTED = "it was never started, and no job of the cloud will do so"
_NO_REASON = "the cloud could not start it, and does not say why any more"


def pending_job(row: Mapping[str, Any]) -> str | None:
    """The id of the job that works on this machine now."""
    return row.get("jobid") if row.get("jobid") and row.get("jobstatus") == 0 else None


def was_never_started(row: Mapping[str, Any]) -> bool:
    """A new machine is listed as Stopped, with its address, before it is Starting. What tells it from one that stopped is
    a mark that its first start takes away, and that its state has never changed."""
    return "deployvm" in (row.get("details") or {}) or "lastupdated" not in row


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a machine's jobs."""

    ending: bool  # the job at work is its end
    failure: Refusal | None  # how the job that should have started it failed
    open: bool  # there is a job that could tell more, and has not yet


def instance(row: Mapping[str, Any], known: Known, now: datetime) -> Instance:
    """`now` is the server's own time."""
    state, fault = _STATES.get(str(row.get("state")), InstanceState.UNKNOWN), None
    cause: Cause | None = None
    if state is InstanceState.ERROR and known.open:
        state = InstanceState.PENDING  # until its job is heard: an error without its cause is acted on without it
    elif state is InstanceState.ERROR:
        fault = str(known.failure) if known.failure else _NO_REASON
        cause = CAUSE_BY_CODE.get(known.failure.code) if known.failure else None
    elif known.ending and state in _ALIVE:
        state = InstanceState.ENDING
    elif state is InstanceState.STOPPED and was_never_started(row):
        still_to_come = pending_job(row) or now - _created(row, now) < _BEFORE_ITS_JOB
        state, fault = (InstanceState.PENDING, None) if still_to_come else (state, _NEVER_STARTED)
    elif state is InstanceState.STOPPED:
        fault = _STOPPED
    index = str((row.get("details") or {}).get(DETAIL_INDEX, "0"))
    return Instance(
        id=str(row["id"]),
        state=state,
        tags=tags(row),
        address=_address(row),
        launched_at=_created(row, now),
        fault=fault,
        launch_index=int(index) if index.isdigit() else 0,
        cause=cause,
    )


def _created(row: Mapping[str, Any], now: datetime) -> datetime:
    try:
        return datetime.strptime(str(row.get("created")), "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        return now


def _address(row: Mapping[str, Any]) -> str | None:
    cards = sorted(row.get("nic") or [], key=lambda card: not card.get("isdefault"))
    return next((card["ipaddress"] for card in cards if card.get("ipaddress")), row.get("ipaddress") or None)
