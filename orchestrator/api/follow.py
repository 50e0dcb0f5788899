"""Following the logs of a job: of every task at once, from where each one is, until the job has ended.

What arrives at this master is sent on at once; what arrives at another, a new attempt, or an end is found at the next look.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from orchestrator.app import Master
from orchestrator.model.states import JOB_OPEN, TASK_OPEN, AttemptState, JobState
from orchestrator.store import queries

AT_ONCE = 200  # logs read in turn; further ones wait until some of these have ended
PIECE = 64 << 10
MOST_PIECES = 32  # of one log after the other, at one look
LOOK_S = 1.0
LOOK_ELSEWHERE_S = 3.0  # where each look asks a store over the network
REORDERED = 1000  # attempts may be committed in another order than that of their numbers


@dataclass(slots=True)
class Trail:
    """One attempt's log, and how far it was read."""

    id: int
    task: str
    number: int
    state: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class News:
    """Bytes of one log: none where it begins to be read; with `data` None the end of its attempt."""

    trail: Trail
    offset: int
    data: bytes | None


class Follower:
    """`follow` yields news by the look; an empty look is a sign of life. Each task begins with its last attempt, and who
    comes again is also told of those that it was reading (`offsets`) and of those begun `since` the newest one that it had
    heard of: a task may have been tried again meanwhile."""

    def __init__(
        self,
        master: Master,
        job_id: int,
        task: str | None,
        attempt: int | None,
        *,
        since: int | None,
        offsets: Mapping[int, int],
    ) -> None:
        self._master = master
        self._job_id = job_id
        self._task = task
        self._attempt = attempt
        self._since = since
        self._offsets = offsets
        self._ahead: deque[Trail] = deque()
        self._open: dict[int, Trail] = {}
        self._seen: set[int] = set()
        self.newest = 0
        self._begun = False
        self.state = ""
        self.look_s = LOOK_ELSEWHERE_S if master.logs.waits else LOOK_S

    async def follow(self, *, to_the_end: bool) -> AsyncIterator[list[News]]:
        """Until all is told: with `to_the_end` of all that will ever be, else of what there is now."""
        while True:
            news, over = await run_in_threadpool(self._look, to_the_end)
            yield news
            if over:
                return
            if not news:
                await self._master.agents.feed.more(list(self._open), self.look_s)

    def _look(self, to_the_end: bool) -> tuple[list[News], bool]:
        """Rows first, then logs: an attempt that had ended by then has its whole log, for its result came with it."""
        with self._master.engine.connect() as connection:
            self._learn_state(connection)
            if to_the_end or not self._begun:
                self._find_attempts(connection)
            begun = [self._ahead.popleft() for _ in range(min(len(self._ahead), AT_ONCE - len(self._open)))]
            self._open |= {trail.id: trail for trail in begun}
            states = queries.states_of_attempts(connection, list(self._open))
        for trail in self._open.values():
            trail.state = states.get(trail.id, AttemptState.LOST)
        news = [News(trail, trail.offset, b"") for trail in begun if to_the_end]  # so that who comes again names them
        news += self._pieces(to_the_end)
        over = not self._open and not self._ahead and not (to_the_end and self._may_come())
        return news, over

    def _learn_state(self, connection: Connection) -> None:
        """Of the job, or of the one task that is followed."""
        if self._task is None:
            job = queries.get_job(connection, self._job_id)
            self.state = job["state"] if job is not None else JobState.FAILED
        else:
            self.state = queries.list_tasks(connection, self._job_id, 1, name=self._task)[0]["state"]

    def _may_come(self) -> bool:
        """Whether another attempt may begin."""
        the_one = self._attempt is not None and self._task is not None and self._seen
        return not the_one and self.state in (*JOB_OPEN, *TASK_OPEN)

    def _find_attempts(self, connection: Connection) -> None:
        asked = (self._job_id, self._task, self._attempt)
        rows = queries.attempts_after(connection, *asked, after=self.newest - REORDERED)
        if not self._begun:
            self._begun = True
            last = queries.last_attempts(connection, *asked)
            fresh = [row for row in rows if self._is_of_the_one_who_comes_again(row["id"])]
            told = {row["id"]: row for row in (*last, *fresh)}
            self._seen = {row["id"] for row in rows} - told.keys()  # tries before the last are not told
            rows = [told[id_] for id_ in sorted(told)]
        for row in rows:
            self.newest = max(self.newest, row["id"])
            if row["id"] not in self._seen:
                self._seen.add(row["id"])
                offset = self._offsets.get(row["id"], 0)
                self._ahead.append(Trail(row["id"], row["task"], row["number"], row["state"], offset))

    def _is_of_the_one_who_comes_again(self, attempt_id: int) -> bool:
        return attempt_id in self._offsets or (self._since is not None and attempt_id > self._since)

    def _pieces(self, to_the_end: bool) -> list[News]:
        """A piece of each log; of what there is now, one whole log after the other, which reads better."""
        news: list[News] = []
        for trail in list(self._open.values()):
            news += self._read(trail, to_the_end)
            while not to_the_end and trail.id in self._open and len(news) < MOST_PIECES:
                news += self._read(trail, to_the_end)
            if not to_the_end and trail.id in self._open:
                break
        return news

    def _read(self, trail: Trail, to_the_end: bool) -> list[News]:
        data = self._master.logs.read(trail.id, trail.offset, PIECE)
        if data:
            trail.offset += len(data)
            return [News(trail, trail.offset - len(data), data)]
        if trail.state == AttemptState.RUNNING and to_the_end:
            return []
        del self._open[trail.id]
        return [News(trail, trail.offset, None)] if trail.state != AttemptState.RUNNING else []
