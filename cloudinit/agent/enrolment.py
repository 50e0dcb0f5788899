"""Enrolment: the machine's one-time secret becomes this node's credential."""

import binascii
import json
import os
import random
import time

from calls import Failed
from faultpoints import reach
from machine import say, write_private

VERSION = "0.1.0"
PROTOCOL = 2


class Refused(Exception):
    """The master will never let this machine in."""


def enrol(master, machine, config):
    # type: (...) -> dict
    """The node's identity: from disk after a restart, else from the master, asked until it answers.

    The credential is made here and written down before it is sent. A repeat after a lost answer is the same request to
    the master; only another machine with this secret is another one.
    """
    identity, instance_id = machine.path("identity"), machine.instance_id()
    if os.path.exists(identity):
        node = known(machine)
        if node["instance_id"] == instance_id:
            master.credential = node["credential"]
            return node
        machine.forget()  # this disk is a copy of another machine's
    request = {
        "secret": config["enrolment_secret"],
        "instance_id": instance_id,
        "credential": _credential(machine),
        "agent_version": VERSION,
        "protocol": PROTOCOL,
    }
    memory_mb = machine.memory_mb()
    if memory_mb is not None:
        request["memory_mb"] = memory_mb
    reach("agent.enrol.before")
    give_up = time.monotonic() + config["lease_s"]
    pause_s = 0.25
    while True:
        try:
            status, answer = master.ask("/agent/v1/enrol", request)
        except Failed as error:
            status, answer = 0, {"error": str(error)}
        if status == 200:
            reach("agent.enrol.after")
            node = dict(answer, credential=request["credential"], instance_id=instance_id)
            write_private(identity, json.dumps(node))
            reach("agent.identity.written")
            master.credential = request["credential"]
            return node
        if status in (400, 403, 422):
            raise Refused(answer.get("error", status))
        if time.monotonic() > give_up:
            raise Refused("no master let it in within %d s; last: %s" % (config["lease_s"], answer.get("error", status)))
        say("not enrolled yet: %s" % answer.get("error", status))
        time.sleep(pause_s * random.uniform(0.5, 1.5))  # machines booted together must not come back together
        pause_s = min(pause_s * 2, 10)


def known(machine):
    # type: (...) -> dict
    """The node that this machine is, as it was written down."""
    with open(machine.path("identity"), encoding="utf-8") as file:
        return json.load(file)


def _credential(machine):
    # type: (...) -> str
    path = machine.path("credential")
    if not os.path.exists(path):
        write_private(path, binascii.hexlify(os.urandom(32)).decode())
    with open(path, encoding="utf-8") as file:
        return file.read()
