"""The job file's own tools: errors by line without a master, and the schema that editors use."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestrator.jobs.lines import report
from orchestrator.jobs.schema import job_schema
from orchestrator.jobs.spec import SpecError, parse

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "docs" / "job.schema.json"
GOOD = [
    text
    for path in (ROOT / "docs" / "jobs.md", ROOT / "docs" / "templates.md")
    for text in re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL)
] + [path.read_text() for path in (ROOT / "examples").glob("*.yaml")]
BAD = """\
name: bad
client: acme
tiemout: 5m
params:
  DAY: 2025
schedule: {daily: 12:30}
tasks:
  - name: a
    run: "true"
  -
    run: "true"
    retry: {attempts: 0}
"""


def told(text: str, name: str = "job.yaml") -> list[str]:
    with pytest.raises(SpecError) as refused:
        parse(text)
    return report(name, text, refused.value.problems)


def test_errors_name_the_line_of_their_field() -> None:
    lines = [
        re.match(r"job\.yaml:(\d+): ([\w.\[\]$]+): .+; .+|job\.yaml:(\d+): ([\w.\[\]$]+): ", each) for each in told(BAD)
    ]
    places = [(int(line[1] or line[3]), line[2] or line[4]) for line in lines if line]
    assert places == [
        (3, "tiemout"),
        (5, "params.DAY"),
        (6, "schedule.daily[0]"),
        (11, "tasks[1].name"),
        (12, "tasks[1].retry.attempts"),
    ]


def test_lines_of_json_with_tabs_and_of_what_is_no_yaml() -> None:
    text = '{\n\t"name": "x",\n\t"client": "acme",\n\t"run": "true",\n\t"priority": "high"\n}\n'
    assert told(text)[0].startswith("job.yaml:5: priority: ")
    assert told("name: [x\nrun: y")[0].startswith("job.yaml:2: $: not valid YAML")
    assert told("")[0].startswith("job.yaml:1: $: a job file is a mapping")


def test_one_error_is_one_line_whatever_stands_in_the_file() -> None:
    assert len(told('name: x\nclient: acme\nrun: x\npriority: "a\\nb"')) == 1
    assert "\n" not in told('name: x\nclient: acme\nrun: x\npriority: "a\\nb"')[0]


def test_validate_needs_no_master(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("name: x\nclient: acme\nrun: true\n".replace("true", "'true'"))
    (tmp_path / "bad.yaml").write_text(BAD)

    def validate(*files: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "orchestrator", "template", "validate", *files]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    good = validate("good.yaml")
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    bad = validate("good.yaml", "bad.yaml", "nowhere.yaml")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.splitlines()[0] == "bad.yaml:3: tiemout: unknown field; remove it or mend its spelling"
    assert bad.stderr.splitlines()[-1].startswith("nowhere.yaml: cannot be read")


# ---- the schema ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = job_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_published_schema_is_that_of_the_models() -> None:
    assert json.loads(PUBLISHED.read_text()) == job_schema(), "orchestrator template schema > docs/job.schema.json"


@pytest.mark.parametrize("text", GOOD)
def test_it_takes_every_job_file_of_the_documents(validator: Any, text: str) -> None:
    document = yaml.safe_load(text)
    assert [error.message for error in validator.iter_errors(document)] == []
    validator.validate(parse(text).document)  # and each canonical one
    assert parse(parse(text).document).version == parse(text).version


@pytest.mark.parametrize(
    "wrong",
    [
        {"tiemout": "5m"},
        {"params": {"N": 5}},
        {"params": {"N": {"type": "date"}}},
        {"schedule": "sometimes"},
        {"timeout": "soon"},
        {"retry": {"delay": "soon"}},
        {"name": "with space"},
        {"tasks": [{"name": "a", "run": "true"}]},
    ],
)
def test_it_refuses_what_the_master_refuses(validator: Any, wrong: dict[str, Any]) -> None:
    document = {"name": "x", "client": "acme", "run": "true", **wrong}
    with pytest.raises(SpecError):
        parse(document)
    assert not validator.is_valid(document)
