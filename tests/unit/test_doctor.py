"""What the doctor says of each thing that can be wrong: the right verdict, and words that name the fix."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from orchestrator.doctor import cloud, house, pool
from orchestrator.doctor.examine import Diagnosis, Doctor, doctor_here
from orchestrator.model.states import NodeState
from orchestrator.model.tables import Hold, Node, Pool, table
from orchestrator.settings import CloudSettings, Settings
from providers.base import Finding, Misconfigured, ProviderError, RateLimited, Unauthorised, Unavailable, Verdict
from providers.limited import LimitedProvider
from providers.limits import Limiter, Usage

if TYPE_CHECKING:
    from conftest import Store

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
EC2 = "https://8.8.4.4"
PRIVATE = "https://10.0.0.9:5000/v3"
LOCAL = "http://127.0.0.1:5000"
URL = "https://master.example:8642"


def by_subject(found: Iterator[Finding] | list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in found}


# ---- the master's URL ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "endpoint", "verdict"),
    [
        ("https://127.0.0.1:8642", EC2, Verdict.WRONG),
        ("https://localhost:8642", EC2, Verdict.WRONG),
        ("https://[::1]:8642", EC2, Verdict.WRONG),
        ("https://0.0.0.0:8642", EC2, Verdict.WRONG),
        ("https://10.1.2.3:8642", EC2, Verdict.WARNING),
        ("https://192.168.1.5:8642", EC2, Verdict.WARNING),
        ("https://8.8.8.8:8642", EC2, Verdict.OK),
        (f"https://{'a' * 70}:8642", EC2, Verdict.WARNING),  # no name that can be looked up
        ("https://127.0.0.1:8642", LOCAL, Verdict.OK),
        ("https://10.1.2.3:8642", LOCAL, Verdict.OK),
        ("https://10.1.2.3:8642", PRIVATE, Verdict.OK),
        ("https://127.0.0.1:8642", PRIVATE, Verdict.WRONG),
        ("https://127.0.0.1:8642", "", Verdict.WARNING),  # machines that exist already may be this one
    ],
)
def test_the_url_that_machines_call(url: str, endpoint: str, verdict: Verdict) -> None:
    found = by_subject(house.reachable_from(url, endpoint))["master_url"]
    assert found.verdict is verdict, found
    assert url in found.told and (verdict is Verdict.OK or "set master_url" in found.told)


def test_a_url_without_tls_is_a_warning_for_a_remote_cloud_only() -> None:
    assert by_subject(house.reachable_from("http://8.8.8.8:8642", EC2))["tls"].verdict is Verdict.WARNING
    assert "tls" not in by_subject(house.reachable_from("http://127.0.0.1:8642", LOCAL))


# ---- the house -------------------------------------------------------------------------------------------------------


def test_a_store_of_logs_that_takes_no_calls(s3: Any) -> None:
    url = s3.meta.endpoint_url
    assert list(house.file_store(None, None)) == []
    (fine,) = house.file_store("s3://kept/some/prefix", url)
    assert fine.verdict is Verdict.OK
    for files, endpoint in (("s3://no-such-bucket", url), ("s3://kept", "http://127.0.0.1:9")):
        (wrong,) = house.file_store(files, endpoint)
        assert wrong.verdict is Verdict.WRONG and "settings `files`" in wrong.told


def test_a_data_dir_that_cannot_be_written(tmp_path: Path) -> None:
    assert by_subject(house.data_dir(Path("/proc/orchestrator")))["data_dir"].verdict is Verdict.WRONG
    fine = by_subject(house.data_dir(tmp_path / "not" / "there" / "yet"))
    assert fine["data_dir"].verdict is Verdict.OK and "first start" in fine["data_dir"].told
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize(("free", "verdict"), [(50e9, Verdict.OK), (1e9, Verdict.WARNING), (50e6, Verdict.WRONG)])
def test_a_disk_that_fills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, verdict: Verdict) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=int(free)))
    assert by_subject(house.data_dir(tmp_path))["disk"].verdict is verdict


def certificate(folder: Path, days: float) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW - timedelta(900)).not_valid_after(NOW + timedelta(days))
    made = builder.sign(key, hashes.SHA256())
    cert, secret = folder / f"{days}.pem", folder / f"{days}.key"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return cert, secret


@pytest.mark.parametrize(("days", "verdict"), [(300, Verdict.OK), (5, Verdict.WARNING), (-1, Verdict.WRONG)])
def test_the_master_s_certificate(tmp_path: Path, days: int, verdict: Verdict) -> None:
    cert, key = certificate(tmp_path, days)
    settings = Settings(data_dir=tmp_path, tls_cert=cert, tls_key=key)
    (found,) = house.certificate(settings, NOW)
    assert found.verdict is verdict, found


def test_a_certificate_that_does_not_fit_its_key_or_is_none(tmp_path: Path) -> None:
    (cert, _), (_, other) = certificate(tmp_path, 300), certificate(tmp_path, 200)
    for key in (other, tmp_path / "nowhere.key"):
        (found,) = house.certificate(Settings(data_dir=tmp_path, tls_cert=cert, tls_key=key), NOW)
        assert found.verdict is Verdict.WRONG and "tls_key" in found.told


def test_a_database_of_a_newer_version(store: Store) -> None:
    url = store.engine.url.render_as_string(hide_password=False)
    assert by_subject(house.database(store.engine, url))["database"].verdict is Verdict.OK
    with store.engine.execution_options(writing=True).begin() as connection:
        (version,) = connection.exec_driver_sql("SELECT version_num FROM alembic_version").one()
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'newer'")
    try:
        found = by_subject(house.database(store.engine, url))["database"]
        assert found.verdict is Verdict.WRONG and "newer" in found.told
        assert not house.is_ready(store.engine)
    finally:
        with store.engine.execution_options(writing=True).begin() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'")


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url="postgresql://me:secret@127.0.0.1:9/none")
    with doctor_here(settings) as doctor:
        found = by_subject(doctor.examine().findings["master"])["database"]
    assert found.verdict is Verdict.WRONG
    assert "secret" not in found.told


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "orchestrator.db").write_text("not a database at all" * 100)
    with doctor_here(Settings(data_dir=tmp_path)) as doctor:
        assert by_subject(doctor.examine().findings["master"])["database"].verdict is Verdict.WRONG


def test_a_doctor_without_a_master_leaves_nothing_behind(tmp_path: Path) -> None:
    with doctor_here(Settings(data_dir=tmp_path / "data")) as doctor:
        diagnosis = doctor.examine()
    assert diagnosis.healthy
    assert list(tmp_path.iterdir()) == []
    assert by_subject(diagnosis.findings["master"])["settings"].verdict is Verdict.WARNING  # no cloud


# ---- a cloud ---------------------------------------------------------------------------------------------------------


class Cloud:
    """A provider that answers as the test says."""

    user_data_limit = 100
    rents = True
    endpoint = ""

    def __init__(self, error: ProviderError | None = None, findings: Callable[..., list[Finding]] = lambda *_: []) -> None:
        self.error = error
        self.findings = findings

    def validate(self, template: Mapping[str, object]) -> None:
        if "wrong" in template:
            raise Misconfigured("'wrong' is not a setting")

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def inspect(self, image: str, instance_type: str, template: Mapping[str, object]) -> list[Finding]:
        self.check()
        return self.findings(image, instance_type, template)


class Clouds:
    def __init__(self, **clouds: Cloud) -> None:
        self._limiters = {name: Limiter() for name in clouds}
        self._clouds = {name: LimitedProvider(cloud, self._limiters[name]) for name, cloud in clouds.items()}  # type: ignore[arg-type]

    def names(self) -> list[str]:
        return sorted(self._clouds)

    def usage(self, name: str) -> Usage:
        return self._limiters[name].usage()

    def get(self, name: str) -> LimitedProvider:
        if name not in self._clouds:
            raise Misconfigured(f"no cloud is named {name}")
        return self._clouds[name]


def answers(one: Cloud) -> Iterator[Finding]:
    clouds = Clouds(one=one)
    return cloud.answers(clouds.get("one"), lambda: clouds.usage("one"))


@pytest.mark.parametrize(
    ("error", "subject", "verdict"),
    [
        (None, "credentials", Verdict.OK),
        (Unauthorised("the key has expired: renew it"), "credentials", Verdict.WRONG),
        (Misconfigured("there is no region mars: correct it"), "settings", Verdict.WRONG),
        (Unavailable("it does not answer"), "answers", Verdict.WRONG),
        (RateLimited("too many calls", 30), "rate limit", Verdict.WARNING),
    ],
)
def test_what_a_cloud_s_first_answer_means(error: ProviderError | None, subject: str, verdict: Verdict) -> None:
    found = next(iter(answers(Cloud(error))))
    assert (found.subject, found.verdict) == (subject, verdict)
    assert error is None or str(error) in found.told


def test_an_account_that_is_throttled_is_told_with_its_pace() -> None:
    told = [finding.told for finding in answers(Cloud(RateLimited("too many calls", 30)))]
    assert "25 a second" in told[1]


@pytest.fixture
def clock_server() -> Iterator[tuple[str, list[datetime | None]]]:
    """An HTTP server whose answer carries this Date, and its URL."""
    dates: list[datetime | None] = [NOW]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(403)
            if dates[0] is not None:
                self.send_header("Date", format_datetime(dates[0], usegmt=True))
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", dates
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("ahead_s", "verdict"),
    [(0, Verdict.OK), (5, Verdict.OK), (-60, Verdict.WARNING), (60, Verdict.WARNING), (-600, Verdict.WRONG)],
)
def test_the_clock_against_the_cloud_s(
    clock_server: tuple[str, list[datetime | None]], ahead_s: int, verdict: Verdict
) -> None:
    url, _ = clock_server
    (found,) = cloud.endpoint(url, lambda: NOW + timedelta(seconds=ahead_s))
    assert found.verdict is verdict
    assert verdict is Verdict.OK or ("ahead of" if ahead_s > 0 else "behind") in found.told


def test_a_cloud_that_shows_no_date_or_no_endpoint(clock_server: tuple[str, list[datetime | None]]) -> None:
    url, dates = clock_server
    dates[0] = None
    assert list(cloud.endpoint(url, lambda: NOW)) == []
    assert list(cloud.endpoint("", lambda: NOW)) == []
    assert list(cloud.endpoint("http://127.0.0.1:9", lambda: NOW)) == []


def test_a_cloud_s_certificate_that_expires(clock_server: tuple[str, list[datetime | None]], tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, 3)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = by_subject(cloud.endpoint(f"https://127.0.0.1:{server.server_port}", lambda: NOW))
    server.shutdown()
    server.server_close()
    assert found["certificate"].verdict is Verdict.WARNING


# ---- a pool ----------------------------------------------------------------------------------------------------------


def row(store: Store, pool_id: int) -> dict[str, Any]:
    return dict(store.one(Pool, pool_id)._mapping)


def history(store: Store, pool_id: int) -> dict[str, Finding]:
    with store.engine.connect() as connection:
        return by_subject(pool.history(connection, row(store, pool_id), URL, store.clock()))


def test_machines_that_ran_and_never_called_home(store: Store) -> None:
    main = store.pool()
    assert history(store, main) == {}
    for phase in (None, "instance running"):
        store.node(main, NodeState.TERMINATED, end_reason="boot_timeout", boot_phase=phase)
    found = history(store, main)["machines"]
    assert found.verdict is Verdict.WRONG
    last = store.rows(Node)[-1].id
    for text in ("2 of 2", "never called home", URL, f"orchestrator node console {last}"):
        assert text in found.told
    store.node(main)
    assert history(store, main)["machines"].verdict is Verdict.WARNING
    store.clock.move(2 * 86_400)
    assert history(store, main) == {}


def test_machines_that_reached_the_master_and_brought_no_agent(store: Store) -> None:
    main = store.pool()
    store.node(main, NodeState.TERMINATED, end_reason="enrol_timeout", boot_phase="agent fetched")
    found = history(store, main)["machines"]
    assert "1 of 1 machine(s) of the last day reached this master while booting" in found.told
    assert "never called home" not in found.told


def test_machines_that_came_home_and_ones_ended_for_another_reason(store: Store) -> None:
    main = store.pool()
    store.node(main)
    store.node(main, NodeState.TERMINATED, end_reason="operator")
    assert history(store, main)["machines"].verdict is Verdict.OK


def test_a_pool_that_is_held_back_says_by_what(store: Store) -> None:
    main = store.pool()
    store.force(Pool, main, paused_at=store.clock(), paused_reason="the image is gone", frozen_reason="7 machines too many")
    now, until = store.clock(), store.clock() + timedelta(seconds=60)
    hold = {"kind": "k", "label": "m5.large in eu-1a", "cause": "no_capacity", "reason": "none left", "failures": 1}
    store.write(lambda tx: tx.connection.execute(table(Hold).insert().values(pool_id=main, since=now, until=until, **hold)))
    found = history(store, main)
    assert "the image is gone" in found["paused"].told and "pool resume main" in found["paused"].told
    assert found["frozen"].verdict is Verdict.WRONG
    assert "m5.large in eu-1a is not tried before 08:01:00 UTC: none left" in found["held"].told


def test_each_rung_of_a_pool_and_each_of_its_sizes_is_inspected_in_its_own_cloud(store: Store, tmp_path: Path) -> None:
    def findings(image: str, instance_type: str, template: Mapping[str, object]) -> list[Finding]:
        verdict = Verdict.WRONG if instance_type.startswith("large") else Verdict.OK
        return [Finding("size", verdict, f"{image} on {instance_type} in {template.get('zone', 'any zone')}")]

    rungs = [{"zone": "a"}, {"name": "elsewhere", "cloud": "other", "image": "img-2", "instance_type": "c2"}]
    launch = {
        "image": "ami-1",
        "instance_type": "small.1",
        "sizes": {"SMALL": "small.1", "LARGE": "large.1"},
        "rungs": rungs,
    }
    store.pool(launch=launch)
    clouds = Clouds(toy=Cloud(findings=findings), other=Cloud(findings=findings))
    doctor = Doctor(Settings(data_dir=tmp_path), clouds, store.engine, store.clock)  # type: ignore[arg-type]
    told = [(about, found.told) for about, found in doctor.examine().told() if about.startswith("pool main, ")]
    assert told == [
        ("pool main, small.1, a", "ami-1 on small.1 in a"),
        ("pool main, elsewhere", "img-2 on c2 in any zone"),
        ("pool main, elsewhere", told[2][1]),
        ("pool main, elsewhere", told[3][1]),
        ("pool main, large.1, a", "ami-1 on large.1 in a"),
    ]
    assert "LARGE means nothing there" in told[2][1] and "SMALL means nothing there" in told[3][1]


def test_a_pool_of_machines_that_exist_already_has_no_rung_to_inspect(store: Store, tmp_path: Path) -> None:
    store.pool(launch={})
    doctor = Doctor(Settings(data_dir=tmp_path), Clouds(toy=Cloud()), store.engine, store.clock)  # type: ignore[arg-type]
    diagnosis = doctor.examine()
    assert diagnosis.healthy and list(diagnosis.findings) == ["master", "cloud toy", "pool main"]


def test_an_examination_goes_on_past_a_silent_cloud_and_a_defect(store: Store, tmp_path: Path) -> None:
    def defect(*_: object) -> list[Finding]:
        raise ZeroDivisionError

    store.pool("silent", cloud="silent")
    store.pool("odd", cloud="odd")
    store.pool("none", cloud="none")
    clouds = Clouds(silent=Cloud(Unavailable("it does not answer")), odd=Cloud(findings=defect))
    doctor = Doctor(Settings(data_dir=tmp_path), clouds, store.engine, store.clock)  # type: ignore[arg-type]
    diagnosis = doctor.examine()
    told = {(about, finding.subject): finding for about, finding in diagnosis.told()}
    assert told["cloud silent", "answers"].verdict is Verdict.WRONG
    assert not [about for about, _ in told if about.startswith("pool silent,")]  # it was told of the cloud already
    assert "ZeroDivisionError" in told["pool odd, small.1", "defect"].told
    assert told["pool none, small.1", "launch"].verdict is Verdict.WRONG
    document = diagnosis.document()
    assert not document["healthy"] and document["counts"]["wrong"] == 5


def test_warnings_alone_are_no_illness() -> None:
    assert Diagnosis({"master": [Finding("disk", Verdict.WARNING, "little is left")]}).healthy


def test_a_cloud_whose_settings_are_wrong_is_told(tmp_path: Path) -> None:
    with doctor_here(Settings(data_dir=tmp_path, clouds={"odd": CloudSettings(provider="azure")})) as doctor:
        (found,) = doctor.examine().findings["cloud odd"]
    assert found.verdict is Verdict.WRONG and "azure" in found.told
