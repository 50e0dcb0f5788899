"""Computes the report of `examples/trace-report.yaml` a second way, in SQL, and says where the two differ.

It shares no code with the scripts that ran on the rented machines: an error would have to be made twice to stay unseen.
"""

import math
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

ROUNDING = 0.0051  # half of the second decimal, the coarsest that a report rounds to
WITH_INTERVAL = {"jobs_per_day", "p50", "p90", "p99"}

TABLES = """
CREATE TABLE job (submitted INTEGER NOT NULL, run_s INTEGER NOT NULL, processors INTEGER NOT NULL);
CREATE VIEW arrival AS
    SELECT CAST(strftime('%H', submitted, 'unixepoch') AS INTEGER) AS hour, date(submitted, 'unixepoch') AS day
    FROM job;
CREATE VIEW calendar AS
    WITH RECURSIVE day(day, last) AS (
        SELECT min(day), max(day) FROM arrival
        UNION ALL SELECT date(day, '+1 day'), last FROM day WHERE day < last)
    SELECT day FROM day;
CREATE VIEW hourly AS
    WITH RECURSIVE clock(hour) AS (SELECT 0 UNION ALL SELECT hour + 1 FROM clock WHERE hour < 23)
    SELECT hour, count(day) AS jobs, count(day) * 1.0 / (SELECT count(*) FROM calendar) AS jobs_per_day
    FROM clock LEFT JOIN arrival USING (hour) GROUP BY hour;
CREATE VIEW classed AS
    WITH RECURSIVE class(low, high) AS (
        VALUES (0, 1)
        UNION ALL SELECT high, high * 2 FROM class WHERE high < (SELECT max(processors) FROM job))
    SELECT 'overall' AS class, run_s, processors FROM job
    UNION ALL
    SELECT CAST(high AS TEXT), run_s, processors FROM job JOIN class ON processors > low AND processors <= high;
CREATE VIEW run_time AS
    WITH ranked AS (
        SELECT *, row_number() OVER (PARTITION BY class ORDER BY run_s) AS rank, count(*) OVER (PARTITION BY class) AS n
        FROM classed)
    SELECT class, count(*) AS jobs,
        min(run_s) FILTER (WHERE rank * 100 >= n * 50) AS p50,
        min(run_s) FILTER (WHERE rank * 100 >= n * 90) AS p90,
        min(run_s) FILTER (WHERE rank * 100 >= n * 99) AS p99,
        max(run_s) AS max,
        sum(run_s * processors) / 3600.0 AS machine_hours
    FROM ranked GROUP BY class;
"""


def expected_report(trace: Path) -> dict[str, Any]:
    """What a right report of this trace says, but for confidence intervals and definitions."""
    text = trace.read_text(encoding="utf-8")
    header = dict(re.findall(r"^; *(UnixStartTime|TimeZone): *(-?\d+)", text, re.MULTILINE))
    local_start = int(header["UnixStartTime"]) + int(header["TimeZone"])
    fields = re.findall(r"^ *\d+ +(\d+) +-?\d+ +(\d+) +(\d+) ", text, re.MULTILINE)
    with closing(sqlite3.connect(":memory:")) as db:
        db.row_factory = sqlite3.Row
        db.executescript(TABLES)
        db.executemany(f"INSERT INTO job VALUES ({local_start} + ?, ?, ?)", fields)  # noqa: S608 - an int

        def rows(query: str) -> list[dict[str, Any]]:
            return [dict(row) for row in db.execute(query)]

        classes = {row.pop("class"): row for row in rows("SELECT * FROM run_time")}
        overall = classes.pop("overall")
        by_day = rows("SELECT day, count(hour) AS jobs FROM calendar LEFT JOIN arrival USING (day) GROUP BY day")
        return {
            "trace": trace.name,
            "jobs": overall["jobs"],
            "days": len(by_day),
            "busiest_hour": rows("SELECT * FROM hourly ORDER BY jobs DESC, hour LIMIT 1")[0],
            "quietest_hour": rows("SELECT * FROM hourly ORDER BY jobs, hour LIMIT 1")[0],
            "jobs_by_day": {row["day"]: row["jobs"] for row in by_day},
            "run_time_s": {"overall": overall, "by_processors": classes},
            "machine_hours": overall["machine_hours"],
        }


def differences(report: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """A sentence for each figure that is missing, wrong, or outside its own interval. None: they agree."""
    return list(_differences(report, expected, ""))


def _differences(report: Mapping[str, Any], expected: Mapping[str, Any], at: str) -> Iterator[str]:
    for key, right in expected.items():
        name = at + key
        found = report.get(key)
        if isinstance(right, Mapping):
            if isinstance(found, Mapping):
                yield from _differences(found, right, f"{name}.")
            else:
                yield f"{name} is missing from the report."
        elif found is None:
            yield f"{name} is missing from the report; it should be {right}."
        elif not _equal(found, right):
            yield f"{name} is {found} in the report but should be {right}."
        elif key in WITH_INTERVAL and not _brackets(report.get(f"{key}_interval"), found):
            yield f"{name} is {found}, which its interval {report.get(f'{key}_interval')} does not bracket."
    if at.endswith((".by_processors.", "jobs_by_day.")):
        yield from (f"{at}{key} is in the report but not in the trace." for key in report if key not in expected)


def _equal(found: object, right: object) -> bool:
    if isinstance(right, float):
        return isinstance(found, int | float) and math.isclose(found, right, rel_tol=0, abs_tol=ROUNDING)
    return type(found) is type(right) and found == right


def _brackets(interval: object, value: float) -> bool:
    match interval:
        case [int() | float() as low, int() | float() as high]:
            return low <= value <= high
    return False
