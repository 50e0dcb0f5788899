"""Order statistics and their bootstrap intervals: the same seed gives the same figures on every machine."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

NEAREST_RANK = "nearest-rank: the smallest observed value that at least that share of the jobs does not exceed"
INTERVAL = "95 % percentile bootstrap"


def nearest_rank(ordered: Sequence[float], share: int, of: int = 100) -> float:
    """The smallest of the ordered values that at least share/of of them do not exceed."""
    return ordered[max(1, -(-share * len(ordered) // of)) - 1]


def intervals(
    sample: Sequence[T], figures: Callable[[list[T]], list[float]], resamples: int, seed: int
) -> list[list[float]]:
    """[low, high] for each of the figures: draw as many values again, with replacement, and compute them anew."""
    rng = random.Random(seed)  # noqa: S311 - statistics, not secrets
    draws = [figures(rng.choices(sample, k=len(sample))) for _ in range(resamples)]
    columns = [sorted(draw[i] for draw in draws) for i in range(len(draws[0]))]
    return [[nearest_rank(column, 25, of=1000), nearest_rank(column, 975, of=1000)] for column in columns]


def arguments(description: str, resamples: int) -> argparse.Namespace:
    """TRACE OUT.json [--resamples N] [--seed N]."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("trace", metavar="TRACE", help="a workload trace (.swf)")
    parser.add_argument("out", metavar="OUT.json")
    parser.add_argument("--resamples", type=int, default=resamples, help="bootstrap resamples (%(default)s)")
    parser.add_argument("--seed", type=int, default=1993, help="of the resampling (%(default)s)")
    chosen = parser.parse_args()
    if chosen.resamples < 1:
        parser.error("--resamples must be at least 1")
    return chosen
