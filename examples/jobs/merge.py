#!/usr/bin/env python3
"""One report of what `arrivals.py` and `percentiles.py` found in the same trace."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from swf import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description="Merges the arrivals and the run times of a trace into one report.")
    parser.add_argument("arrivals", metavar="ARRIVALS.json")
    parser.add_argument("percentiles", metavar="PERCENTILES.json")
    parser.add_argument("out", metavar="OUT.json")
    chosen = parser.parse_args()

    arrivals = json.loads(Path(chosen.arrivals).read_text(encoding="utf-8"))
    run_times = json.loads(Path(chosen.percentiles).read_text(encoding="utf-8"))
    for same in ("trace", "jobs"):
        if arrivals[same] != run_times[same]:
            raise SystemExit(f"not of the same trace: {same} is {arrivals[same]} here, {run_times[same]} there")

    busiest = max(arrivals["by_hour"], key=lambda hour: hour["jobs"])  # of equals, the earliest
    quietest = min(arrivals["by_hour"], key=lambda hour: hour["jobs"])
    overall = run_times["run_time_s"]["overall"]
    print(f"{arrivals['trace']}: {arrivals['jobs']} jobs on {arrivals['days']} days", flush=True)
    print(f"  busiest hour {busiest['hour']:02d}h, {busiest['jobs_per_day']} jobs a day", flush=True)
    print(f"  quietest hour {quietest['hour']:02d}h, {quietest['jobs_per_day']} jobs a day", flush=True)
    print(f"  half of the jobs ran {overall['p50']} s or less, the longest {overall['max']} s", flush=True)
    print(f"  {overall['machine_hours']} machine-hours", flush=True)

    write_json(
        chosen.out,
        {
            "trace": arrivals["trace"],
            "jobs": arrivals["jobs"],
            "days": arrivals["days"],
            "busiest_hour": busiest,
            "quietest_hour": quietest,
            "jobs_by_day": arrivals["by_day"],
            "run_time_s": run_times["run_time_s"],
            "machine_hours": overall["machine_hours"],
            "definitions": {
                "hour": "local hour of the day, 0 to 23, at which the trace says the job was submitted",
                "jobs_per_day_interval": arrivals["interval"],
                "by_processors": "classes by the next power of two: 4 is jobs of 3 or 4 processors",
                "percentile": run_times["percentile"],
                "percentile_interval": run_times["interval"],
                "machine_hours": "run time times processors, summed: each processor counts as one machine",
            },
        },
    )


if __name__ == "__main__":
    main()
