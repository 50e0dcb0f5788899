"""The real agent against a scripted master: nothing lost, nothing run twice, and an end for every machine."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fake_master import AgentBox, FakeMaster, Json, until


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def pids_of(mark: str) -> list[int]:
    """Processes of this host with this word on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


# ---- lost, repeated and late messages --------------------------------------------------------------------------------


def test_a_lost_reply_repeats_results_and_runs_nothing_twice(master: FakeMaster, machine: AgentBox, tmp_path: Path) -> None:
    lost: set[int] = set()

    def lose(message: Json) -> bool:
        """The first reply with each order, and the first to each result."""
        concerned = {result["attempt"] for result in message["results"]} | {
            -order["attempt"] for order in master._undelivered(message)
        }
        fresh = concerned - lost
        lost.update(fresh)
        return bool(fresh)

    master.lose = lose
    for attempt in (1, 2, 3):
        master.order(attempt, f"echo {attempt} >> {tmp_path}/ran; echo said {attempt}")
    machine.start()
    until(lambda: not master.orders and all(len(master.of(attempt)) >= 2 for attempt in (1, 2, 3)))
    assert lines(tmp_path / "ran") == ["1", "2", "3"]
    for attempt in (1, 2, 3):
        first, *repeats = master.of(attempt)
        assert all(repeat == first for repeat in repeats)
        assert master.log(attempt) == f"said {attempt}\n".encode()


def test_an_order_in_every_reply_is_run_once(master: FakeMaster, machine: AgentBox, tmp_path: Path) -> None:
    order = {"attempt": 1, "run": f"echo ran >> {tmp_path}/ran", "env": {}, "timeout_s": None, "grace_s": 1.0}
    master.twist = lambda message, answer: {**answer, "orders": [order, order, *answer["orders"]]}
    master.orders[1] = order
    machine.start()
    master.result(1)
    for attempt in (2, 3, 4):  # each of them makes the agent call again, and every reply carries attempt 1
        master.order(attempt, f"echo {attempt} >> {tmp_path}/others")
        master.result(attempt)
    assert lines(tmp_path / "ran") == ["ran"]
    assert len(master.of(1)) == 1
    assert lines(tmp_path / "others") == ["2", "3", "4"]


def test_an_order_on_an_overtaken_poll_comes_again(master: FakeMaster, machine: AgentBox, tmp_path: Path) -> None:
    """The master claims for a poll in the same moment in which the agent overtakes it: that reply is read by nobody."""
    late = {"attempt": 9, "run": f"echo ran >> {tmp_path}/ran", "env": {}, "timeout_s": None, "grace_s": 1.0}
    carried: list[int] = []

    def overtaken(message: Json) -> list[Json]:
        if carried:
            return []
        carried.append(9)
        master.order(9, late["run"])  # from now on it is delivered until it is known
        return [late]

    master.slots = 2
    master.overtaken = overtaken
    master.order(1, "while [ ! -e go ]; do sleep 0.02; done; echo x")
    machine.start()
    until(lambda: master.syncs and master.syncs[-1]["known"] == [1] and master.syncs[-1]["wait_s"] > 0)
    (machine.state("work/1") / "go").touch()
    master.result(9)
    master.result(1)
    assert carried == [9]
    assert lines(tmp_path / "ran") == ["ran"]
    assert len(master.of(9)) == 1


def test_results_acknowledged_late_are_sent_until_then(master: FakeMaster, machine: AgentBox, tmp_path: Path) -> None:
    master.acknowledges = False
    master.order(1, f"echo ran >> {tmp_path}/ran; echo hello")
    machine.start()
    until(lambda: len(master.of(1)) >= 3)
    assert machine.state("logs/1").exists()
    master.set(acknowledges=True)
    until(lambda: not master.orders)
    until(lambda: not machine.state("logs/1").exists() and not machine.state("work/1").exists())
    assert lines(tmp_path / "ran") == ["ran"]
    assert master.log(1) == b"hello\n"


def test_a_silent_master_is_called_again_and_gets_all(master: FakeMaster, machine: AgentBox, tmp_path: Path) -> None:
    """It is away while a job runs and ends: the job goes on, its log and its result arrive afterwards."""
    master.order(1, "echo before; while [ ! -e go ]; do sleep 0.02; done; echo after")
    machine.start()
    until(lambda: master.log(1) == b"before\n")
    master.set(deaf=True)
    (machine.state("work/1") / "go").touch()
    until(lambda: '["end",{"attempt":1' in machine.state("journal").read_text())
    assert not master.results
    master.set(deaf=False)
    assert master.result(1)["exit_code"] == 0
    assert master.log(1) == b"before\nafter\n"


def test_500_small_orders_are_each_reported_once(master: FakeMaster, machine: AgentBox, tmp_path: Path) -> None:
    master.slots = 2
    for attempt in range(1, 501):
        master.order(attempt, ":")
    machine.start()
    until(lambda: not master.orders, 40, lambda: master.outcomes())
    assert master.outcomes() == {"exited": 500}
    assert len({result["attempt"] for result in master.results}) == 500
    assert max(len(sync["known"]) for sync in master.syncs) > 2  # it took orders ahead
    until(lambda: not [folder for folder in machine.state("work").iterdir() if not folder.name.startswith(".")])


# ---- an agent that dies ----------------------------------------------------------------------------------------------


def test_killed_in_the_middle_of_a_job_it_gives_up_that_one_and_runs_the_rest(
    master: FakeMaster, machine: AgentBox, tmp_path: Path
) -> None:
    mark = f"86400.{os.getpid()}71"
    run = f"echo began; echo ran >> {tmp_path}/first; sleep {mark} & setsid sleep {mark} & wait"
    master.order(1, run, ROOT=str(machine.root))
    machine.start()
    until(lambda: master.log(1) == b"began\n" and len(pids_of(mark)) == 2)
    # An order that the agent has accepted and not begun: as it stands in the journal when there is no free slot.
    order = {"attempt": 2, "run": f"echo ran >> {tmp_path}/second", "timeout_s": None, "grace_s": 1.0}
    master.orders[2] = {**order, "env": {"ORCHESTRATOR_ATTEMPT_ID": "2"}}
    machine.kill9()
    with machine.state("journal").open("a") as journal:
        journal.write(json.dumps(["order", master.orders[2]]) + "\n")
    assert len(pids_of(mark)) == 2
    machine.start()
    lost = master.result(1)
    assert lost["outcome"] == "lost" and "died" in lost["detail"]
    assert not pids_of(mark), "its processes, the one in a session of its own included, are ended"
    assert master.result(2)["outcome"] == "exited"
    assert lines(tmp_path / "first") == ["ran"] and lines(tmp_path / "second") == ["ran"]
    assert master.log(1) == b"began\n"
    assert len(master.enrolments) == 1


def test_an_agent_killed_again_and_again_loses_no_order(master: FakeMaster, machine: AgentBox, tmp_path: Path) -> None:
    master.slots = 2
    for attempt in range(1, 61):
        master.order(attempt, f"echo {attempt} >> {tmp_path}/ran; sleep 0.02")
    for _ in range(6):
        machine.start()
        ended = len(master.results)
        until(lambda ended=ended: len(master.results) > ended + 4)
        machine.kill9()
    machine.start()
    until(lambda: not master.orders, 30, lambda: (master.outcomes(), list(master.orders)))
    reported = Counter(result["attempt"] for result in master.results)
    assert set(reported) == set(range(1, 61))
    ran = Counter(lines(tmp_path / "ran"))
    assert max(ran.values()) == 1, "no order was started twice"
    assert {"exited", "lost"} >= set(master.outcomes())
    assert all(ran[str(result["attempt"])] == 1 for result in master.results if result["outcome"] == "exited")


def test_killing_leftovers_spares_the_same_attempt_of_another_machine(
    master: FakeMaster, machine: AgentBox, machines: Any
) -> None:
    """Only a local cloud has two machines in one process table; there it matters."""
    other_master = FakeMaster()
    try:
        other = machines(other_master.url)
        for each in (master, other_master):
            each.order(1, "while [ ! -e go ]; do sleep 0.02; done")
        machine.start()
        other.start()
        until(lambda: machine.state("work/1").exists() and other.state("work/1").exists())
        until(lambda: '["begin",1]' in machine.state("journal").read_text())
        machine.kill9()
        machine.start()
        assert master.result(1)["outcome"] == "lost"
        (other.state("work/1") / "go").touch()
        assert other_master.result(1)["outcome"] == "exited"
    finally:
        other_master.close()


# ---- the end of a machine --------------------------------------------------------------------------------------------


def test_410_powers_off(master: FakeMaster, machine: AgentBox) -> None:
    machine.start()
    until(lambda: master.syncs)
    master.set(gone=True)
    assert machine.wait() == 0
    assert machine.is_off
    assert "the master has ended this node" in machine.said


def test_an_idle_machine_powers_off_when_its_lease_is_over(master: FakeMaster, machine: AgentBox) -> None:
    master.lease_s = 1
    machine.start()
    until(lambda: master.syncs)
    master.set(deaf=True)
    assert machine.wait() == 0
    assert machine.is_off
    assert "no master answered for 1 s" in machine.said


def test_a_running_task_outlives_the_lease(master: FakeMaster, machine: AgentBox, tmp_path: Path) -> None:
    master.lease_s = 1
    master.order(1, f"while [ ! -e go ]; do sleep 0.02; done; echo ran >> {tmp_path}/ran")
    machine.start()
    until(lambda: machine.state("work/1").exists())
    master.set(deaf=True)
    time.sleep(2.0)  # twice the lease
    assert machine.process is not None and machine.process.poll() is None and not machine.is_off
    (machine.state("work/1") / "go").touch()
    assert machine.wait() == 0
    assert machine.is_off
    assert lines(tmp_path / "ran") == ["ran"]


def test_a_machine_that_cannot_power_off_tries_again(master: FakeMaster, machine: AgentBox) -> None:
    (machine.root / "sbin/poweroff").write_text("#!/bin/sh\nexit 1\n")
    master.gone = True
    machine.start()
    assert machine.wait() == 1  # so that whoever started it starts it again
    assert "trying again" in machine.said


# ---- stop, cancel, time limits, draining -----------------------------------------------------------------------------


def test_a_cancelled_task_gets_term_then_kill(master: FakeMaster, machine: AgentBox) -> None:
    master.slots = 2
    master.order(1, "trap 'echo told; exit 3' TERM; echo up; while :; do sleep 0.02; done")
    master.order(2, "trap '' TERM; echo up; while :; do sleep 0.02; done", grace_s=0.3)
    machine.start()
    until(lambda: master.log(1) == b"up\n" and master.log(2) == b"up\n")
    syncs = len(master.syncs)
    master.stop(1)
    master.stop(2)
    polite, deaf = master.result(1), master.result(2)
    assert (polite["outcome"], polite["exit_code"]) == ("cancelled", 3)
    assert master.log(1).startswith(b"up\n") and master.log(1).endswith(b"told\n")
    assert (deaf["outcome"], deaf["exit_code"]) == ("cancelled", -signal.SIGKILL)
    assert deaf["finished_at"] - polite["finished_at"] > 0.15
    assert len(master.syncs) - syncs < 20


def test_a_cancelled_order_that_waits_is_never_run(master: FakeMaster, machine: AgentBox, tmp_path: Path) -> None:
    # Short tasks make the agent take orders ahead; then one keeps its slot.
    for attempt in range(1, 6):
        master.order(attempt, ":")
    machine.start()
    until(lambda: not master.orders)
    master.order(10, "while [ ! -e go ]; do sleep 0.02; done")
    master.order(11, f"echo ran >> {tmp_path}/ran")
    until(lambda: '["order",{"attempt":11' in machine.state("journal").read_text())
    master.stop(11)
    assert master.result(11)["outcome"] == "cancelled"
    (machine.state("work/10") / "go").touch()
    assert master.result(10)["outcome"] == "exited"
    assert not lines(tmp_path / "ran")


def test_time_limits(master: FakeMaster, machine: AgentBox) -> None:
    master.slots = 3
    master.order(1, "sleep 60", timeout_s=0.3, grace_s=5.0)
    master.order(2, "trap '' TERM; while :; do sleep 0.02; done", timeout_s=0.3, grace_s=0.3)
    master.order(3, "sleep 0.1", timeout_s=30.0)
    machine.start()
    heard, deaf, quick = master.result(1), master.result(2), master.result(3)
    assert (heard["outcome"], heard["exit_code"]) == ("timed_out", -signal.SIGTERM)
    assert (deaf["outcome"], deaf["exit_code"]) == ("killed", -signal.SIGKILL)
    assert (quick["outcome"], quick["exit_code"]) == ("exited", 0)


def test_draining_hands_back_what_waits_and_finishes_what_runs(
    master: FakeMaster, machine: AgentBox, tmp_path: Path
) -> None:
    for attempt in range(1, 6):
        master.order(attempt, ":")
    machine.start()
    until(lambda: not master.orders)
    master.order(10, f"while [ ! -e go ]; do sleep 0.02; done; echo ran >> {tmp_path}/ran")
    for attempt in (11, 12, 13):
        master.order(attempt, f"echo ran >> {tmp_path}/wrong")
    until(lambda: '["order",{"attempt":13' in machine.state("journal").read_text())
    master.set(draining=True)
    for attempt in (11, 12, 13):
        returned = master.result(attempt)
        assert returned["outcome"] == "returned" and "draining" in returned["detail"]
    (machine.state("work/10") / "go").touch()
    assert master.result(10)["outcome"] == "exited"
    assert not lines(tmp_path / "wrong")
    until(lambda: master.syncs[-1]["free"] == 0)


def test_orders_ahead_go_back_when_the_slot_stays_busy_and_are_not_asked_for_again(
    master: FakeMaster, machine: AgentBox, tmp_path: Path
) -> None:
    for attempt in range(1, 6):
        master.order(attempt, ":")
    machine.start()
    until(lambda: not master.orders)
    master.order(10, "while [ ! -e go ]; do sleep 0.02; done")
    for attempt in range(11, 15):
        master.order(attempt, f"echo ran >> {tmp_path}/ran")
    for attempt in range(11, 15):
        returned = master.result(attempt)
        assert returned["outcome"] == "returned" and "no slot was free" in returned["detail"]
    master.order(20, f"echo ran >> {tmp_path}/ran")
    until(lambda: master.syncs[-1]["wait_s"] > 0 and not master.syncs[-1]["results"])
    assert master.syncs[-1]["free"] == 0, "what runs long is no ground to take more ahead"
    (machine.state("work/10") / "go").touch()
    assert master.result(20)["outcome"] == "exited"
    assert lines(tmp_path / "ran") == ["ran"]


# ---- what a task sees ------------------------------------------------------------------------------------------------


def test_a_task_has_its_own_session_folder_and_environment(master: FakeMaster, machine: AgentBox) -> None:
    run = 'echo "$(ps -o pgid= -o sid= -p $$) $$"; pwd; id -u; env; umask; cat; ls -l /proc/self/fd'
    master.order(1, run, COLOUR="green and 'quoted' ünï", HOME="/elsewhere")
    machine.start()
    assert master.result(1)["exit_code"] == 0
    ids, pwd, uid, *rest = master.log(1).decode().splitlines()
    group, session, own = ids.split()
    assert group == session == own != str(machine.pid)
    assert pwd == str(machine.state("work/1"))
    assert uid == str(os.getuid())
    variables = dict(line.split("=", 1) for line in rest if re.match(r"^[A-Z_]+=", line))
    assert variables["COLOUR"] == "green and 'quoted' ünï"
    assert variables["HOME"] == "/elsewhere"
    assert variables["PATH"] and variables["ORCHESTRATOR_ATTEMPT_ID"] == "1"
    assert "A_SECRET_OF_THE_HOST" not in variables
    open_files = [line for line in rest if "->" in line]
    assert len(open_files) == 4, f"no file of the agent's is open in it: {open_files}"  # 0, 1, 2 and ls' own


def test_exit_codes_signals_and_broken_pipes(master: FakeMaster, machine: AgentBox) -> None:
    master.slots = 4
    master.order(1, "exit 7")
    master.order(2, "kill -SEGV $$")
    master.order(3, "yes | head -c 3 >/dev/null; grep SigIgn /proc/self/status; grep SigBlk /proc/self/status")
    master.order(4, "/nowhere/to/be/found")
    machine.start()
    assert master.result(1)["exit_code"] == 7
    assert master.result(2)["exit_code"] == -signal.SIGSEGV
    assert master.result(3)["exit_code"] == 0
    masks = dict(line.split(":\t") for line in master.log(3).decode().splitlines())
    ours = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1 | 1 << signal.SIGCHLD - 1
    assert int(masks["SigIgn"], 16) & ours == 0, "they are as a shell would have them, not as Python has"
    assert int(masks["SigBlk"], 16) == 0
    assert master.result(4)["exit_code"] == 127
    assert b"not found" in master.log(4)
    started, finished = master.of(1)[0]["started_at"], master.of(1)[0]["finished_at"]
    assert abs(time.time() - started) < 60 and started <= finished


def test_a_command_that_cannot_be_started_is_no_failure_of_the_job(master: FakeMaster, machine: AgentBox) -> None:
    master.order(1, ": " + "x" * (1 << 18))  # more than a command line takes
    machine.start()
    result = master.result(1)
    assert result["outcome"] == "start_failed" and "could not start" in result["detail"]


def test_what_a_task_leaves_behind_is_ended_with_it(master: FakeMaster, machine: AgentBox) -> None:
    mark = f"86400.{os.getpid()}72"
    master.order(1, f"sleep {mark} & (trap '' TERM HUP; exec sleep {mark}) & echo left; touch a-file; mkdir -p a/b; exit 0")
    machine.start()
    assert master.result(1)["exit_code"] == 0
    until(lambda: not pids_of(mark))
    assert master.log(1) == b"left\n"
    until(lambda: not machine.state("work/1").exists())


# ---- logs ------------------------------------------------------------------------------------------------------------


def test_a_log_can_be_followed_while_its_task_runs(master: FakeMaster, machine: AgentBox) -> None:
    master.order(1, "for i in 1 2 3; do echo $i; while [ ! -e go$i ]; do sleep 0.02; done; done")
    machine.start()
    for i in (1, 2, 3):
        until(lambda i=i: master.log(1) == b"".join(b"%d\n" % n for n in range(1, i + 1)))
        assert not master.results
        (machine.state("work/1") / f"go{i}").touch()
    assert master.result(1)["log_size"] == 6


def test_a_big_binary_log_arrives_whole_though_the_master_forgets_some(master: FakeMaster, machine: AgentBox) -> None:
    size = 5 << 20
    rewound: list[int] = []

    def forgetful(chunk: Json, have: bytearray) -> int | None:
        """Now and then, and at the very last chunk too, it has less than it had said."""
        ends = chunk["offset"] + len(chunk["data"]) * 3 // 4
        if (len(rewound) < 4 and ends > (len(rewound) + 1) << 20) or (len(rewound) == 4 and ends >= size - 2):
            rewound.append(chunk["offset"])
            del have[max(0, len(have) - 300_000) :]
            return len(have)
        return None

    master.take_logs = forgetful
    program = f"import sys,random;sys.stdout.buffer.write(random.Random(5).randbytes({size}))"
    master.order(1, f'python3 -c "{program}"')
    machine.start()
    result = master.result(1)
    assert (result["exit_code"], result["log_size"]) == (0, size)
    until(lambda: len(master.log(1)) == size)
    import random

    assert master.log(1) == random.Random(5).randbytes(size)
    assert len(rewound) == 5
    assert all(len(sync["logs"]) <= 4 for sync in master.syncs)
    until(lambda: not machine.state("logs/1").exists())


def test_a_log_that_is_cut_by_the_master_holds_up_nothing(master: FakeMaster, machine: AgentBox) -> None:
    beyond_every_log = 1 << 61
    master.take_logs = lambda chunk, have: beyond_every_log
    master.order(1, "head -c 3000000 /dev/zero; while [ ! -e go ]; do sleep 0.02; done; echo end")
    machine.start()
    until(lambda: any(sync["logs"] for sync in master.syncs))
    (machine.state("work/1") / "go").touch()
    assert master.result(1)["log_size"] == 3_000_004
    assert sum(len(sync["logs"]) for sync in master.syncs) == 1


# ---- enrolment -------------------------------------------------------------------------------------------------------


def test_enrolment_is_asked_again_until_the_launch_is_settled(master: FakeMaster, machine: AgentBox) -> None:
    master.enrol_answers = [(425, {"error": "not settled yet"}), (500, {}), (425, {"error": "not settled yet"})]
    machine.start()
    until(lambda: master.syncs)
    first, *repeats = master.enrolments
    assert len(repeats) == 3 and all(repeat == first for repeat in repeats)
    assert first["instance_id"] == "i-0123456789abcdef0" and first["secret"] == "7.secret"
    assert len(first["credential"]) == 64
    assert "not settled yet" in machine.said
    assert machine.state("identity").stat().st_mode & 0o777 == 0o600
    assert machine.state("credential").stat().st_mode & 0o777 == 0o600


def test_a_machine_that_is_refused_powers_off(master: FakeMaster, machine: AgentBox) -> None:
    master.enrol_answers = [(403, {"error": "the secret was used for this machine"})]
    machine.start()
    assert machine.wait() == 0
    assert machine.is_off and not master.syncs
    assert "the secret was used for this machine" in machine.said


def test_a_machine_that_finds_no_master_powers_off_after_its_lease(machines: Any) -> None:
    master = FakeMaster()
    machine = machines(master.url)
    master.close()
    machine.config["lease_s"] = 1
    machine.start()
    assert machine.wait() == 0
    assert machine.is_off and "no master let it in within 1 s" in machine.said


def test_a_copy_of_a_disk_is_another_machine(master: FakeMaster, machine: AgentBox) -> None:
    master.order(1, "echo secret > kept; while :; do sleep 0.02; done")
    machine.start()
    until(lambda: (machine.state("work/1") / "kept").exists())
    machine.close()
    master.orders.clear()
    (machine.root / "var/lib/cloud/data/instance-id").write_text("i-00000000000000002\n")
    machine.start()
    until(lambda: len(master.enrolments) == 2)
    first, second = master.enrolments
    assert second["credential"] != first["credential"]
    assert second["instance_id"] == "i-00000000000000002"
    until(lambda: master.syncs[-1]["known"] == [])
    assert not master.results, "what the first machine held is not the second one's"
    assert not machine.state("work/1").exists() and not machine.state("logs/1").exists()


# ---- the line to the master ------------------------------------------------------------------------------------------


def test_an_idle_agent_is_quiet_and_small(master: FakeMaster, machine: AgentBox) -> None:
    master.order(1, ":")
    machine.start()
    master.result(1)
    until(lambda: master.syncs[-1]["wait_s"] > 0 and not master.syncs[-1]["known"] and told_its_health(master))
    calls, used = len(master.syncs), _cpu_s(machine.pid)
    time.sleep(1.0)
    assert len(master.syncs) == calls
    assert _cpu_s(machine.pid) - used <= 0.02
    resident_kb = int(machine.status()["VmRSS"].split()[0])
    assert resident_kb <= 20 * 1024, f"{resident_kb} KB"
    assert machine.status()["Threads"] == "1"


@pytest.mark.parametrize("what", ["draining", "stop"])
def test_told_once_it_is_quiet_while_a_task_takes_its_time(what: str, master: FakeMaster, machine: AgentBox) -> None:
    """Neither a drain nor a stop, which the master says at every call, may make the two call each other without end."""
    master.order(1, "trap '' TERM; echo up; while [ ! -e go ]; do sleep 0.02; done", grace_s=30.0)
    machine.start()
    until(lambda: master.log(1) == b"up\n" and told_its_health(master))
    master.set(draining=True) if what == "draining" else master.stop(1)
    until(lambda: master.syncs[-1].get("draining") or master.syncs[-1].get("stopping"))
    calls = len(master.syncs)
    time.sleep(0.6)
    assert len(master.syncs) - calls <= 1
    (machine.state("work/1") / "go").touch()
    master.result(1)


def told_its_health(master: FakeMaster) -> bool:
    """Once after its start, which has nothing to do with the calls that are counted here."""
    return any("health" in sync for sync in master.syncs[:-1])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
