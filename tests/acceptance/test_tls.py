"""A master with a certificate that no authority knows: its machines boot by the pin, and another's pin is no way in."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from certificates import self_signed
from theatre import Director, until

from orchestrator.app import certificate_pin
from orchestrator.demo.stage import Stage, free_port
from orchestrator.settings import Settings
from providers.localcloud import start


@contextmanager
def tls_stage(tmp_path: Path, settings: str = "") -> Iterator[Stage]:
    certificate, key = self_signed(tmp_path, "master")
    data, port = tmp_path / "data", free_port(0)
    data.mkdir()
    with (tmp_path / "cloud.log").open("ab") as log, start(tmp_path / "stage" / "cloud", stderr=log) as cloud:
        config = data / "tls.toml"
        config.write_text(
            f'port = {port}\ndata_dir = "{data}"\nlook_s = 2\ntls_cert = "{certificate}"\ntls_key = "{key}"\n{settings}\n'
            f'[clouds.local]\nendpoint_url = "{cloud.endpoint_url}"\n'
            'access_key_id = "local"\nsecret_access_key = "local"\n'
        )
        here = Stage(cloud, tmp_path / "stage", f"https://127.0.0.1:{port}", config, data)
        here.start_master()
        try:
            yield here
        finally:
            here.master.send_signal(signal.SIGTERM)
            here.master.wait(10)


def test_machines_pin_the_master_s_certificate(tmp_path: Path) -> None:
    job = {
        "name": "quiet",
        "client": "acme",
        "token": "tls-$JOB_ID",
        "infrastructure": {"pool": "local", "count": 1},
        "run": f"echo begun; until [ -e {tmp_path}/go ]; do sleep 0.02; done; head -c 300000 /dev/zero | tr '\\0' x",
    }
    with tls_stage(tmp_path) as here:
        director = Director(here)
        director.pool()
        job_id = director.submit(job)
        until(lambda: director.log(job_id, "quiet") == "begun\n")
        director.kill9()
        here.start_master()
        (tmp_path / "go").touch()
        assert director.finished(job_id)["state"] == "succeeded"
        assert director.log(job_id, "quiet") == "begun\n" + "x" * 300_000
        director.all_gone()

        # The same master behind another certificate, as an impostor has it: its machines were told the true one.
        node = director.nodes()[0]
        pin = certificate_pin(Settings(tls_cert=tmp_path / "master.pem"))
        config = here.folder / "cloud" / node["instance_id"] / "etc/elastic-orchestrator/agent.json"
        assert f'"ca_pin": "{pin}"' in config.read_text()
        second = director.submit({**job, "run": "sleep 60"})
        until(lambda: director.job(second)["state"] == "running")
        (machine,) = [node for node in director.nodes() if node["state"] == "ready"]
        director.kill9()
        for path, fresh in zip(
            (tmp_path / "master.pem", tmp_path / "master.key"), self_signed(tmp_path, "other"), strict=True
        ):
            path.write_bytes(fresh.read_bytes())
        here.start_master()
        said = here.folder / "cloud" / machine["instance_id"] / "var/log/elastic-orchestrator-agent.log"
        until(lambda: f"not the pinned {pin}" in said.read_text())
