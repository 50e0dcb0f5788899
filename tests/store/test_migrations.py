"""The schema: what the migrations make is what the models say, and the way down is the way up."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlmodel import SQLModel

from orchestrator.store.engine import open_engine
from orchestrator.store.migrate import SchemaTooNew, UnknownRevision, alembic_config, known_revisions, move, upgrade


def shape(engine: Engine) -> dict[str, Any]:
    """Every table with its columns, keys and indexes, as the database itself tells."""
    seen = inspect(engine)
    return {
        name: {
            "columns": sorted((c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(name)),
            "key": seen.get_pk_constraint(name)["constrained_columns"],
            "references": sorted(
                (k["constrained_columns"], k["referred_table"], k["referred_columns"]) for k in seen.get_foreign_keys(name)
            ),
            "unique": sorted(k["column_names"] for k in seen.get_unique_constraints(name)),
            "indexes": sorted((k["name"], k["column_names"], k["unique"]) for k in seen.get_indexes(name)),
        }
        for name in sorted(seen.get_table_names())
        if name != "alembic_version"
    }


def downgrade(engine: Engine) -> None:
    with engine.execution_options(writing=True).begin() as connection:
        command.downgrade(alembic_config(connection), "base")


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index ix_task_queue")
def test_up_down_and_up_again(empty_database_url: str) -> None:
    engine = open_engine(empty_database_url)
    upgrade(engine)
    first = shape(engine)
    assert {"job", "task", "node", "event"} <= first.keys()
    downgrade(engine)
    assert shape(engine) == {}
    upgrade(engine)
    assert shape(engine) == first
    engine.dispose()


@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index 'ix_task_queue'")
@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index ix_task_queue")
def test_migrations_make_what_the_models_say(empty_database_url: str) -> None:
    engine = open_engine(empty_database_url)
    upgrade(engine)
    with engine.connect() as connection:
        # Of an index on an expression SQLite tells too little to compare; the next test reads its text.
        seen = {"sqlite": lambda *item: item[1] != "ix_task_queue", "postgresql": None}[engine.dialect.name]
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": seen})
        assert compare_metadata(context, SQLModel.metadata) == []
    migrated = shape(engine)
    downgrade(engine)
    SQLModel.metadata.create_all(engine)
    assert migrated == shape(engine)
    engine.dispose()


def test_the_queue_index_orders_by_priority(empty_database_url: str) -> None:
    engine = open_engine(empty_database_url)
    upgrade(engine)
    query = {
        "sqlite": "SELECT sql FROM sqlite_master WHERE name = 'ix_task_queue'",
        "postgresql": "SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_task_queue'",
    }
    with engine.connect() as connection:
        sql = connection.execute(text(query[engine.dialect.name])).scalar_one()
    assert sql.replace('"', "").endswith("(state, token, priority DESC, turn, id)")
    engine.dispose()


def test_upgrade_twice_changes_nothing(database_url: str) -> None:
    engine = open_engine(database_url)
    upgrade(engine)
    before = shape(engine)
    upgrade(engine)
    assert shape(engine) == before
    engine.dispose()


def test_a_newer_schema_is_refused_untouched(database_url: str) -> None:
    engine = open_engine(database_url)
    with engine.execution_options(writing=True).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaTooNew, match="schema 9999"):
        upgrade(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"
    engine.dispose()


def test_masters_that_start_together_all_find_the_schema(postgres: Any) -> None:
    url = postgres.database()
    engines = [open_engine(url) for _ in range(4)]
    failures: list[BaseException] = []
    together = threading.Barrier(len(engines))

    def start(engine: Engine) -> None:
        try:
            together.wait(5)
            upgrade(engine)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(engine,), daemon=True) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
    for engine in engines:
        engine.dispose()
    postgres.drop(url)


def contents(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, as the database itself gives it."""
    names = [name for name in inspect(engine).get_table_names() if name != "alembic_version"]
    with engine.connect() as connection:
        return {name: [dict(r) for r in connection.execute(text(f"SELECT * FROM {name}")).mappings()] for name in names}


def test_rows_are_kept_on_the_way_back_and_forward_again(database_url: str, store_at: Any) -> None:
    """The version before finds all that it knows of as it was, and so does this one when it comes back."""
    store = store_at(database_url)
    engine = store.engine
    node = store.node(store.pool())
    store.job(tasks=3)
    store.run_one(node)
    store.claim(node)
    now = contents(engine)
    assert {name for name, rows in now.items() if rows} >= {"pool", "launch", "node", "job", "task", "attempt", "event"}
    for revision in reversed(known_revisions()[:-1]):
        move(engine, revision)
        older = contents(engine)
        for name, rows in older.items():
            assert rows == [{column: row[column] for column in rows[0]} for row in now[name]]
        move(engine, "head")
        newer = contents(engine)
        assert newer.keys() == now.keys()
        for name, rows in older.items():
            assert rows == [{column: row[column] for column in rows[0]} for row in newer[name]]


def test_a_schema_that_there_is_not_is_refused(database_url: str) -> None:
    engine = open_engine(database_url)
    with pytest.raises(UnknownRevision, match="there are 0001"):
        move(engine, "7777")
    engine.dispose()
