"""The one writer: a group is one commit, and yet nobody pays for a stranger's mistake."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, insert, select, update

from orchestrator.model.tables import Event, Meta, Pool, table
from orchestrator.store.writer import EventRow, Queued, Tx, Writer

if TYPE_CHECKING:
    from conftest import Store

meta, pools = table(Meta), table(Pool)


def note(key: str) -> Any:
    return lambda tx: tx.connection.execute(insert(meta).values(key=key, value="x")) and key


def group(store: Store, works: Sequence[Any]) -> list[Future[Any]]:
    """Hand in several pieces while the writer is held, so that they are one group."""
    held, free = threading.Event(), threading.Event()

    def hold(_: Tx) -> None:
        held.set()
        free.wait(5)

    first = store.writer.submit(hold)
    held.wait(5)
    futures = [store.writer.submit(work) for work in works]
    free.set()
    first.result(5)
    return futures


def keys(store: Store) -> list[str]:
    with store.engine.connect() as connection:
        return sorted(connection.execute(select(meta.c.key)).scalars())


def test_what_arrives_together_is_one_commit(store: Store) -> None:
    commits: list[int] = []
    count = lambda _: commits.append(1)  # noqa: E731
    event.listen(store.engine, "commit", count)
    futures = group(store, [note(f"k{i:02}") for i in range(20)])
    assert [future.result(5) for future in futures] == [f"k{i:02}" for i in range(20)]
    event.remove(store.engine, "commit", count)
    assert len(commits) == 2  # that of the holder, and that of the twenty
    assert len(keys(store)) == 20


def test_a_failing_piece_harms_no_other(store: Store) -> None:
    def fails(tx: Tx) -> None:
        tx.connection.execute(insert(meta).values(key="half", value="x"))
        tx.tell("test", 1, "half")
        raise ValueError("mine alone")

    def breaks_the_transaction(tx: Tx) -> None:
        tx.connection.execute(insert(meta).values(key="a", value="again"))

    def tells(tx: Tx) -> str:
        tx.tell("test", 2, "whole")
        return note("b")(tx)

    before, bad, worse, after = group(store, [note("a"), fails, breaks_the_transaction, tells])
    assert before.result(5) == "a"
    assert after.result(5) == "b"
    with pytest.raises(ValueError, match="mine alone"):
        bad.result(5)
    with pytest.raises(Exception, match=r"(?i)unique"):
        worse.result(5)
    assert keys(store) == ["a", "b"]
    assert store.reasons(subject="test") == ["whole"]


def test_each_piece_of_a_failed_group_counts_once(store: Store) -> None:
    pool = store.pool(max_nodes=0)

    def count(tx: Tx) -> None:
        tx.connection.execute(update(pools).where(pools.c.id == pool).values(max_nodes=pools.c.max_nodes + 1))

    def fails(tx: Tx) -> None:
        count(tx)
        raise ValueError

    futures = group(store, [count, count, fails, count, fails, count])
    outcomes = [future.exception(5) for future in futures]
    assert [type(outcome) for outcome in outcomes].count(ValueError) == 2
    assert store.one(Pool, pool).max_nodes == 4


def test_listeners_hear_only_what_is_committed(store: Store) -> None:
    heard: list[tuple[str, int, bool]] = []

    def listener(events: Sequence[EventRow], _: Queued) -> None:
        with store.engine.connect() as connection:
            stored = set(connection.execute(select(table(Event).c.id)).scalars())
        heard.extend((row["reason"], row["id"], row["id"] in stored) for row in events)

    def fails(tx: Tx) -> None:
        tx.tell("test", 1, "never said")
        tx.queued[None, None] += 1
        raise ValueError

    store.writer.listen(listener)
    futures = group(store, [lambda tx: tx.tell("test", 1, "one"), fails, lambda tx: tx.tell("test", 1, "two")])
    for future in futures:
        future.exception(5)
    assert [(reason, committed) for reason, _, committed in heard] == [("one", True), ("two", True)]


def test_a_listener_that_fails_stops_nothing(store: Store) -> None:
    heard: list[str] = []

    def broken(_: Sequence[EventRow], __: Queued) -> None:
        raise RuntimeError("listener")

    store.writer.listen(broken)
    store.writer.listen(lambda events, _: heard.extend(row["reason"] for row in events))
    store.write(lambda tx: tx.tell("test", 1, "said"))
    assert heard == ["said"]
    assert store.write(note("still here")) == "still here"


def test_queued_work_is_published_without_an_event(store: Store) -> None:
    heard: list[Queued] = []
    store.writer.listen(lambda _, queued: heard.append(queued))

    def work(tx: Tx) -> None:
        tx.queued["t", 3] += 2

    store.write(work)
    assert heard == [{("t", 3): 2}]
    store.write(lambda tx: None)
    assert len(heard) == 1


def test_event_ids_ascend_in_the_order_they_were_told(store: Store) -> None:
    for batch in range(5):
        store.write(lambda tx, batch=batch: [tx.tell("test", i, f"{batch}-{i}") for i in range(40)])
    rows = store.rows(Event)
    assert [row.reason for row in rows] == [f"{batch}-{i}" for batch in range(5) for i in range(40)]


def test_the_ids_that_listeners_get_are_those_of_their_rows(store: Store) -> None:
    heard: dict[int, str] = {}
    store.writer.listen(lambda events, _: heard.update({row["id"]: row["reason"] for row in events}))
    futures = group(store, [lambda tx, i=i: tx.tell("test", i, f"event {i}") for i in range(200)])
    for future in futures:
        future.result(5)
    assert heard == {row.id: row.reason for row in store.rows(Event)}


def test_no_update_is_lost(store: Store) -> None:
    """8 threads with 50 increments each in transactions of their own, past the writer: every one is kept."""
    pool = store.pool(max_nodes=0)
    writing = store.engine.execution_options(writing=True)

    def read_then_write() -> None:
        for _ in range(50):
            with writing.begin() as connection:
                query = select(pools.c.max_nodes).where(pools.c.id == pool).with_for_update()
                seen = connection.execute(query).scalar_one()
                connection.execute(update(pools).where(pools.c.id == pool).values(max_nodes=seen + 1))

    threads = [threading.Thread(target=read_then_write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.one(Pool, pool).max_nodes == 400


def test_no_update_through_the_writer_is_lost(store: Store) -> None:
    pool = store.pool(max_nodes=0)

    def count(tx: Tx) -> None:
        seen = tx.connection.execute(select(pools.c.max_nodes).where(pools.c.id == pool)).scalar_one()
        tx.connection.execute(update(pools).where(pools.c.id == pool).values(max_nodes=seen + 1))

    def many() -> None:
        for _ in range(50):
            store.write(count)

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.one(Pool, pool).max_nodes == 400


def test_the_moment_of_a_transaction_is_the_clocks(store: Store) -> None:
    later = store.clock.move(3600)
    assert store.write(lambda tx: tx.now) == later


def test_close_ends_after_the_queue(store: Store) -> None:
    futures = group(store, [note(f"k{i}") for i in range(5)])
    store.writer.close()
    assert [future.result(0) for future in futures] == [f"k{i}" for i in range(5)]


def test_writing_after_close_fails_at_once(store: Store) -> None:
    """A thread that outlives the writer must not wait for ever: the process could not end."""
    store.writer.close()
    with pytest.raises(RuntimeError):
        store.writer.submit(note("too late")).result(timeout=1)


async def test_a_caller_who_went_away_does_not_stop_the_writer(store: Store) -> None:
    held, free = threading.Event(), threading.Event()

    def hold(_: Tx) -> None:
        held.set()
        free.wait(5)

    first = store.writer.submit(hold)
    await asyncio.to_thread(held.wait, 5)
    call = asyncio.create_task(store.writer.awrite(note("nobody waits for it")))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    free.set()
    await asyncio.wrap_future(first)
    assert await asyncio.wait_for(store.writer.awrite(note("next")), 2) == "next"


async def test_awrite_gives_answers_and_errors(store: Store) -> None:
    def fails(_: Tx) -> None:
        raise ValueError("for the caller")

    assert await store.writer.awrite(note("a")) == "a"
    with pytest.raises(ValueError, match="for the caller"):
        await store.writer.awrite(fails)


def test_two_writers_on_one_database(masters: list[Store]) -> None:
    """Each master's events and increments are kept, whoever writes at the same time."""
    pool = masters[0].pool(max_nodes=0)

    def count(tx: Tx) -> None:
        tx.connection.execute(update(pools).where(pools.c.id == pool).values(max_nodes=pools.c.max_nodes + 1))
        tx.tell("test", 1, "counted")

    def many(writer: Writer) -> None:
        for _ in range(50):
            writer.write(count)

    threads = [threading.Thread(target=many, args=(master.writer,)) for master in masters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert masters[0].one(Pool, pool).max_nodes == 150
    assert len(masters[0].reasons(subject="test")) == 150
