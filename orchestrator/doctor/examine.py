"""One examination: the master's own house, then each cloud, then each rung of each pool on the clouds that answer."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import structlog
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from orchestrator.clock import Clock, utc_now
from orchestrator.clouds import Clouds
from orchestrator.doctor import cloud, house, pool
from orchestrator.doctor.probe import TIMEOUT_S
from orchestrator.settings import Settings
from orchestrator.store.engine import open_engine
from providers.base import Finding, ProviderError, Verdict

log = structlog.get_logger(__name__)

AT_A_TIME = 8
Look = Callable[[], Iterable[Finding]]


@dataclass(slots=True)
class Diagnosis:
    """What was found, by what it was found of: `master`, `cloud NAME`, `pool NAME` or `pool NAME, RUNG`."""

    findings: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, about: str, found: Iterable[Finding]) -> None:
        """Each thing is told once, though several looks may find it."""
        told = self.findings.setdefault(about, [])
        told.extend(finding for finding in dict.fromkeys(found) if finding not in told)

    def told(self) -> Iterator[tuple[str, Finding]]:
        return ((about, finding) for about, found in self.findings.items() for finding in found)

    @property
    def healthy(self) -> bool:
        """True where no finding says that something cannot work; warnings are none."""
        return not any(_is_wrong(finding) for _, finding in self.told())

    def document(self) -> dict[str, Any]:
        counted = Counter(finding.verdict for _, finding in self.told())
        return {
            "healthy": self.healthy,
            "counts": {verdict: counted[verdict] for verdict in Verdict},
            "findings": [{"about": about, **asdict(finding)} for about, finding in self.told()],
        }


class Doctor:
    """Looks, and says what is wrong. `engine` is None where there is no database yet."""

    def __init__(self, settings: Settings, clouds: Clouds, engine: Engine | None, clock: Clock = utc_now) -> None:
        self._settings = settings
        self._clouds = clouds
        self._engine = engine
        self._clock = clock

    def examine(self) -> Diagnosis:
        """Everything. Takes as long as the slowest cloud; asks each of them a few questions a pool."""
        diagnosis = self.first_look()
        diagnosis.add("master", house.database(self._engine, self._settings.database))
        diagnosis.add("master", house.answers(self._settings.url))
        if self._engine is not None and house.is_ready(self._engine):
            self._pools(diagnosis, self._engine)
        return diagnosis

    def first_look(self) -> Diagnosis:
        """What can be said before any pool is known: the master's own house, and whether each cloud takes calls."""
        settings, now = self._settings, self._clock()
        diagnosis = Diagnosis()
        diagnosis.add("master", house.settings_read(settings))
        diagnosis.add("master", house.data_dir(settings.data_dir))
        diagnosis.add("master", house.file_store(settings.files, settings.files_endpoint_url))
        diagnosis.add("master", house.certificate(settings, now))
        looks = [(f"cloud {name}", partial(self._cloud, name)) for name in self._clouds.names()]
        _look_at_all(diagnosis, looks)
        return diagnosis

    def _pools(self, diagnosis: Diagnosis, engine: Engine) -> None:
        """Each pool and its rungs, in their order; a cloud that takes no calls is not asked for each of them again."""
        silent = {
            about for about, finding in diagnosis.told() if finding.subject in cloud.TAKES_CALLS and _is_wrong(finding)
        }
        looks: list[tuple[str, Look]] = []
        with engine.connect() as connection:
            for row in pool.all_pools(connection):
                about = f"pool {row['name']}"
                diagnosis.add(about, pool.history(connection, row, self._settings.url, self._clock()))
                for rung in pool.rungs(row):
                    if f"cloud {rung.cloud}" not in silent:
                        diagnosis.add(f"{about}, {rung.label}", [])
                        looks.append((f"{about}, {rung.label}", partial(pool.inspect, self._clouds, rung)))
        _look_at_all(diagnosis, looks)

    def _cloud(self, name: str) -> Iterable[Finding]:
        try:
            provider = self._clouds.get(name)
        except ProviderError as error:
            return [Finding("settings", Verdict.WRONG, str(error))]
        return [
            *cloud.answers(provider, partial(self._clouds.usage, name)),
            *cloud.endpoint(provider.endpoint, utc_now),  # the host's own clock: calls are signed with it
            *house.reachable_from(self._settings.url, provider.endpoint),
        ]


@contextmanager
def doctor_here(settings: Settings) -> Iterator[Doctor]:
    """A doctor of these settings without a master: it reads the database as it is, and makes none."""
    url = make_url(settings.database)
    is_file = url.get_backend_name() == "sqlite"
    if is_file and not (url.database and Path(url.database).exists()):
        engine = None
    else:
        quick = url if is_file else url.update_query_dict({"connect_timeout": str(TIMEOUT_S)})
        engine = open_engine(quick.render_as_string(hide_password=False))
    try:
        installation = house.installation(engine) if engine is not None else None
        yield Doctor(settings, Clouds(settings.clouds, installation or "none-yet"), engine)
    finally:
        if engine is not None:
            engine.dispose()


def _look_at_all(diagnosis: Diagnosis, looks: Sequence[tuple[str, Look]]) -> None:
    """Some at a time, told in their order. On daemon threads: a cloud that never answers must not hold up our own end."""
    waiting: SimpleQueue[tuple[tuple[str, Look], Future[list[Finding]]]] = SimpleQueue()
    found: list[Future[list[Finding]]] = [Future() for _ in looks]
    for each in zip(looks, found, strict=True):
        waiting.put(each)

    def work() -> None:
        with suppress(Empty):
            while True:
                look, future = waiting.get_nowait()
                future.set_result(_looked(look))

    for _ in range(min(AT_A_TIME, len(looks))):
        threading.Thread(target=work, name="doctor", daemon=True).start()
    for (about, _), future in zip(looks, found, strict=True):
        diagnosis.add(about, future.result())


def _looked(look: tuple[str, Look]) -> list[Finding]:
    try:
        return list(look[1]())
    except Exception as error:
        log.exception("a look of the doctor failed", about=look[0])
        told = f"it could not be looked at, by a defect of its provider or of ours: {type(error).__name__}: {error}"
        return [Finding("defect", Verdict.WRONG, told)]


def _is_wrong(finding: Finding) -> bool:
    return finding.verdict is Verdict.WRONG
