"""Processes that do not want to go: deaf to TERM, in sessions of their own, children of children. All end with their attempt."""

from __future__ import annotations

import os
import signal

import pytest
from fake_master import AgentBox, FakeMaster, until
from test_agent_process import pids_of

FAMILY = """
trap '' TERM
sleep {mark} &                                            # of the group, deaf to TERM as its parent is
(setsid sh -c "trap '' TERM; sleep {mark} & wait" &)      # left the group, has a child, deaf too
(setsid setsid sleep {mark} &)
(setsid sh -c 'trap "echo told >> told" TERM; sleep {mark} & wait; wait' &)
echo up
while :; do sleep 0.02; done
"""


@pytest.fixture
def mark() -> str:
    return f"86400.{os.getpid()}73"


def test_a_time_limit_ends_the_whole_family(master: FakeMaster, machine: AgentBox, mark: str) -> None:
    master.order(1, FAMILY.format(mark=mark), timeout_s=1.5, grace_s=0.5)
    machine.start()
    until(lambda: master.log(1) == b"up\n" and len(pids_of(mark)) == 4)
    result = master.result(1)
    assert (result["outcome"], result["exit_code"]) == ("killed", -signal.SIGKILL)
    until(lambda: not pids_of(mark))


def test_who_left_the_group_hears_term_too_and_everybody_hears_it_once(
    master: FakeMaster, machine: AgentBox, mark: str
) -> None:
    """A second TERM means "at once" to many programs."""
    polite = 'trap \'echo told >> "$OUT"; exit\' TERM; echo up >> "$OUT"; while :; do sleep 0.02; done'
    out = machine.root / "out"
    run = f"(setsid sh -c '{polite.replace(chr(39), chr(39) + chr(92) + chr(39) + chr(39))}' &)\n{polite}"
    master.order(1, run, timeout_s=1.5, grace_s=20.0, OUT=str(out))
    machine.start()
    assert master.result(1)["outcome"] == "timed_out"
    assert sorted(out.read_text().split()) == ["told", "told", "up", "up"]


def test_a_cancelled_attempt_leaves_nobody(master: FakeMaster, machine: AgentBox, mark: str) -> None:
    master.order(1, f"(setsid sh -c \"trap '' TERM; sleep {mark}; :\" &)\necho up; sleep 86400", grace_s=0.3)
    machine.start()
    until(lambda: master.log(1) == b"up\n" and pids_of(mark))
    master.stop(1)
    assert master.result(1)["outcome"] == "cancelled"
    assert not pids_of(mark), "before its end is told"


def test_what_a_job_leaves_in_a_session_of_its_own_is_swept_and_other_jobs_are_spared(
    master: FakeMaster, machine: AgentBox, mark: str
) -> None:
    master.slots = 2
    other = mark + "1"
    master.order(1, f"(setsid sleep {other} &); echo up; while [ ! -e go ]; do sleep 0.02; done")
    master.order(2, f"(setsid sleep {mark} &); exit 0")
    machine.start()
    assert master.result(2)["exit_code"] == 0
    until(lambda: not pids_of(mark), 30)
    assert len(pids_of(other)) == 1
