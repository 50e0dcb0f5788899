"""A machine that existed before its agent, and stays when the agent leaves: it is never powered off."""

import binascii
import os
import shutil
import socket
import subprocess

from machine import Machine, say, write_private

SERVICE = "elastic-orchestrator-agent"


class Existing(Machine):
    """It has no cloud that could say who it is: it is named once, at its first start."""

    def __init__(self, root, name):
        # type: (str, str) -> None
        Machine.__init__(self, root)
        self._name = name or socket.gethostname()

    def instance_id(self):
        # type: () -> str
        """Its name, and what makes it differ from all others of that name, and from itself when it joins again."""
        path = self.path("instance-id")
        if not os.path.exists(path):
            write_private(path, "%s-%s" % (self._name, binascii.hexlify(os.urandom(4)).decode()))
        with open(path, encoding="utf-8") as file:
            return file.read()

    def end(self, reason):
        # type: (str) -> int
        """Remove the agent: its unit first, or it would be started again without its files. The machine stays up."""
        say("leaving this machine: %s" % reason)
        unit = "/etc/systemd/system/%s.service" % SERVICE
        if not self.root and os.path.exists(unit):
            subprocess.call(["systemctl", "disable", SERVICE])
            os.unlink(unit)
            subprocess.call(["systemctl", "daemon-reload"])
        shutil.rmtree(self.state, ignore_errors=True)
        for folder, names in (("/etc", ["agent.json"]), ("/opt", ["agent.pyz"])):
            _remove(self.root + folder + "/elastic-orchestrator", names)
        _remove(self.root + "/run", [SERVICE + ".pid"])
        return 0


def _remove(folder, names):
    # type: (str, list) -> None
    """These files, and their folder where nothing else is in it."""
    for name in names:
        try:
            os.unlink(os.path.join(folder, name))
        except FileNotFoundError:
            pass
    try:
        os.rmdir(folder)
    except OSError:
        pass
