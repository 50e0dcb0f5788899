"""The whole way with nothing in anybody's place: a real master's user data makes a real Debian guest a node that works."""

from pathlib import Path

import pytest
from container import boot_container
from real_master import real_master

pytestmark = pytest.mark.boot

UNIT = "elastic-orchestrator-agent.service"
JOB = f"uname -a; id; cat /etc/os-release; systemctl is-active {UNIT}"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_a_machine_enrols_does_its_job_and_leaves(suite: str, scheme: str, tmp_path: Path) -> None:
    with real_master(tmp_path / "master", scheme) as master:
        master.create_pool()
        job_id = master.submit(JOB)
        booting = master.node("booting")
        user_data = master.user_data(booting)
        assert master.ca_pin.encode() in user_data
        with boot_container(suite, user_data, master.port, tmp_path, booting["instance_id"]) as machine:
            state, log = master.ended(job_id)
            assert state == "succeeded", log
            machine.wait_until_off(60)  # its node is released: no other way to end a machine is tried here
        ended = master.node("terminated")
    kernel, user, *release, unit = log.splitlines()
    assert kernel.startswith("Linux worker ")
    assert user.startswith("uid=0(root) ")
    assert f"VERSION_CODENAME={suite}" in release
    assert unit == "active"
    assert ended["enrolled_at"]
    assert ended["end_reason"] == "job_done"


def test_a_machine_whose_master_is_gone_for_good_powers_itself_off(tmp_path: Path) -> None:
    with real_master(tmp_path / "master") as master:
        master.create_pool(min_nodes=1, lease_s=10)
        booting = master.node("booting")
        user_data = master.user_data(booting)
        with boot_container("bookworm", user_data, master.port, tmp_path, booting["instance_id"]) as machine:
            master.node("ready", within_s=120)
            master.die()
            machine.wait_until_off(60)
    assert "powering off: no master answered for 10 s and nothing runs here" in machine.console
