"""First boot, step by step, against a stub master: what is installed, what keeps it alive, and what makes it end."""

import json
import queue
import re
from pathlib import Path

import pytest
from container import INSTANCE_ID, boot_container
from stub_master import StubMaster

from orchestrator.fleet.bootstrap import render_user_data

pytestmark = pytest.mark.boot

UNIT = "elastic-orchestrator-agent.service"
CONFIG = "/etc/elastic-orchestrator/agent.json"


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_a_machine_calls_home_and_its_agent_is_kept_alive(suite: str, master: StubMaster, tmp_path: Path) -> None:
    with boot_container(suite, render_user_data(master.params()), master.port, tmp_path) as machine:
        call = called_home(master)
        assert (call["secret"], call["instance_id"]) == ("only-this-once", INSTANCE_ID)
        agent = "/opt/elastic-orchestrator/agent.pyz"
        assert call["arguments"] == [agent, "--config", CONFIG, "--root", ""]
        assert machine.run("systemctl", "is-active", UNIT) == "active"
        assert machine.run("systemctl", "is-enabled", UNIT) == "enabled"
        assert machine.run("stat", "-c", "%a %U", CONFIG) == "600 root"
        assert json.loads(machine.run("cat", CONFIG))["lease_s"] == 900

        job = machine.run("pgrep", "-x", "sleep")
        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
        called_home(master)
        assert machine.run("pgrep", "-x", "sleep") == job, "the job outlives its agent"

        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=TERM", UNIT)
        ended = f"while systemctl -q is-active {UNIT}; do sleep 0.1; done; systemctl show --property=ActiveState {UNIT}"
        assert machine.run("sh", "-c", ended) == "ActiveState=inactive", "an agent that ended well is not started again"
        assert "enrolled: 201" in machine.console
        assert "only-this-once" not in machine.console
        assert "Invalid cloud-config" not in machine.console


def test_a_machine_with_another_agent_says_why_and_powers_off(master: StubMaster, tmp_path: Path) -> None:
    user_data = render_user_data(master.params(agent_sha256="00" * 32, boot_timeout_s=2))
    with boot_container("bookworm", user_data, master.port, tmp_path) as machine:
        machine.wait_until_off(120)
    assert re.search(r"cloud-init\S+ elastic-orchestrator: cannot get the agent .* expected was 0000", machine.console)
    assert "no agent on this machine; powering off" in machine.console
    assert master.enrolments.empty()


def called_home(master: StubMaster) -> dict[str, object]:
    """The next enrolment that reaches the master."""
    try:
        return master.enrolments.get(timeout=120)
    except queue.Empty:
        pytest.fail("no call home")
