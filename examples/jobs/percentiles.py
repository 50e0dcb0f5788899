#!/usr/bin/env python3
"""How long do jobs run? Percentiles of the run time with their intervals, overall and by processor-count class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resampling import INTERVAL, NEAREST_RANK, arguments, intervals, nearest_rank
from swf import Job, read_trace, write_json

PERCENTS = (50, 90, 99)


def percentiles(run_times_s: list[int]) -> list[float]:
    ordered = sorted(run_times_s)
    return [nearest_rank(ordered, percent) for percent in PERCENTS]


def summary(jobs: list[Job], resamples: int, seed: int) -> dict[str, Any]:
    """The run times of these jobs. The largest has no interval: a resample never exceeds it."""
    run_times_s = [job.run_s for job in jobs]
    result: dict[str, Any] = {"jobs": len(jobs)}
    values = percentiles(run_times_s)
    spans = intervals(run_times_s, percentiles, resamples, seed)
    for i, percent in enumerate(PERCENTS):
        result[f"p{percent}"] = values[i]
        result[f"p{percent}_interval"] = spans[i]
    result["max"] = max(run_times_s)
    result["machine_hours"] = round(sum(job.run_s * job.processors for job in jobs) / 3600, 2)
    return result


def processor_class(processors: int) -> int:
    """The next power of two: class 4 is jobs of 3 or 4 processors."""
    return 1 << (processors - 1).bit_length()


def main() -> None:
    chosen = arguments("Run-time percentiles of the jobs of a trace.", resamples=1_000)
    jobs = read_trace(chosen.trace)
    print(f"{len(jobs)} jobs; resampling them {chosen.resamples} times, all and by class", flush=True)
    overall = summary(jobs, chosen.resamples, chosen.seed)
    print(f"  all jobs: p50 {overall['p50']} s, p90 {overall['p90']} s, p99 {overall['p99']} s", flush=True)

    classes: dict[int, list[Job]] = {}
    for job in jobs:
        classes.setdefault(processor_class(job.processors), []).append(job)
    by_processors = {}
    for size in sorted(classes):
        by_processors[str(size)] = found = summary(classes[size], chosen.resamples, chosen.seed)
        print(f"  up to {size} processors: {found['jobs']} jobs, p50 {found['p50']} s", flush=True)

    write_json(
        chosen.out,
        {
            "trace": Path(chosen.trace).name,
            "jobs": len(jobs),
            "run_time_s": {"overall": overall, "by_processors": by_processors},
            "percentile": NEAREST_RANK,
            "interval": f"{INTERVAL} over jobs, {chosen.resamples} resamples, seed {chosen.seed}",
        },
    )


if __name__ == "__main__":
    main()
