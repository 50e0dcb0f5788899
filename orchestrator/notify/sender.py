"""Sends what is due: claimed by a lease, delivered outside any transaction, noted with what came of it.

A message is sent at least once: who dies between the answer and the note leaves a lease that runs out, and another sends it
again, under the same id. Any number of masters take turns; a claim is one conditional update.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Engine, and_, func, or_, select, update

from orchestrator.clock import Clock
from orchestrator.faultpoints import reach
from orchestrator.jobs.notify import shown
from orchestrator.model.states import NotificationState
from orchestrator.model.tables import Notification, table
from orchestrator.notify.answers import GiveUp, TryLater, Undelivered
from orchestrator.notify.courier import Courier
from orchestrator.notify.message import Document, of_job
from orchestrator.store.doors import Move, advance
from orchestrator.store.writer import Tx, Writer

log = structlog.get_logger(__name__)
notifications = table(Notification)

LEASE_S = 120.0
"""Longer than a whole batch can take: after it the sender is taken for dead."""
BATCH = 16
A_PLACE = 2
"""As many of a batch may go to one place: a receiver that hangs keeps only itself waiting."""
FIRST_S, LONGEST_S, PATIENCE = 10.0, 3600.0, timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Claimed:
    id: int
    job_id: int
    target: Mapping[str, Any]
    tries: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Noted:
    """What came of one try: its new state, or `run_after` where it stays pending."""

    claimed: Claimed
    reason: str
    state: NotificationState
    run_after: datetime | None = None


def again_in_s(tries: int, chance: float) -> float:
    """Back-off after so many tries: doubling to an hour, spread by `chance` (0 … 1) so that receivers are not stormed."""
    return min(FIRST_S * 2.0 ** min(tries - 1, 20), LONGEST_S) * (0.75 + 0.5 * chance)


def noted(claimed: Claimed, outcome: str | Undelivered, now: datetime, chance: float) -> Noted:
    """What is written of a try that ended so."""
    if isinstance(outcome, str):
        return Noted(claimed, outcome, NotificationState.SENT)
    if isinstance(outcome, TryLater):
        wait_s = again_in_s(claimed.tries, chance)
        run_after = now + timedelta(seconds=wait_s if outcome.after_s is None else max(outcome.after_s, 1.0))
        if run_after <= claimed.created_at + PATIENCE:
            return Noted(claimed, str(outcome), NotificationState.PENDING, run_after)
        outcome = GiveUp(f"given up after {claimed.tries} tries in a day; the last: {outcome}")
    return Noted(claimed, str(outcome), NotificationState.FAILED)


class Sender:
    """`step` sends what is due now, and says when more will be."""

    def __init__(
        self,
        writer: Writer,
        engine: Engine,
        courier: Courier,
        clock: Clock,
        url: str,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._writer = writer
        self._engine = engine
        self._courier = courier
        self._clock = clock
        self._url = url
        self._chance = chance

    def step(self) -> float | None:
        due = self._due()
        if due:
            claimed = self._writer.write(lambda tx: _claim(tx, due))
            reach("notify.claimed")
            done = asyncio.run(self._deliver(claimed))
            reach("notify.before_note")
            self._writer.write(lambda tx: _note(tx, done))
        with self._engine.connect() as connection:
            pending = notifications.c.state == NotificationState.PENDING
            earliest = func.min(func.coalesce(notifications.c.run_after, notifications.c.created_at))
            next_at = connection.execute(select(earliest).where(pending)).scalar()
        return None if next_at is None else max(0.0, (next_at - self._clock()).total_seconds())

    def _due(self) -> list[Claimed]:
        """Up to a batch, oldest first, and few for each place."""
        found: list[Claimed] = []
        places: Counter[str] = Counter()
        columns = (notifications.c[name] for name in Claimed.__dataclass_fields__)
        query = select(*columns).where(_is_due(self._clock())).order_by(notifications.c.id)
        with self._engine.connect().execution_options(yield_per=BATCH) as connection:
            for row in connection.execute(query):
                place = shown(row.target)
                if places[place] < A_PLACE:
                    places[place] += 1
                    found.append(Claimed(*row))
                    if len(found) == BATCH:
                        break
        return found

    async def _deliver(self, claimed: Sequence[Claimed]) -> list[Noted]:
        return await asyncio.gather(*map(self._deliver_one, claimed))

    async def _deliver_one(self, claimed: Claimed) -> Noted:
        outcome: str | Undelivered
        try:
            document = await asyncio.to_thread(self._document, claimed)
            client = document["job"]["client"]
            outcome = await self._courier.deliver(claimed.target, client, document, self._clock())
        except Undelivered as error:
            outcome = error
        except Exception as error:  # a mistake of ours in one message must not hold up the others
            log.exception("a notification could not be sent", notification=claimed.id)
            outcome = TryLater(f"the master failed to send it ({type(error).__name__}); its log has the cause")
        return noted(claimed, outcome, self._clock(), self._chance())

    def _document(self, claimed: Claimed) -> Document:
        with self._engine.connect() as connection:
            return of_job(connection, self._courier.id_of(claimed.id), claimed.job_id, self._url)


def _is_due(now: datetime) -> ColumnElement[bool]:
    """`run_after` is when the next try may be: after a back-off, or once the lease of a try under way is over."""
    open_now = or_(notifications.c.run_after.is_(None), notifications.c.run_after <= now)
    return and_(notifications.c.state == NotificationState.PENDING, open_now)


def _claim(tx: Tx, wanted: Sequence[Claimed]) -> list[Claimed]:
    """Those that nobody else took meanwhile, each with this try counted."""
    lease = {"run_after": tx.now + timedelta(seconds=LEASE_S), "tries": notifications.c.tries + 1}
    mine = []
    for each in wanted:
        unclaimed = (notifications.c.id == each.id, notifications.c.tries == each.tries, _is_due(tx.now))
        if tx.connection.execute(update(notifications).where(*unclaimed).values(lease)).rowcount:
            mine.append(Claimed(each.id, each.job_id, each.target, each.tries + 1, each.created_at))
    return mine


def _note(tx: Tx, done: Sequence[Noted]) -> None:
    """Write what came of each, where it is still ours: a lease may have run out meanwhile, and the next try tells more."""
    for each in done:
        row = (notifications.c.id == each.claimed.id, notifications.c.tries == each.claimed.tries)
        still_ours = (*row, notifications.c.state == NotificationState.PENDING)
        if tx.connection.execute(select(notifications.c.id).where(*still_ours).with_for_update()).first() is None:
            continue
        place, links = shown(each.claimed.target), {"job_id": each.claimed.job_id}
        if each.state == NotificationState.PENDING:
            again = {"reason": each.reason, "run_after": each.run_after}
            tx.connection.execute(update(notifications).where(*row).values(again))
            told = f"{each.reason}; again at {each.run_after:%H:%M:%S} UTC"
            tx.record("notification", each.claimed.id, None, None, told, place, "master", dict(links))
        else:
            values = {"run_after": None} | ({"sent_at": tx.now} if each.state == NotificationState.SENT else {})
            pending = NotificationState.PENDING
            advance(tx, Notification, [Move(each.claimed.id, pending, each.state, each.reason, values, links, place)])
