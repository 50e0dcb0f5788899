"""What the documents say holds: job files in them are accepted, settings and commands are all told of."""

import inspect
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer

from orchestrator.cli.main import app
from orchestrator.clouds import GROUP
from orchestrator.jobs.spec import parse
from orchestrator.settings import CloudSettings, Settings

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = [
    (path.name, text)
    for path in (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("jobs", "notifications", "templates")))
    for text in re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL)
]


@pytest.mark.parametrize(("name", "text"), BLOCKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BLOCKS)])
def test_job_files_in_the_documents_are_accepted(name: str, text: str) -> None:
    assert parse(text).tasks


def test_every_setting_is_documented_and_every_documented_one_is_there() -> None:
    told = set(re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE))
    documented = {name for cell in told for name in re.findall(r"`([a-z_]+)`", cell)}
    ours = [point for point in entry_points(group=GROUP) if point.value.startswith("providers.")]
    options = {name for point in ours for name in inspect.signature(point.load()).parameters}
    known = set(Settings.model_fields) | set(CloudSettings.model_fields) | options
    assert documented == known - {"clouds", "installation"}


def test_links_between_documents_lead_somewhere() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} → {target}"


def test_every_command_is_documented_and_every_documented_one_is_there() -> None:
    def names(command: object, path: str) -> set[str]:
        inner = getattr(command, "commands", None)
        return set().union(*(names(each, f"{path} {name}") for name, each in inner.items())) if inner else {path.strip()}

    commands = names(typer.main.get_command(app), "")
    told = re.findall(r"^\| `([a-z -]+)` \|", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE)
    assert set(told) == commands


def test_every_test_that_the_documents_name_is_there() -> None:
    document = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`((?:tests|providers)/[\w/]+\.py)::(test_\w+)`", document)
    faults = document.partition("## Faults")[2].partition("\n## ")[0]
    untested = [row for row in re.findall(r"^\| (?!fault |---).*", faults, re.MULTILINE) if "::test_" not in row]
    assert named
    assert not untested, "each fault has the test that shows it"
    for path, name in named:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"
