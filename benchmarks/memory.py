"""Resident memory of a master and an agent that have worked and are idle now."""

from __future__ import annotations

import sys
import time

from benchmarks.lab import lab, report, rss_mb

MASTER_MB, AGENT_MB = 150.0, 20.0


def main() -> int:
    with lab() as here:
        here.pool("bench", max_nodes=1, slots=2, min_nodes=1)
        here.ready_nodes(1)
        for i in range(50):
            here.finished(here.submit(name=f"warm-{i}", run="echo hello"))
        time.sleep(5)
        master, agent = rss_mb(here.master_pid), max(rss_mb(pid) for pid in here.agent_pids())
    passed = master <= MASTER_MB and agent <= AGENT_MB
    return report("memory", passed, master_mb=master, agent_mb=agent, master_mb_most=MASTER_MB, agent_mb_most=AGENT_MB)


if __name__ == "__main__":
    sys.exit(main())
