#!/usr/bin/env python3
"""When do jobs arrive? Counts by local hour and by day; for each hour the mean per day with its interval.

Days are resampled whole: jobs of one day come in bursts, so single jobs are no independent sample.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from resampling import INTERVAL, arguments, intervals
from swf import Job, read_trace, write_json

HOURS = range(24)
DAY_S = 86_400


def hours_by_day(jobs: list[Job]) -> dict[str, list[int]]:
    """The 24 hourly counts of each date from the first job to the last, idle dates too."""
    counts = Counter((job.date, job.hour) for job in jobs)
    first = min(job.local_s for job in jobs) // DAY_S
    last = max(job.local_s for job in jobs) // DAY_S
    dates = [time.strftime("%Y-%m-%d", time.gmtime(day * DAY_S)) for day in range(first, last + 1)]
    return {date: [counts[date, hour] for hour in HOURS] for date in dates}


def mean_by_hour(days: list[list[int]]) -> list[float]:
    return [sum(day[hour] for day in days) / len(days) for hour in HOURS]


def main() -> None:
    chosen = arguments("Counts the jobs of a trace by local hour and by day.", resamples=25_000)
    jobs = read_trace(chosen.trace)
    by_day = hours_by_day(jobs)
    days = list(by_day.values())
    print(f"{len(jobs)} jobs on {len(days)} days; resampling the days {chosen.resamples} times", flush=True)
    means = mean_by_hour(days)
    spans = intervals(days, mean_by_hour, chosen.resamples, chosen.seed)

    by_hour = []
    for hour in HOURS:
        low, high = (round(bound, 3) for bound in spans[hour])
        by_hour.append(
            {
                "hour": hour,
                "jobs": sum(day[hour] for day in days),
                "jobs_per_day": round(means[hour], 3),
                "jobs_per_day_interval": [low, high],
            }
        )
        print(f"  {hour:02d}h {means[hour]:6.1f} jobs a day  [{low:.1f}, {high:.1f}]", flush=True)

    write_json(
        chosen.out,
        {
            "trace": Path(chosen.trace).name,
            "jobs": len(jobs),
            "days": len(days),
            "by_hour": by_hour,
            "by_day": {date: sum(hours) for date, hours in by_day.items()},
            "interval": f"{INTERVAL} over days, {chosen.resamples} resamples, seed {chosen.seed}",
        },
    )


if __name__ == "__main__":
    main()
