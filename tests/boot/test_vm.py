"""By hand (`tests/boot/run --vm`): a whole emulated EC2 machine becomes a node of a real master and does its job."""

from pathlib import Path

import pytest
from real_master import real_master
from vm import boot_vm

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]


def test_an_ec2_machine_does_its_job(tmp_path: Path) -> None:
    with real_master(tmp_path / "master", "https") as master:
        master.create_pool()
        job_id = master.submit("uname -a; cat /sys/class/dmi/id/sys_vendor")
        node = master.node("booting")
        with boot_vm("bookworm", master.user_data(node), master.port, tmp_path, node["instance_id"]):
            state, log = master.ended(job_id, within_s=500)
    assert state == "succeeded", log
    assert log.startswith("Linux worker ")
    assert log.endswith("\nAmazon EC2\n")
