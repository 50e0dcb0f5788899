"""The output file: what a task may say to later ones, and every way in which it can be nonsense."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_master import AgentBox, FakeMaster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.agents.exchange import OutputsMessage


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("ROWS=12\n", {"ROWS": "12"}),
        ("A=1\nB=two words \n\nA=3", {"A": "3", "B": "two words "}),
        ("URL=http://x/?a=b<<c\r\n", {"URL": "http://x/?a=b<<c"}),
        ('QUOTED="it\'s" $(touch x) `y`\n', {"QUOTED": '"it\'s" $(touch x) `y`'}),
        ("EMPTY=\n", {"EMPTY": ""}),
        ("TEXT<<END\none\n\n  two=2\nEND\nB=1\n", {"TEXT": "one\n\n  two=2", "B": "1"}),
        ("TEXT<<E\r\none\r\nE\r\n", {"TEXT": "one"}),
        ("NONE<<E\nE\n", {"NONE": ""}),
        ("é=1\nÜ<<E\nE\nK=grüß dich\n", {"K": "grüß dich"}),
        ("", {}),
    ],
)
def test_what_a_task_may_say(content: str, values: dict[str, str], agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.write_bytes(content.encode())
    assert agent.outputs.read(str(path))["values"] == values


@pytest.mark.parametrize(
    ("content", "values", "trouble"),
    [
        (b"A=1\nnonsense\nB=2\n", {"A": "1", "B": "2"}, "line 2 is not KEY=value"),
        (b"A B=1\n", {}, "line 1: 'A B' is no name of a variable"),
        (b"A=1\nB<<END\nlost\n", {"A": "1"}, "line 2: no line 'END' follows"),
        (b"B<<\nlost\n", {}, "line 1: no line '' follows"),
        (b"A=\xff\nB=\0\nC=3\n", {"C": "3"}, "A has bytes that no text has; B has bytes"),
        (b"x\n" * 5, {}, "line 3 is not KEY=value, and 2 more"),
        (b"A=" + b"x" * (16 << 10), {}, "is over 16384 bytes"),
    ],
)
def test_what_is_none_is_told_and_the_rest_counts(
    content: bytes, values: dict[str, str], trouble: str, agent: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "output"
    path.write_bytes(content)
    told = agent.outputs.read(str(path))
    assert told["values"] == values
    assert trouble in told["trouble"]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text(alphabet="AB=<\n\r E", max_size=80).map(str.encode))
def test_whatever_it_says_the_master_takes_it(content: bytes, agent: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.write_bytes(content)
    told: dict[str, Any] = agent.outputs.read(str(path))
    taken = OutputsMessage.model_validate_json(json.dumps(told))
    assert (taken.values, taken.trouble) == (told["values"], told.get("trouble")), "the agent's word, not a refusal"


def test_it_goes_up_with_the_result(master: FakeMaster, machine: AgentBox) -> None:
    master.slots = 2
    master.order(
        1, 'echo ROWS=12 >> "$ORCHESTRATOR_OUTPUT"; printf "T<<E\\na\\nb\\nE\\n" >> "$ORCHESTRATOR_OUTPUT"; exit 3'
    )
    master.order(2, "true")
    machine.start()
    assert master.result(1)["outputs"] == {"values": {"ROWS": "12", "T": "a\nb"}}
    assert "outputs" not in master.result(2)


def test_the_largest_file_has_its_room_in_the_journal(agent: SimpleNamespace, tmp_path: Path) -> None:
    control, output = tmp_path / "control", tmp_path / "output"
    control.write_text(json.dumps({"params": {"A": "ü" * 2000}}, ensure_ascii=False))
    output.write_text("A=" + "ü" * (8 * 1024 - 10))
    result = {"outcome": "exited", "control": agent.control.read(str(control)), "outputs": agent.outputs.read(str(output))}
    assert "trouble" not in result["control"] and "trouble" not in result["outputs"]
    assert len(json.dumps(result)) < agent.journal.Journal.ROOM - 4096
