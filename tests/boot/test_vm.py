"""By hand (`tests/boot/run --vm`): a whole emulated EC2 machine calls home."""

import queue
from pathlib import Path

import pytest
from container import INSTANCE_ID
from stub_master import StubMaster
from vm import boot_vm

from orchestrator.fleet.bootstrap import render_user_data

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]


def test_an_ec2_machine_calls_home(master: StubMaster, tmp_path: Path) -> None:
    with boot_vm("bookworm", render_user_data(master.params()), master.port, tmp_path) as console:
        try:
            call = master.enrolments.get(timeout=500)
        except queue.Empty:
            pytest.fail("no call home; the console shows:\n" + console.read_text(errors="replace"))
    assert (call["secret"], call["instance_id"]) == ("only-this-once", INSTANCE_ID)
