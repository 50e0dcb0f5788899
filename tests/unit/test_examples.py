"""The examples do what they say: the scripts' figures agree with the same figures computed in SQL."""

import ast
import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.demo.verify import differences, expected_report

EXAMPLES = Path(__file__).parents[2] / "examples"
JOBS = EXAMPLES / "jobs"
TRACES = sorted((EXAMPLES / "data").glob("*.swf"))
JOB_FILES = sorted(EXAMPLES.glob("*.yaml"))


def file_name(path: Path) -> str:
    return path.name


def run(script: str, *arguments: str | Path) -> str:
    command = [sys.executable, JOBS / script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module", params=TRACES, ids=file_name)
def trace(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(scope="module")
def report(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("out") / "made by the scripts"
    few = ("--resamples", "100")
    printed = [
        run("arrivals.py", trace, out / "arrivals.json", *few),
        run("percentiles.py", trace, out / "percentiles.json", *few),
        run("merge.py", out / "arrivals.json", out / "percentiles.json", out / "report.json"),
    ]
    assert all(len(text.splitlines()) >= 4 for text in printed), "each tells its progress"
    assert sorted(path.name for path in out.iterdir()) == ["arrivals.json", "percentiles.json", "report.json"]
    merged: dict[str, Any] = json.loads((out / "report.json").read_text())
    return merged


def test_there_are_two_small_extracts() -> None:
    assert len(TRACES) == 2
    assert sum(path.stat().st_size for path in TRACES) < 300_000


def test_an_extract_names_its_source_and_its_part(trace: Path) -> None:
    header = [line for line in trace.read_text().splitlines() if line.startswith(";")]
    assert "EXTRACT of NASA-iPSC-1993-3.1-cln.swf, Parallel Workloads Archive" in header[0]
    assert "; Acknowledge: Bill Nitzberg" in header
    assert "; Installation: NASA Ames Research Center" in header
    part = header[0].rpartition(": ")[2]
    jobs = len(trace.read_text().splitlines()) - len(header)
    readme = (EXAMPLES / "data/README.md").read_text()
    assert any(f"`{trace.name}`" in row and f"| {part} | {jobs} |" in row for row in readme.splitlines())


def test_the_scripts_agree_with_sql(trace: Path, report: dict[str, Any]) -> None:
    expected = expected_report(trace)
    assert differences(report, expected) == []
    assert expected["days"] == 14
    assert sum(expected["jobs_by_day"].values()) == expected["jobs"] == report["jobs"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["jobs"], 1),
        (["busiest_hour", "hour"], 3),
        (["quietest_hour", "jobs_per_day"], 1000.0),
        (["jobs_by_day"], None),
        (["jobs_by_day", "1999-12-31"], 1),
        (["machine_hours"], 0.5),
        (["run_time_s", "overall", "p50"], -1),
        (["run_time_s", "overall", "p90_interval"], [0, 0]),
        (["run_time_s", "overall", "p99_interval"], None),
        (["run_time_s", "by_processors", "32", "max"], "long"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, list) and isinstance(value[0], str) else "",
)
def test_a_tampered_report_is_found_out(trace: Path, report: dict[str, Any], path: list[str], value: object) -> None:
    tampered = place = copy.deepcopy(report)
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    [sentence] = differences(tampered, expected_report(trace))
    assert sentence.startswith(".".join(path).removesuffix("_interval"))
    assert sentence.endswith(".")


def test_one_lost_job_is_found_out(trace: Path, report: dict[str, Any], tmp_path: Path) -> None:
    shorter = tmp_path / trace.name
    shorter.write_text("\n".join(trace.read_text().splitlines()[:-1]) + "\n")
    found = differences(report, expected_report(shorter))
    assert f"jobs is {report['jobs']} in the report but should be {report['jobs'] - 1}." in found


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    for name, seed in [("one", "1"), ("again", "1"), ("other", "2")]:
        run("percentiles.py", TRACES[0], tmp_path / name, "--resamples", "20", "--seed", seed)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "again").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()


def test_idle_days_gaps_and_odd_sizes_are_counted(tmp_path: Path) -> None:
    trace = tmp_path / "tiny.swf"
    lines = ["1 0 -1 10 3 -1", "2 3599 -1 20 4 -1", "3 172800 -1 30 5 -1"]
    trace.write_text("\n".join(["; UnixStartTime: 3600", "; TimeZone: -3600", *lines]) + "\n")
    run("arrivals.py", trace, tmp_path / "a.json", "--resamples", "10")
    run("percentiles.py", trace, tmp_path / "p.json", "--resamples", "10")
    run("merge.py", tmp_path / "a.json", tmp_path / "p.json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert differences(report, expected_report(trace)) == []
    assert report["jobs_by_day"] == {"1970-01-01": 2, "1970-01-02": 0, "1970-01-03": 1}
    assert {size: found["jobs"] for size, found in report["run_time_s"]["by_processors"].items()} == {"4": 2, "8": 1}
    assert report["run_time_s"]["overall"]["p50"] == 20
    assert (report["busiest_hour"]["hour"], report["quietest_hour"]["hour"]) == (0, 1)


def test_results_of_two_traces_do_not_merge(tmp_path: Path) -> None:
    run("arrivals.py", TRACES[0], tmp_path / "a.json", "--resamples", "1")
    run("percentiles.py", TRACES[1], tmp_path / "p.json", "--resamples", "1")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        run("merge.py", tmp_path / "a.json", tmp_path / "p.json", tmp_path / "r.json")
    assert "not of the same trace" in refused.value.stderr
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("script", sorted(JOBS.glob("*.py")), ids=file_name)
def test_a_script_needs_only_python_3_8_and_its_library(script: Path) -> None:
    tree = ast.parse(script.read_text(), feature_version=(3, 8))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    own = {path.stem for path in JOBS.glob("*.py")}
    assert {str(name).partition(".")[0] for name in imported} <= sys.stdlib_module_names | own
    assert "from __future__ import annotations" in script.read_text()


@pytest.mark.parametrize("path", JOB_FILES, ids=file_name)
def test_a_job_file_names_files_that_exist(path: Path) -> None:
    job = yaml.safe_load(path.read_text())
    assert {"name", "client", "token", "infrastructure"} <= job.keys()
    assert job["name"] == path.stem
    for param in {"TRACE", "JOBS"} & job.get("params", {}).keys():
        assert (EXAMPLES.parent / job["params"][param]).exists()


def test_the_commands_of_the_job_file_run(tmp_path: Path) -> None:
    job = yaml.safe_load((EXAMPLES / "trace-report.yaml").read_text())
    environment = {**os.environ, **job["params"], "OUT": str(tmp_path / "out of here")}
    for task in job["tasks"]:
        subprocess.run(["sh", "-c", task["run"]], check=True, env=environment, cwd=EXAMPLES.parent)
    report = json.loads((tmp_path / "out of here/report.json").read_text())
    assert differences(report, expected_report(EXAMPLES.parent / job["params"]["TRACE"])) == []
