"""The local cloud's machines are real processes: they boot, power off, and nothing of them outlives them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest

from providers import localcloud
from providers.localcloud import LocalCloud, nursery

# A daemon that hides as well as a process can: a session of its own, orphaned, deaf to TERM, with no environment.
# How long it sleeps is its name, by which it is found among all processes of the host.
DAEMON = "(env -i setsid sh -c \"trap '' TERM HUP INT; exec sleep {mark}\" &)"
_marks = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with localcloud.start(tmp_path_factory.mktemp("cloud"), boot_delay_s=0.2, stop_delay_s=0.2) as cloud:
        yield cloud


@pytest.fixture
def cloud(shared: LocalCloud) -> Iterator[LocalCloud]:
    yield shared
    shared.clear_faults()


@pytest.fixture
def mark() -> str:
    return f"86400.{os.getpid()}{next(_marks)}"


def running(mark: str) -> int:
    """How many processes of this host have this word on their command line."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            count += mark.encode() in entry.read_bytes().split(b"\0")
        except OSError:
            continue
    return count


def until(wanted: Callable[[], object], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ec2(cloud: LocalCloud) -> Any:
    return client(cloud.endpoint_url)


@cache
def client(endpoint_url: str) -> Any:
    """A client takes a quarter of a second to make."""
    keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    return boto3.client("ec2", region_name="eu-west-1", endpoint_url=endpoint_url, **keys)


def launch(cloud: LocalCloud, user_data: str, count: int = 1, **more: Any) -> list[str]:
    reply = ec2(cloud).run_instances(
        ImageId="ami-local",
        InstanceType="t3.micro",
        MinCount=count,
        MaxCount=count,
        UserData=user_data,
        **{"InstanceInitiatedShutdownBehavior": "terminate", **more},
    )
    return [each["InstanceId"] for each in reply["Instances"]]


def machine(cloud: LocalCloud, name: str) -> dict[str, Any]:
    return cloud.machines()[name]


def root(cloud: LocalCloud, name: str) -> Path:
    return Path(machine(cloud, name)["root"])


def test_boots_its_real_user_data_in_order_and_in_a_clean_room(cloud: LocalCloud) -> None:
    user_data = """#cloud-config
write_files:
  - path: /opt/first.sh
    permissions: "0755"
    content: |
      #!/bin/sh
      echo "first $1 $(pwd)" > said
      env | sort > environment
runcmd:
  - [/opt/first.sh, hello]
  - exit 3
  - sh -c 'cat /opt/first.sh > copy; echo second >> said; python3 -c "print(42)" >> said'
  - no-such-command
  - echo on the console; touch done
"""
    (name,) = launch(cloud, user_data)
    until((root(cloud, name) / "done").exists)
    place = root(cloud, name)
    assert (place / "said").read_text() == f"first hello {place}\nsecond\n42\n"
    assert (place / "copy").read_text().startswith("#!/bin/sh")
    assert (place / "var/lib/cloud/data/instance-id").read_text() == f"{name}\n"
    variables = dict(line.split("=", 1) for line in (place / "environment").read_text().splitlines())
    assert variables["ORCHESTRATOR_ROOT"] == str(place)
    assert variables["HOME"] == str(place / "root")
    assert set(variables) == {"PATH", "HOME", "LANG", "ORCHESTRATOR_ROOT", "ORCHESTRATOR_IMDS", "PWD"}
    console = ec2(cloud).get_console_output(InstanceId=name)["Output"]
    assert "on the console" in console
    assert "no-such-command" in console


def test_states_take_their_time(cloud: LocalCloud) -> None:
    begun = time.monotonic()
    (name,) = launch(cloud, "#!/bin/sh\n")
    until(lambda: machine(cloud, name)["state"] == "running")
    assert time.monotonic() - begun >= 0.2
    begun = time.monotonic()
    reply = ec2(cloud).terminate_instances(InstanceIds=[name])["TerminatingInstances"][0]
    assert (reply["PreviousState"]["Name"], reply["CurrentState"]["Name"]) == ("running", "shutting-down")
    until(lambda: machine(cloud, name)["state"] == "terminated")
    assert time.monotonic() - begun >= 0.2


@pytest.mark.parametrize(("behaviour", "state"), [("terminate", "terminated"), ("stop", "stopped")])
def test_poweroff_ends_the_machine_as_it_was_told(cloud: LocalCloud, mark: str, behaviour: str, state: str) -> None:
    script = f"#!/bin/sh\n{DAEMON.format(mark=mark)}\nuntil [ -e go ]; do sleep 0.05; done\nsbin/poweroff\nsleep {mark}\n"
    (name,) = launch(cloud, script, InstanceInitiatedShutdownBehavior=behaviour)
    until(lambda: running(mark))
    (root(cloud, name) / "go").touch()
    until(lambda: machine(cloud, name)["state"] == state)
    assert running(mark) == 0
    seen = ec2(cloud).describe_instances(InstanceIds=[name])["Reservations"][0]["Instances"][0]
    assert seen["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert subprocess.run([root(cloud, name) / "sbin/poweroff"], stderr=subprocess.DEVNULL).returncode == 1


def test_stopped_machine_starts_again(cloud: LocalCloud) -> None:
    (name,) = launch(cloud, "#!/bin/sh\necho up >> boots\n")
    boots = root(cloud, name) / "boots"
    until(lambda: boots.exists() and machine(cloud, name)["init"])
    ec2(cloud).stop_instances(InstanceIds=[name])
    until(lambda: machine(cloud, name)["state"] == "stopped")
    ec2(cloud).start_instances(InstanceIds=[name])
    until(lambda: boots.read_text() == "up\nup\n")
    assert machine(cloud, name)["state"] == "running"


def test_terminate_ends_hidden_daemons_too(cloud: LocalCloud, mark: str) -> None:
    names = launch(cloud, f"#!/bin/sh\n{DAEMON.format(mark=mark)}\n", count=3)
    until(lambda: running(mark) == 3)
    ec2(cloud).terminate_instances(InstanceIds=names[:2])
    until(lambda: running(mark) == 1)
    until(lambda: {machine(cloud, each)["state"] for each in names[:2]} == {"terminated"})
    assert len(machine(cloud, names[2])["pids"]) == 1


def test_machine_whose_processes_have_ended_goes_on(cloud: LocalCloud) -> None:
    (name,) = launch(cloud, "#!/bin/sh\nexit 3\n")
    until(lambda: "ended with 3" in (ec2(cloud).get_console_output(InstanceId=name).get("Output") or ""))
    until(lambda: not machine(cloud, name)["pids"])
    assert machine(cloud, name)["state"] == "running"


def test_terminate_while_pending_never_boots(cloud: LocalCloud) -> None:
    (name,) = launch(cloud, "#!/bin/sh\ntouch booted\n")
    ec2(cloud).terminate_instances(InstanceIds=[name])
    until(lambda: machine(cloud, name)["state"] == "terminated")
    assert not (root(cloud, name) / "booted").exists()


def test_killed_init_takes_its_guests_along(cloud: LocalCloud, mark: str) -> None:
    (name,) = launch(cloud, f"#!/bin/sh\n{DAEMON.format(mark=mark)}\n")
    until(lambda: running(mark))
    os.kill(machine(cloud, name)["init"], signal.SIGKILL)
    until(lambda: not running(mark))
    until(lambda: machine(cloud, name)["init"] is None)
    assert machine(cloud, name)["state"] == "running"  # a cloud does not see either that a guest is dead


def test_machines_that_do_not_boot(cloud: LocalCloud) -> None:
    cloud.faults({"no_boot": True, "times": 1})
    names = launch(cloud, "#!/bin/sh\ntouch booted\n", count=2)
    until(lambda: {machine(cloud, name)["state"] for name in names} == {"running"})
    until(lambda: [(root(cloud, name) / "booted").exists() for name in names].count(True) == 1)
    assert [machine(cloud, name)["init"] is None for name in names].count(True) == 1


def test_ended_machines_are_forgotten_and_closing_ends_the_others(tmp_path: Path, mark: str) -> None:
    with localcloud.start(tmp_path, boot_delay_s=0, stop_delay_s=0, forget_s=0.1) as cloud:
        (name,) = launch(cloud, "#!/bin/sh\n", ClientToken="once")
        ec2(cloud).terminate_instances(InstanceIds=[name])
        until(lambda: not cloud.machines())
        assert ec2(cloud).describe_instances()["Reservations"] == []
        with pytest.raises(Exception, match="IdempotentInstanceTerminated"):
            launch(cloud, "#!/bin/sh\n", ClientToken="once")
        launch(cloud, f"#!/bin/sh\n{DAEMON.format(mark=mark)}\n")
        until(lambda: running(mark))
    assert running(mark) == 0, "a closed cloud has ended its machines when `close` returns"


@pytest.mark.parametrize("killed", ["cloud", "nursery"])
def test_nothing_outlives_a_killed_cloud(tmp_path: Path, mark: str, killed: str) -> None:
    with localcloud.start(tmp_path, boot_delay_s=0, stderr=subprocess.DEVNULL) as cloud:
        names = launch(cloud, f"#!/bin/sh\n{DAEMON.format(mark=mark)}\nsleep {mark}\n", count=3)
        until(lambda: running(mark) == 6)
        inits = [machine(cloud, name)["init"] for name in names]
        nursery = int(Path(f"/proc/{inits[0]}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill({"cloud": cloud.process.pid, "nursery": nursery}[killed], signal.SIGKILL)
        until(lambda: not running(mark))
        assert cloud.process.wait(5) != 0
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in inits))


def test_the_cloud_ends_with_its_parent(tmp_path: Path, mark: str) -> None:
    program = (
        "import sys, time, pathlib; from providers import localcloud\n"
        "cloud = localcloud.start(pathlib.Path(sys.argv[1]), boot_delay_s=0)\n"
        "print(cloud.endpoint_url, cloud.process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    endpoint_url, pid = parent.stdout.readline().split()
    cloud = LocalCloud(parent, endpoint_url)
    launch(cloud, f"#!/bin/sh\n{DAEMON.format(mark=mark)}\n")
    until(lambda: running(mark))
    parent.kill()
    until(lambda: not running(mark))
    until(lambda: not Path(f"/proc/{pid}").exists())
    cloud.close()


def test_twenty_machines_of_one_launch_all_boot(cloud: LocalCloud) -> None:
    names = launch(cloud, "#!/bin/sh\npython3 -c 'pass'\ntouch up\n", count=20)
    places = [root(cloud, name) for name in names]
    until(lambda: all((place / "up").exists() for place in places), within_s=60)


def test_a_cloud_that_cannot_start_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError, match="did not start"):
        localcloud.start(tmp_path / "file", stderr=subprocess.DEVNULL)


def test_a_machine_ended_the_moment_it_starts_takes_no_other_along(tmp_path: Path) -> None:
    orders = []
    for number in range(20):
        place = tmp_path / str(number)
        (place / "run").mkdir(parents=True)
        boot = {"boot": place.name, "root": str(place), "console": str(place / "log"), "env": {}, "commands": []}
        orders += [boot, {"stop": place.name}]
    told = "".join(json.dumps(order) + "\n" for order in orders)
    command = [sys.executable, "-I", "-S", nursery.__file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(told)
        process.stdin.flush()
        news = [json.loads(process.stdout.readline() or "{}") for _ in orders]
        assert process.poll() is None, "the nursery took the order to one of its machines for one to itself"
        process.stdin.close()
    assert sorted(int(each["ended"]) for each in news if "ended" in each) == list(range(20))
