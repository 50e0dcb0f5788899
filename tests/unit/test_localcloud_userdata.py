"""How the local cloud reads user data and bends it below a machine's own root. No process, no cloud."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path

import pytest
import yaml

from providers.localcloud import faults, userdata


def config(**keys: object) -> bytes:
    return b"#cloud-config\n" + yaml.safe_dump(keys).encode()


def test_cloud_config_gives_files_and_commands_in_order() -> None:
    boot = userdata.read(
        config(
            write_files=[
                {"path": "/opt/a.sh", "content": "x", "permissions": "0755"},
                {"path": "/opt/b", "content": "y"},
            ],
            runcmd=["echo one", ["sh", "/opt/a.sh", 2]],
        )
    )
    assert boot.files == (userdata.File("/opt/a.sh", b"x", 0o755), userdata.File("/opt/b", b"y", 0o644))
    assert boot.commands == (("sh", "-c", "echo one"), ("sh", "/opt/a.sh", "2"))
    assert boot.remarks == ()


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("", "héllo"),
        ("b64", base64.b64encode("héllo".encode()).decode()),
        ("base64", base64.b64encode("héllo".encode()).decode()),
        ("gz+b64", base64.b64encode(gzip.compress("héllo".encode(), mtime=0)).decode()),
        ("gzip+base64", base64.b64encode(gzip.compress("héllo".encode(), mtime=0)).decode()),
        ("gzip", gzip.compress("héllo".encode(), mtime=0)),
    ],
)
def test_contents_are_decoded(encoding: str, content: str | bytes) -> None:
    boot = userdata.read(config(write_files=[{"path": "/x", "content": content, "encoding": encoding}]))
    assert boot.files[0].content == "héllo".encode()


def test_gzip_of_everything() -> None:
    assert userdata.read(gzip.compress(config(runcmd=["true"]))).commands == (("sh", "-c", "true"),)


def test_script_is_written_and_run() -> None:
    boot = userdata.read(b"#!/bin/sh\ntrue\n")
    assert boot.files[0].content == b"#!/bin/sh\ntrue\n"
    assert boot.files[0].mode == 0o700
    assert boot.commands == ((boot.files[0].path,),)


@pytest.mark.parametrize(
    "broken",
    [
        b"#cloud-config\nruncmd: [unclosed",
        b"#cloud-config\n- a list",
        b"#cloud-config\nruncmd: [3]",
        b"#cloud-config\nwrite_files: [{path: relative}]",
        b"#cloud-config\nwrite_files: [{path: /x, encoding: b64, content: '%%%'}]",
        b"#cloud-config\nwrite_files: [{path: /x, permissions: rwx}]",
        b"\x1f\x8bnot gzip",
        b"Content-Type: multipart/mixed\n",
    ],
)
def test_broken_user_data_run_nothing_and_say_so(broken: bytes) -> None:
    boot = userdata.read(broken)
    assert boot.files == ()
    assert boot.commands == ()
    assert len(boot.remarks) == 1


def test_keys_that_are_not_done_are_named() -> None:
    assert userdata.read(config(packages=["x"], runcmd=["true"])).remarks == ("packages: is not done here",)
    assert userdata.read(b"").remarks == ()


def test_files_land_below_the_root(tmp_path: Path) -> None:
    boot = userdata.Boot((userdata.File("/etc/a", b"1\n", 0o600), userdata.File("/etc/a", b"2\n", 0o600, append=True)))
    userdata.write(boot, tmp_path)
    assert (tmp_path / "etc/a").read_bytes() == b"1\n2\n"
    assert (tmp_path / "etc/a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("path", ["/../out", "/a/../../out"])
def test_no_file_lands_elsewhere(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="out of the machine"):
        userdata.write(userdata.Boot((userdata.File(path, b""),)), tmp_path / "root")


@pytest.mark.parametrize(
    ("words", "moved"),
    [
        (("/opt/a", "x"), ("{root}/opt/a", "x")),
        (
            ("sh", "-c", "/opt/a --to=/opt/a; cat '/opt/a'"),
            ("sh", "-c", "{root}/opt/a --to={root}/opt/a; cat '{root}/opt/a'"),
        ),
        (("sh", "-c", "/opt/ab /x/opt/a /opt/a.sh"), ("sh", "-c", "/opt/ab /x/opt/a {root}/opt/a.sh")),
        (("sh", "-c", "/opt/a.sh."), ("sh", "-c", "{root}/opt/a.sh.")),
    ],
)
def test_paths_of_written_files_move_with_them(tmp_path: Path, words: tuple[str, ...], moved: tuple[str, ...]) -> None:
    files = [userdata.File("/opt/a", b""), userdata.File("/opt/a.sh", b"")]
    expected = [[word.format(root=tmp_path) for word in moved]]
    assert userdata.moved([words], files, tmp_path) == expected


def test_a_root_with_a_blank_stays_one_word(tmp_path: Path) -> None:
    root = tmp_path / "a machine"
    files = [userdata.File("/a", b"")]
    assert userdata.moved([("/a", "in /a")], files, root) == [[f"{root}/a", f"in '{root}/a'"]]


@pytest.mark.parametrize("rule", [{"typo": 1, "error": "X"}, {"action": "RunInstances"}, {"drop": "both"}])
def test_faults_without_sense_are_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"fault|drop"):
        faults.parse(rule)


def test_faults_strike_their_action_after_some_and_so_often() -> None:
    rules = faults.Faults()
    rules.add(faults.parse({"action": "A", "error": "X", "skip": 1, "times": 2}))
    assert rules.take("error", "B") is None
    assert [bool(rules.take("error", "A")) for _ in range(5)] == [False, True, True, False, False]
