"""Run every benchmark, one after the other; the exit status is 1 if any missed its floor."""

from __future__ import annotations

import sys

from benchmarks import elasticity, fairness, latency, memory, providers, throughput, volume


def main() -> int:
    return max(benchmark.main() for benchmark in (throughput, latency, elasticity, memory, providers, volume, fairness))


if __name__ == "__main__":
    sys.exit(main())
