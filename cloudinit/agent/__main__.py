"""The worker agent of Elastic Orchestrator: `python3 agent.pyz --config FILE --root PREFIX`.

Standard library only, Python 3.8 or newer. It enrols once, then repeats one call, `sync`: results and logs go up, orders
come down. It opens no port. What it holds is in a journal on its disk until the master has acknowledged it.
"""

import argparse
import json
import sys

import artifacts
from calls import Master
from enrolment import Refused, enrol, known
from existing import Existing
from interruption import Interruption
from journal import Journal
from machine import Machine, say
from worker import Worker


def main():
    # type: () -> int
    parser = argparse.ArgumentParser(prog="agent.pyz")
    parser.add_argument("--config", required=True, help="agent.json, as cloud-init wrote it")
    parser.add_argument("--root", default="", help="prefix of every path: a local cloud boots machines under one")
    parser.add_argument("--upload", help=argparse.SUPPRESS)  # what the agent starts for a task with artifacts
    options = parser.parse_args()
    with open(options.config, encoding="utf-8") as file:
        config = json.load(file)
    if config.get("at_end") == "power_off":
        machine = Machine(options.root)
    else:
        machine = Existing(options.root, config.get("name", ""))
    master = Master(config["master_url"], config.get("ca_pin", ""))
    if options.upload:
        master.credential = known(machine)["credential"]
        return artifacts.main(master, options.upload)
    try:
        identity = enrol(master, machine, config)
    except Refused as refusal:
        say("the master has no place for this machine: %s" % refusal)
        return machine.end("enrolment refused")
    say("enrolled as node %d with %d slot(s)" % (identity["node_id"], identity["slots"]))
    watch = Interruption() if config.get("watch_interruption") else None
    worker = Worker(master, machine, Journal(machine.path("journal")), identity, watch)
    return machine.end(worker.run())


if __name__ == "__main__":
    sys.exit(main())
