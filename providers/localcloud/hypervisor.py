"""The life of the machines: it moves moto's instances through their states in time and boots their user data.

moto stays the only list of instances; what is kept here besides is what moto has no place for. Everything runs under
one lock, the same that guards every call of moto, whose dictionaries do not bear two threads.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import nursery, userdata
from .faults import Faults
from .metadata import Endpoint, Metadata
from .timers import Timers

if TYPE_CHECKING:
    from moto.ec2.models.instances import Instance

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
_ON_THE_WAY = {"terminated": "shutting-down", "stopped": "stopping"}
_BY_CALL = "Client.UserInitiatedShutdown", "User initiated shutdown"
_BY_GUEST = "Client.InstanceInitiatedShutdown", "Instance initiated shutdown"
_BY_MARKET = "Server.SpotInstanceTermination", "Spot instance termination"
_POWEROFF = """#!/bin/sh
# Presses this machine's power button, as a guest's poweroff does.
button={button}
[ -p "$button" ] || {{ echo "poweroff: this machine is off already" >&2; exit 1; }}
echo poweroff 1<>"$button"
"""


@dataclass(frozen=True, slots=True)
class Times:
    """How long a machine takes, in seconds: to come up, to go down, and until the listing forgets an ended one."""

    boot_s: float = 0.5
    stop_s: float = 0.3
    forget_s: float = 3600.0


@dataclass(slots=True)
class Machine:
    """An instance and what runs for it. `goal` is where it is going to, `due` whether it has taken its time, `reclaimed_at`
    when the cloud takes it back, as its metadata service tells."""

    instance: Instance
    root: Path
    metadata: Endpoint | None = None
    reclaimed_at: datetime | None = None
    init: int | None = None
    booting: bool = False
    goal: str | None = None
    due: bool = False

    @property
    def on(self) -> bool:
        return self.booting or self.init is not None

    @property
    def about(self) -> dict[str, str]:
        """What a fault's `where` may name."""
        return {"InstanceId": self.instance.id, **about(self.instance)}

    def answer(self, path: str) -> str | None:
        """What the metadata service says at a path below /latest/."""
        ends = self.reclaimed_at and self.reclaimed_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        facts = {
            "instance-id": self.instance.id,
            "instance-type": self.instance.instance_type,
            "ami-id": self.instance.image_id,
            "local-ipv4": self.instance.private_ip,
            "placement/availability-zone": self.instance.availability_zone,
            "instance-life-cycle": self.instance.lifecycle or "on-demand",
            "spot/instance-action": ends and json.dumps({"action": "terminate", "time": ends}),
            "spot/termination-time": ends,
        }
        return facts.get(path.removeprefix("meta-data/")) if path.startswith("meta-data/") else None


def about(instance: Instance) -> dict[str, str]:
    """What is known of an instance before it has an id, in EC2's words."""
    return {
        "InstanceType": instance.instance_type,
        "SubnetId": instance.subnet_id or "",
        "AvailabilityZone": instance.availability_zone or "",
        "ImageId": instance.image_id,
        "Market": instance.lifecycle or "on-demand",
    }


class Hypervisor:
    """Boots, powers off and forgets machines. `lost` is called once should the machines' nursery ever die."""

    def __init__(self, root: Path, times: Times, faults: Faults, lost: Callable[[], None]) -> None:
        self.lock = threading.RLock()
        self.faults = faults
        self._root = root.resolve()
        self._times = times
        self._timers = Timers()
        self._metadata = Metadata()
        self._machines: dict[str, Machine] = {}
        self._lost = lost
        # -I and -S: neither site-packages nor the environment, for every machine is a fork of this process.
        self._nursery = subprocess.Popen(
            [sys.executable, "-I", "-S", nursery.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._nursery.stdin is not None
        self._orders = self._nursery.stdin
        threading.Thread(target=self._listen, name="nursery", daemon=True).start()

    # -- what the cloud's verbs ask; the caller holds the lock --

    def start(self, instances: Iterable[Instance]) -> None:
        """New instances, or stopped ones again: pending now, running and booted in a while."""
        for instance in instances:
            known = self._machines.get(instance.id)
            machine = known or Machine(instance, self._root / instance.id)
            machine.goal, machine.due = None, False
            self._machines[instance.id] = machine
            self._show(machine, "pending")
            self._timers.after(self._times.boot_s, partial(self._up, machine))

    def end(self, instance: Instance, goal: str) -> None:
        """Bring an instance to "terminated" or "stopped". Asking twice is fine, an ended one stays ended."""
        self._end(self._machines[instance.id], goal, _BY_CALL)

    def is_impaired(self, instance: Instance) -> bool:
        """Whether a fault lets this machine fail its status checks."""
        machine = self._machines[instance.id]
        return self.faults.take("impaired", "DescribeInstanceStatus", machine.about) is not None

    def console(self, instance: Instance) -> str:
        """The last 64 KiB that the machine has said, or ""."""
        log = self._root / instance.id / "var/log/console.log"
        return log.read_bytes()[-65536:].decode(errors="replace") if log.exists() else ""

    def reclaim(self, instance_id: str, notice_s: float) -> bool:
        """Take a machine back: its metadata service tells it at once. False when there is no such machine."""
        with self.lock:
            if machine := self._machines.get(instance_id):
                self._reclaim(machine, notice_s)
            return machine is not None

    def overview(self) -> list[dict[str, Any]]:
        """Every machine of this cloud: id, state, root, address of its metadata service (or null), pid of its init (or
        null), pids of what runs on it."""
        with self.lock:
            seen: list[dict[str, Any]] = [
                {
                    "id": each.instance.id,
                    "state": each.instance.state,
                    "root": str(each.root),
                    "metadata": each.metadata and each.metadata.url,
                    "init": each.init,
                }
                for each in self._machines.values()
            ]
        return [each | {"pids": nursery.descendants(each["init"]) if each["init"] else []} for each in seen]

    def close(self) -> None:
        """End every machine and wait for it. The nursery would do it as well without being asked."""
        with self.lock:
            self._lost = lambda: None
            self._orders.close()
        self._nursery.wait()

    # -- the steps of a machine's life --

    def _show(self, machine: Machine, state: str) -> None:
        machine.instance._state.name, machine.instance._state.code = state, CODES[state]

    def _up(self, machine: Machine) -> None:
        with self.lock:
            if machine.goal:
                return
            if rule := self.faults.take("stillborn", "boot", machine.about):
                self._end(machine, "terminated", (rule.stillborn or "", "This machine was asked to fail by a fault."))
                return
            self._show(machine, "running")
            if not machine.on and not self.faults.take("no_boot", "boot", machine.about):
                self._boot(machine)
            if rule := self.faults.take("reclaim_s", "boot", machine.about):
                self._reclaim(machine, rule.reclaim_s or 0)

    def _reclaim(self, machine: Machine, notice_s: float) -> None:
        machine.reclaimed_at = datetime.now(UTC) + timedelta(seconds=notice_s)

        def take() -> None:
            with self.lock:
                self._end(machine, "terminated", _BY_MARKET)

        self._timers.after(notice_s, take)

    def _end(self, machine: Machine, goal: str, why: tuple[str, str]) -> None:
        if machine.instance.state == "terminated" or machine.goal in ("terminated", goal):
            return
        self._go(machine, goal, why)
        if machine.on:
            self._order({"stop": machine.instance.id})

    def _boot(self, machine: Machine) -> None:
        root = machine.root
        console = root / "var/log/console.log"
        for folder in ("run", "sbin", "root", "var/log", "var/lib/cloud/data"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "var/lib/cloud/data/instance-id").write_text(machine.instance.id + "\n")
        poweroff = root / "sbin/poweroff"
        poweroff.write_text(_POWEROFF.format(button=shlex.quote(str(root / nursery.CONTROL))))
        poweroff.chmod(0o755)
        boot, commands = self._prepare(machine)
        with console.open("a") as log:
            log.writelines(f"boot: {line}\n" for line in (machine.instance.id, *boot.remarks))
        machine.booting = True
        machine.metadata = machine.metadata or self._metadata.open(machine.answer)
        self._order(
            {
                "boot": machine.instance.id,
                "root": str(root),
                "console": str(console),
                "env": _environment(root, machine.metadata.url),
                "commands": commands,
            }
        )

    def _prepare(self, machine: Machine) -> tuple[userdata.Boot, list[list[str]]]:
        boot = userdata.read(base64.b64decode(str(machine.instance.user_data or "")))
        try:
            userdata.write(boot, machine.root)
            return boot, userdata.moved(boot.commands, boot.files, machine.root)
        except (OSError, ValueError) as error:
            return userdata.Boot(remarks=(f"the user data cannot be carried out: {error}",)), []

    def _go(self, machine: Machine, goal: str, why: tuple[str, str]) -> None:
        """On the way to `goal`, there once all processes have ended and the machine has taken its time."""
        from moto.ec2.models.instances import StateReason

        machine.goal, machine.due = goal, False
        self._show(machine, _ON_THE_WAY[goal])
        code, text = why
        machine.instance.state_reason = StateReason(f"{code}: {text}", code)

        def take_time() -> None:
            with self.lock:
                machine.due = True
                self._arrive(machine)

        self._timers.after(self._times.stop_s, take_time)

    def _arrive(self, machine: Machine) -> None:
        if machine.goal is None or not machine.due or machine.on or machine.instance.state == machine.goal:
            return
        reason = machine.instance.state_reason  # moto puts its own, always by call, in its place
        if machine.goal == "terminated":
            machine.instance.terminate()
            if machine.metadata:
                self._metadata.close(machine.metadata)
                machine.metadata = None
            self._timers.after(self._times.forget_s, partial(self._forget, machine))
        else:
            machine.instance.stop()
        machine.instance.state_reason = reason
        if reason.code == _BY_GUEST[0]:
            machine.instance._reason = ""

    def _forget(self, machine: Machine) -> None:
        with self.lock:
            backend = machine.instance.ec2_backend
            for name, reservation in list(backend.reservations.items()):
                if machine.instance in reservation.instances:
                    reservation.instances.remove(machine.instance)
                    if not reservation.instances:
                        del backend.reservations[name]
            self._machines.pop(machine.instance.id, None)

    # -- the nursery --

    def _order(self, order: dict[str, Any]) -> None:
        if self._orders.closed:
            return
        with contextlib.suppress(BrokenPipeError):  # the nursery has died, `lost` is being called
            self._orders.write(json.dumps(order) + "\n")
            self._orders.flush()

    def _listen(self) -> None:
        # News are heard on another thread: this one must go on reading while an order waits for the nursery.
        assert self._nursery.stdout is not None
        for line in self._nursery.stdout:
            self._timers.after(0, partial(self._hear, json.loads(line)))
        self._lost()

    def _hear(self, news: dict[str, Any]) -> None:
        with self.lock:
            if machine := self._machines.get(news.get("booted") or news["ended"]):
                self._heard(machine, news)

    def _heard(self, machine: Machine, news: dict[str, Any]) -> None:
        machine.booting = False
        machine.init = news.get("pid")
        if machine.init and machine.goal:
            self._order({"stop": machine.instance.id})  # it was ended while it came up
        if news.get("by_guest") and not machine.goal:
            behaviour = machine.instance.instance_initiated_shutdown_behavior
            self._go(machine, "terminated" if behaviour == "terminate" else "stopped", _BY_GUEST)
        self._arrive(machine)


def _environment(root: Path, metadata: str) -> dict[str, str]:
    """A clean environment: nothing of the host's but where its programs are, and the machine's own places."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}"
    clean = {
        "PATH": path,
        "HOME": str(root / "root"),
        "LANG": "C.UTF-8",
        "ORCHESTRATOR_ROOT": str(root),
        "ORCHESTRATOR_IMDS": metadata,
    }
    faults = {name: os.environ[name] for name in ("ORCHESTRATOR_FAULTS",) if name in os.environ}  # tests strike agents
    return clean | faults
