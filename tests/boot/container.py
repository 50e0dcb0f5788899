"""A Debian tree booted by systemd-nspawn: real systemd and real cloud-init in a second or two."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from guest_network import guest_network

INSTANCE_ID = "i-0123456789abcdef0"
IMAGES = Path(__file__).parents[2] / ".boot-images"


@dataclass
class Container:
    """A booted machine; nothing it writes outlives it."""

    nspawn: subprocess.Popen[bytes]
    console_file: Path

    @property
    def console(self) -> str:
        """Everything the machine has shown on its console so far."""
        return self.console_file.read_text(errors="replace").replace("\r", "")

    def run(self, *argv: str) -> str:
        """The output of a command run inside as root, whatever its exit status."""
        children = Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split()
        inside = ["nsenter", "--target", children[0], "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        done = subprocess.run([*inside, *argv], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
        return done.stdout.strip()

    def wait_until_off(self, within_s: float) -> None:
        """Return when the machine has powered itself off; raises subprocess.TimeoutExpired if it does not."""
        self.nspawn.wait(within_s)


@contextmanager
def boot_container(
    suite: str, user_data: bytes, master_port: int, scratch: Path, instance_id: str = INSTANCE_ID
) -> Iterator[Container]:
    """Boot Debian `suite` with `user_data` as the instance of this id. Its console is shown when the test fails.

    Inside, a master listening on 127.0.0.1:master_port is http://MASTER_HOST:master_port; there is no other network.
    `scratch` is a folder for the seed and the console.
    """
    (scratch / "user-data").write_bytes(user_data)
    (scratch / "meta-data").write_text(f"instance-id: {instance_id}\nlocal-hostname: worker\n")
    console_file = scratch / "console"
    argv = [
        *_nspawn(suite, scratch, "/var/lib/cloud/seed/nocloud"),
        # A console of its own (a pipe would leave the guest without /dev/console), read-only: nobody types.
        *("--boot", "--console=read-only", "--machine=worker", "--"),
        *("network-config=disabled", "systemd.show_status=error", "systemd.log_color=no"),
    ]
    with guest_network(master_port) as network, console_file.open("wb") as console:
        nspawn = network.run(
            lambda: subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT)
        )
        machine = Container(nspawn, console_file)
        try:
            yield machine
        except BaseException:
            print("the console:\n" + machine.console)
            raise
        finally:
            nspawn.terminate()  # asks the guest to power off
            try:
                nspawn.wait(20)
            except subprocess.TimeoutExpired:
                nspawn.kill()
                nspawn.wait()


def run_in_tree(suite: str, given: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run one command in Debian `suite` without booting it; the folder `given` is /given inside."""
    command = [*_nspawn(suite, given, "/given"), "--pipe", "--", *argv]
    return subprocess.run(command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _nspawn(suite: str, bind: Path, inside: str) -> list[str]:
    return [
        *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--resolv-conf=off"),
        *("--volatile=overlay", f"--directory={IMAGES / suite}", f"--bind-ro={bind}:{inside}"),
    ]
