"""The control file: what a job may ask for, and every way in which it can ask for nonsense."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_master import AgentBox, FakeMaster, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.agents.exchange import ControlMessage


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"retry": "now"}', {"retry_after_s": 0.0}),
        ('{"retry": "15m"}', {"retry_after_s": 900.0}),
        ('{"retry": 90}', {"retry_after_s": 90.0}),
        ('{"retry": "1.5h"}', {"retry_after_s": 5400.0}),
        ('{"retry": "never"}', {"never": True}),
        ('{"params": {"FROM": "12:00"}}', {"params": {"FROM": "12:00"}}),
        (' {"retry": "now", "params": {}}\n', {"retry_after_s": 0.0, "params": {}}),
        ('{"progress": 0.5, "note": "half"}', {"progress": 0.5, "note": "half"}),
        (
            '{"progress": 0}\n{"progress": 1, "note": "n"}\n\n{"retry": "now"}\n',
            {"progress": 1.0, "note": "n", "retry_after_s": 0.0},
        ),
        ('{"retry": "never"}\n{"retry": "15m"}\n', {"retry_after_s": 900.0}),
        ('{"note": "' + "x" * 300 + '"}', {"note": "x" * 200}),
        ('{"progress": 0.1}\n' * 400 + '{"progress": 0.9}\n', {"progress": 0.9}),
        ('{"retry": "' + "9" * 4000 + 'd"}', {"retry_after_s": 1e9}),
    ],
)
def test_what_a_job_may_ask_for(content: str, told: dict[str, Any], agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "control"
    path.write_text(content)
    assert agent.control.read(str(path)) == told


@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        ("retry=now", "is not JSON"),
        ("", "is not JSON"),
        ("[" * 4000, ""),
        ("[]", "must be an object"),
        ("{}", "must be an object"),
        ('{"retry": "now", "budget": 9}', "with the keys"),
        ('{"progress": 1.1}', "a number from 0 to 1"),
        ('{"progress": NaN}', "a number from 0 to 1"),
        ('{"progress": true}', "a number from 0 to 1"),
        ('{"note": 1}', "note must be a text"),
        ('{"progress": 0.1}\n{"progr', "is not JSON"),
        ('{"retry": "soon"}', 'must be "now", "never" or a duration'),
        ('{"retry": -5}', "a duration"),
        ('{"retry": true}', "a duration"),
        ('{"retry": null}', "a duration"),
        ('{"params": ["A"]}', "an object of names and texts"),
        ('{"params": {"A": 1}}', "an object of names and texts"),
        ('{"params": {"A B": "1"}}', "no environment variable can have: 'A B'"),
        ('{"params": {"A": "\\u0000"}}', "params.A has a NUL"),
        ('{"params": {"A": "\\ud800"}}', "params.A has a NUL byte or half"),
        ('{"params": {"A": "' + "x" * 4096 + '"}}', "is over 4096 bytes"),
    ],
)
def test_what_is_none_says_why(content: str, trouble: str, agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "control"
    path.write_text(content)
    assert set(told := agent.control.read(str(path))) == {"trouble"}
    assert trouble in told["trouble"]


def test_no_file_link_pipe_or_folder_is_followed_or_waited_for(agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "control"
    assert agent.control.read(str(path)) is None
    (tmp_path / "elsewhere").write_text('{"retry": "now"}')
    path.symlink_to(tmp_path / "elsewhere")
    assert "cannot be read" in agent.control.read(str(path))["trouble"]
    path.unlink()
    os.mkfifo(path)
    assert agent.control.read(str(path)) == {"trouble": "is not a plain file"}
    path.unlink()
    path.mkdir()
    assert agent.control.read(str(path)) == {"trouble": "is not a plain file"}


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.floats(), lambda x: st.dictionaries(st.text(), x))
)
def test_whatever_it_says_the_master_takes_it(content: Any, agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "control"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps({"params": content}).encode())
    told = agent.control.read(str(path))
    taken = ControlMessage.model_validate_json(json.dumps(told))
    assert taken.trouble == told.get("trouble"), "the agent's word, not the master's refusal"


def test_a_watch_tells_what_is_new_and_nothing_half_written(agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "control"
    watch = agent.control.Watch(str(path))
    watch.look(0.0)
    assert watch.news is None
    path.write_text('{"progress": 0.1}')
    watch.look(0.5)
    assert watch.news is None, "looked at a moment ago"
    watch.look(1.5)
    assert watch.news == {"progress": 0.1}
    path.write_text('{"progress": 0.2, "no')
    watch.look(3.0)
    assert watch.news == {"progress": 0.1}
    path.write_text('{"progress": 0.2, "note": "n"}')
    watch.look(4.5)
    watch.told({"progress": 0.1})
    assert watch.news == {"progress": 0.2, "note": "n"}, "what was told is the one before"
    watch.told({"progress": 0.2, "note": "n"})
    path.write_text('{"note": "n", "progress": 0.2}\n')
    watch.look(6.0)
    assert watch.news is None


def test_it_goes_up_with_the_result(master: FakeMaster, machine: AgentBox) -> None:
    master.slots = 3
    master.order(1, """echo '{"retry": "15m", "params": {"FROM": "7"}}' > "$ORCHESTRATOR_CONTROL"; exit 75""")
    master.order(2, 'echo nonsense > "$ORCHESTRATOR_CONTROL"; exit 1')
    master.order(3, 'echo "$ORCHESTRATOR_CONTROL"; exit 1', ORCHESTRATOR_CONTROL="/etc/passwd")
    machine.start()
    assert master.result(1)["control"] == {"retry_after_s": 900.0, "params": {"FROM": "7"}}
    assert "is not JSON" in master.result(2)["control"]["trouble"]
    assert "control" not in master.result(3)
    assert master.log(3).decode().startswith(str(machine.state("work/3"))), (
        "in its own work folder, whatever its params say"
    )
    until(lambda: not machine.state("work/1").exists())
