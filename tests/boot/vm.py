"""The same Debian as a whole emulated machine that believes to be on EC2: kernel, DHCP, IMDSv2 and all."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from container import IMAGES
from guest_network import guest_network

_MAC = "52:54:00:12:34:56"
_UUID = "ec2e1916-9099-7caf-fd21-012345abcdef"  # cloud-init knows EC2 by the first three letters
_NIC = {"device-number": "0", "local-ipv4s": "10.0.2.15", "mac": _MAC, "subnet-ipv4-cidr-block": "10.0.2.0/24"}
_META_DATA: dict[str, Any] = {
    "ami-id": "ami-0123456789abcdef0",
    "instance-type": "t3.micro",
    "local-hostname": "worker",
    "local-ipv4": "10.0.2.15",
    "placement": {"availability-zone": "lab-1a", "region": "lab-1"},
    "network": {"interfaces": {"macs": {_MAC: _NIC}}},
}


@contextmanager
def boot_vm(suite: str, user_data: bytes, master_port: int, scratch: Path, instance_id: str) -> Iterator[None]:
    """Boot Debian `suite` under qemu with `user_data`. Its serial console is shown when the test fails.

    Inside, a master listening on 127.0.0.1:master_port is http://MASTER_HOST:master_port; there is no other network.
    """
    console = scratch / "console"
    with guest_network(master_port) as network:
        service = _metadata_service(user_data, instance_id)
        metadata = network.run(lambda: ThreadingHTTPServer(("169.254.169.254", 80), service))
        threading.Thread(target=metadata.serve_forever, args=(0.05,), daemon=True).start()
        qemu = network.run(lambda: subprocess.Popen(_qemu(IMAGES / f"{suite}.vm", console), stdin=subprocess.DEVNULL))
        try:
            yield
        except BaseException:
            print("the console:\n" + console.read_text(errors="replace"))
            raise
        finally:
            qemu.kill()
            qemu.wait()
            metadata.shutdown()
            metadata.server_close()


def _qemu(image: Path, console: Path) -> list[str]:
    kernel = "rdinit=/sbin/init console=ttyS0 quiet net.ifnames=0 mitigations=off no_timer_check random.trust_cpu=on"
    networkd = "systemd.wants=systemd-networkd.service systemd.wants=systemd-networkd-wait-online.service"
    amazon = f"type=1,manufacturer=Amazon EC2,product=t3.micro,serial={_UUID}"
    return [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-m", "1024", "-smp", "2"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", f"file:{console}"),
        *("-kernel", f"{image}/kernel", "-initrd", f"{image}/initrd", "-append", f"{kernel} {networkd}"),
        *("-uuid", _UUID, "-smbios", amazon, "-device", "virtio-rng-pci"),
        *("-netdev", "user,id=net", "-device", f"virtio-net-pci,netdev=net,romfile=,mac={_MAC}"),
    ]


def _metadata_service(user_data: bytes, instance_id: str) -> type[BaseHTTPRequestHandler]:
    """EC2's metadata service, version 2: no answer without a token."""
    meta_data = {**_META_DATA, "instance-id": instance_id}
    identity = json.dumps({"instanceId": instance_id, "region": "lab-1"}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.answer(200 if self.path == "/latest/api/token" else 404, b"the-token")

        def do_GET(self) -> None:
            _version, kind, *names = self.path.strip("/").split("/")
            if self.headers["X-aws-ec2-metadata-token"] != "the-token":
                self.answer(401)
            elif kind == "user-data":
                self.answer(200, user_data)
            elif kind == "meta-data":
                found = _find(meta_data, names)
                self.answer(404 if found is None else 200, (found or "").encode())
            else:  # cloud-init 22.4 asks again and again until the identity document names the instance
                self.answer(200, identity if names[-1] == "document" else b"document")

        def answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-aws-ec2-metadata-token-ttl-seconds", "21600")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


def _find(tree: Any, names: list[str]) -> str | None:
    """A value, or the names below a folder, one a line; None where nothing is."""
    for name in names:
        tree = tree.get(name) if isinstance(tree, dict) else None
    if isinstance(tree, dict):
        return "\n".join(name + "/" * isinstance(below, dict) for name, below in tree.items())
    return tree if isinstance(tree, str) else None
