"""What became of what was asked. Launching and ending are jobs of the cloud: their ids are kept and looked at, never waited
for.

A machine in Error does not name the job that failed, so the ids are kept from the answers. They are lost with the process:
the machine is then an error without its cause, and ended all the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from .errors import NOT_ALLOWED, NOT_OURS, PARAMETER, THROTTLED, Refusal
from .machines import Known, pending_job

_MOST_LOOKS = 20  # in one listing; the rest follow with the next ones
_PENDING, _FAILED = 0, 2
_END = "DestroyVMCmd"  # in the class names of both the user's and the admin's command

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A mapping that forgets its oldest entries. Thread-safe."""

    def __init__(self, most: int = 20_000) -> None:
        self._most = most
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        with self._lock:
            return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)


class Jobs:
    """The jobs of one account's machines."""

    def __init__(self, call: Callable[..., dict[str, Any]]) -> None:
        self._call = call
        self._start_of: Recent[str, str] = Recent()  # machine → the job that starts it
        self._ends: Recent[str, bool] = Recent()  # job → whether it ends its machine
        self._failures: Recent[str, Refusal] = Recent()  # machine → how its start failed
        self._end_asked: Recent[str, bool] = Recent()  # machines
        self._forgotten: Recent[str, bool] = Recent()  # jobs that the cloud tells nothing of any more

    def starts(self, machine: str, job: str) -> None:
        self._start_of.put(machine, job)
        self._ends.put(job, False)

    def ends(self, machine: str, job: str | None) -> None:
        self._end_asked.put(machine, True)
        if job:
            self._ends.put(job, True)

    def end_was_asked(self, machine: str) -> bool:
        return self._end_asked.get(machine) is not None

    def look(self, rows: Iterable[Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], Known]:
        """Ask about the jobs that matter, a bounded number; what is then known of each row's."""
        left = _MOST_LOOKS
        for row in rows:
            job = self._job_to_ask(row)
            if job and left:
                left = left - 1 if self._ask(str(row["id"]), job) else 0
        return lambda row: Known(
            ending=self._is_ending(row),
            failure=self._failures.get(str(row["id"])),
            open=self._job_to_ask(row) is not None,
        )

    def _job_to_ask(self, row: Mapping[str, Any]) -> str | None:
        machine, at_work = str(row["id"]), pending_job(row)
        if row.get("state") == "Error":
            job = None if self._failures.get(machine) else at_work or self._start_of.get(machine)
        else:
            job = at_work if at_work and self._ends.get(at_work) is None else None
        return None if job is None or self._forgotten.get(job) else job

    def _ask(self, machine: str, job: str) -> bool:
        """Look at a job. False where the account has to be quiet for a while."""
        try:
            seen = self._call("queryAsyncJobResult", {"jobid": job})
        except Refusal as refusal:
            if refusal.code == THROTTLED:
                return False
            if refusal.code not in (PARAMETER, NOT_ALLOWED, NOT_OURS):
                raise
            self._forgotten.put(job, True)
            return True
        ends = _END in str(seen.get("cmd"))
        self._ends.put(job, ends)
        if seen.get("jobstatus") == _FAILED and not ends:
            told = seen.get("jobresult") or {}
            code = int(told.get("errorcode") or seen.get("jobresultcode") or 0)
            self._failures.put(machine, Refusal(code, str(told.get("errortext", "")).strip()))
        elif seen.get("jobstatus") != _PENDING:
            self._forgotten.put(job, True)  # over, and not why the machine is as it is
        return True

    def _is_ending(self, row: Mapping[str, Any]) -> bool:
        """An end that was asked waits behind the start: the job at work is then still the start's."""
        at_work = pending_job(row)
        return at_work is not None and (self._ends.get(at_work) is True or self.end_was_asked(str(row["id"])))
