"""The machine the agent lives on: its paths, its identity, its end."""

import os
import subprocess
import sys
import time


def say(text):
    # type: (str) -> None
    try:
        sys.stderr.write("elastic-orchestrator agent: %s %s\n" % (time.strftime("%H:%M:%S"), text))
        sys.stderr.flush()
    except OSError:  # a full disk may keep the agent from talking, not from working
        pass


class Machine:
    """Every path stands under `root`, which is empty on a real machine."""

    def __init__(self, root):
        # type: (str) -> None
        self.root = root
        self.state = root + "/var/lib/elastic-orchestrator"
        for folder in ("work", "logs"):
            os.makedirs(self.path(folder), mode=0o700, exist_ok=True)

    def path(self, *names):
        # type: (*str) -> str
        return os.path.join(self.state, *names)

    def instance_id(self):
        # type: () -> str
        """As cloud-init learned it from the cloud; the same on all of them."""
        with open(self.root + "/var/lib/cloud/data/instance-id", encoding="utf-8") as file:
            return file.read().strip()

    def memory_mb(self):
        # type: () -> int | None
        """The memory its kernel has to give, which is a little less than was rented; None where it does not say."""
        try:
            return (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20) or None
        except (ValueError, OSError):
            return None

    def forget(self):
        # type: () -> None
        """Drop who this machine was and what it held: an image may be made of a machine that had worked."""
        import shutil

        for name in ("identity", "credential", "journal"):
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))
        for folder in ("work", "logs"):
            shutil.rmtree(self.path(folder), ignore_errors=True)
            os.makedirs(self.path(folder), mode=0o700)

    def end(self, reason):
        # type: (str) -> int
        """Power this machine off. Clouds are told at launch that a machine which powers off is terminated.

        Returns this program's exit status: not 0 where the machine stays up, so that the agent is started again and
        tries again."""
        say("powering off: %s" % reason)
        commands = [[self.root + "/sbin/poweroff"]]
        if not self.root:  # else this is a machine of a local cloud, and that would end its host
            commands.append(["/usr/sbin/shutdown", "-h", "now"])
        for command in commands:
            if os.path.exists(command[0]) and subprocess.call(command) == 0:
                return 0
        say("found no way to power off; trying again")
        return 1


def write_private(path, text):
    # type: (str, str) -> None
    """Whole or not at all, readable by its owner only."""
    fresh = path + ".new"
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path)
