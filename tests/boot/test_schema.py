"""cloud-init's own validator on our user data, as Debian 12 (22.4) and Debian 13 (25.1) ship it."""

from pathlib import Path

import pytest
from container import run_in_tree
from stub_master import StubMaster

from orchestrator.fleet.bootstrap import render_user_data

pytestmark = pytest.mark.boot

VERSIONS = [("bookworm", "22.4"), ("trixie", "25.1")]


@pytest.mark.parametrize(("suite", "version"), VERSIONS)
def test_user_data_is_valid(suite: str, version: str, master: StubMaster, tmp_path: Path) -> None:
    assert f" {version}." in run_in_tree(suite, tmp_path, "cloud-init", "--version").stdout
    status, said = validate(suite, render_user_data(master.params()), tmp_path)
    assert status == 0, said


@pytest.mark.parametrize(("suite", "version"), VERSIONS)
def test_the_validator_can_say_no(suite: str, version: str, tmp_path: Path) -> None:
    status, said = validate(suite, b"#cloud-config\nruncmd: 7\n", tmp_path)
    assert status != 0
    assert "runcmd" in said


def test_the_newer_validator_refuses_unknown_keys(tmp_path: Path) -> None:
    status, said = validate("trixie", b"#cloud-config\nwrite_filez: []\n", tmp_path)
    assert status != 0
    assert "write_filez" in said


def validate(suite: str, user_data: bytes, folder: Path) -> tuple[int, str]:
    """Exit status and words of the suite's `cloud-init schema`."""
    (folder / "user-data").write_bytes(user_data)
    done = run_in_tree(suite, folder, "cloud-init", "schema", "--config-file", "/given/user-data")
    return done.returncode, done.stdout
