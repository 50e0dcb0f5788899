"""The one writer: a thread that gives each piece of work its transaction, and what arrives together the same one.

Group commit makes a durable answer cost a share of one commit. Work must be repeatable: when one piece of a group fails,
the group is rolled back and each piece runs again alone, so that nobody pays for a stranger's mistake. Where the database
itself is in trouble all pieces are told so at once: one by one they would only wait for the same. Events are
collected on the transaction, inserted with it, and handed to the listeners once it is committed; wake-ups hang on them.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy import Connection, Engine, func, insert, select, text
from sqlalchemy.exc import DBAPIError

from orchestrator.clock import Clock, utc_now
from orchestrator.faultpoints import reach
from orchestrator.model.tables import Event, table
from orchestrator.store.prepared import Prepared
from orchestrator.store.trouble import CommitUnknown, LineLost, StoreTrouble, trouble_of

T = TypeVar("T")
EventRow = dict[str, Any]
Queued = Counter[tuple[str | None, int | None]]
"""How many tasks became ready to run, by their token (None: without one) and pool (None: any)."""
Listener = Callable[[Sequence[EventRow], Queued], None]
GROUP = 128
TRIES = 4
_CONFLICTS = frozenset({"40001", "40P01", "23505"})  # PostgreSQL: serialization failure, deadlock, unique violation

log = structlog.get_logger(__name__)
_insert_event = Prepared(insert(table(Event)), [column.name for column in table(Event).c])
_last_event = Prepared(select(func.coalesce(func.max(table(Event).c.id), 0).label("id")))
_next_events = text("SELECT nextval('event_id_seq') FROM generate_series(1, :count)")


class Conflict(Exception):
    """Another master was faster. The work is repeated on what is there now, a few times, before its caller hears of it."""


@dataclass(slots=True)
class Tx:
    """A write transaction under way: its connection, its moment, the events that will tell of it, whom it wakes."""

    connection: Connection
    now: datetime
    events: list[EventRow] = field(default_factory=list)
    queued: Queued = field(default_factory=Counter)

    def tell(
        self,
        subject: str,
        subject_id: int,
        reason: str,
        *,
        detail: str | None = None,
        actor: str = "master",
        **links: int | None,
    ) -> None:
        """Record that something was decided or refused, without a change of state (`store.doors` tells of those)."""
        self.record(subject, subject_id, None, None, reason, detail, actor, links)

    def record(
        self,
        subject: str,
        subject_id: int,
        from_state: str | None,
        to_state: str | None,
        reason: str,
        detail: str | None,
        actor: str,
        links: dict[str, int | None],
    ) -> None:
        self.events.append(
            {
                "at": self.now,
                "subject": subject,
                "subject_id": subject_id,
                "from_state": from_state,
                "to_state": to_state,
                "reason": reason,
                "detail": detail,
                "actor": actor,
                "job_id": links.get("job_id"),
                "task_id": links.get("task_id"),
                "attempt_id": links.get("attempt_id"),
                "node_id": links.get("node_id"),
                "pool_id": links.get("pool_id"),
            }
        )


Finisher = Callable[[Tx], Callable[[bool], None] | None]
"""Adds to a transaction at its end; what it returns is called with whether it was committed."""


@dataclass(slots=True)
class _Piece(Generic[T]):
    work: Callable[[Tx], T]
    future: Future[T]


class Writer:
    """Start it once a process; `write` from threads, `awrite` from the event loop; `close` ends it after the queue.

    `inline`: no thread, each piece is committed where it is submitted. For programs of one thread, as the simulation.
    """

    def __init__(self, engine: Engine, clock: Clock = utc_now, *, inline: bool = False) -> None:
        self._engine = engine.execution_options(writing=True)
        self._clock = clock
        self._queue: SimpleQueue[_Piece[Any] | None] = SimpleQueue()
        self._listeners: list[Listener] = []
        self._finish: Finisher = lambda _: None
        self._connection: Connection | None = None
        self._closed = False
        self.trouble: StoreTrouble | None = None
        """Why nothing can be written now; None since the last commit."""
        self._closing = threading.Lock()
        self._thread = None if inline else threading.Thread(target=self._run, name="writer", daemon=True)
        if self._thread is not None:
            self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread is None or self._thread.is_alive()

    def listen(self, listener: Listener) -> None:
        """Call `listener` with the events of every commit, on the writer's thread: it must not wait."""
        self._listeners.append(listener)

    def finish(self, finisher: Finisher) -> None:
        """Let `finisher` add to every transaction in which tasks became ready, before it is committed."""
        self._finish = finisher

    def submit(self, work: Callable[[Tx], T]) -> Future[T]:
        """Raises RuntimeError after `close`: nobody would ever answer."""
        future: Future[T] = Future()
        with self._closing:
            if self._closed:
                raise RuntimeError("the writer is closed")
            if self._thread is not None:
                self._queue.put(_Piece(work, future))
        if self._thread is None:
            self._commit([_Piece(work, future)])
        return future

    def write(self, work: Callable[[Tx], T]) -> T:
        return self.submit(work).result()

    async def awrite(self, work: Callable[[Tx], T]) -> T:
        return await asyncio.wrap_future(self.submit(work))

    def close(self) -> None:
        with self._closing:
            self._closed = True
            self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            ending = False
            while len(group) < GROUP and not self._queue.empty():
                piece = self._queue.get()
                if piece is None:
                    ending = True
                    break
                group.append(piece)
            # A caller who went away before its turn is passed over; one who goes from here on no longer counts.
            if group := [piece for piece in group if piece.future.set_running_or_notify_cancel()]:
                self._commit(group)
            if ending:
                break
        if self._connection is not None:
            self._connection.close()

    def _commit(self, group: list[_Piece[Any]], tries: int = 1) -> None:
        try:
            answers, tx = self._transact(group)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to the one who asked
            self._failed(group, error, tries)
            return
        self.trouble = None
        reach("writer.after_commit")
        self._publish(tx)
        reach("writer.before_answer")
        for piece, answer in zip(group, answers, strict=True):
            piece.future.set_result(answer)

    def _failed(self, group: list[_Piece[Any]], error: Exception, tries: int) -> None:
        """Nothing of the group is done, or that is not known (CommitUnknown): repeat what may be, tell the others."""
        trouble = trouble_of(error)
        if isinstance(trouble, LineLost) and tries == 1:  # the server was restarted, perhaps: a new line may work
            self._commit(group, tries + 1)
        elif trouble is not None:
            self.trouble = trouble
            for piece in group:
                piece.future.set_exception(trouble)
        elif len(group) > 1:
            for piece in group:
                self._commit([piece])
        elif tries < TRIES and _is_conflict(error):
            self._commit(group, tries + 1)
        else:
            group[0].future.set_exception(error)

    def _transact(self, group: list[_Piece[Any]]) -> tuple[list[Any], Tx]:
        reach("writer.before_transaction")
        # One connection for good: SQLite keeps its pages of the file as long as nobody else writes.
        if self._connection is None:
            self._connection = self._engine.connect()
        connection = self._connection
        ended: Callable[[bool], None] | None = None
        committed = False
        try:
            with self._kept(), _committed(connection):
                tx = Tx(connection, self._clock())
                answers = []
                for piece in group:
                    answers.append(piece.work(tx))
                    reach("writer.after_piece")
                ended = self._finish(tx) if tx.queued else None
                if tx.events:
                    for row, id_ in zip(tx.events, _event_ids(connection, len(tx.events)), strict=True):
                        row["id"] = id_
                    _insert_event.many(connection, tx.events)
                reach("writer.before_commit")
            committed = True
        finally:
            if ended is not None:
                ended(committed)
        return answers, tx

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep the connection only while it is surely sound: after an error of the database the next gets another."""
        try:
            yield
        except Exception as error:
            broken, self._connection = self._connection, None
            if broken is not None:
                if _is_disconnect(error):
                    broken.invalidate()
                broken.close()
            raise

    def _publish(self, tx: Tx) -> None:
        if not tx.events and not tx.queued:
            return
        for listener in self._listeners:
            try:
                listener(tx.events, tx.queued)
            except Exception:
                log.exception("a listener failed; what it would have woken is found at the next look")


@contextmanager
def _committed(connection: Connection) -> Iterator[None]:
    """A transaction; raises CommitUnknown when its end was asked for and the answer did not come."""
    transaction = connection.begin()
    try:
        yield
    except BaseException:
        with suppress(DBAPIError):  # on a broken line there is nothing left to roll back
            transaction.rollback()
        raise
    try:
        transaction.commit()
    except DBAPIError as error:
        if error.connection_invalidated:
            raise CommitUnknown("the database went away while it committed; look before doing it again") from error
        transaction.rollback()
        raise


def _is_disconnect(error: Exception) -> bool:
    """Not a refusal by the database (those have a state) nor one of ours: the line itself may be broken."""
    return isinstance(error, CommitUnknown) or type(error).__name__ == "OperationalError"


def _is_conflict(error: Exception) -> bool:
    # SQLAlchemy wraps the driver's error; statements on the driver's own cursor raise it bare.
    return isinstance(error, Conflict) or getattr(getattr(error, "orig", error), "sqlstate", None) in _CONFLICTS


def _event_ids(connection: Connection, count: int) -> Sequence[int]:
    """Ids for events, taken first: inserting them and asking for their ids costs three times as much."""
    if connection.dialect.name == "sqlite":  # this transaction has the database to itself
        last = _last_event.rows(connection, {})[0].id
        return range(last + 1, last + 1 + count)
    return connection.execute(_next_events, {"count": count}).scalars().all()
