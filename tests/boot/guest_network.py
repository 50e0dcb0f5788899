"""A network of its own for a guest, in which the master answers and nothing else exists."""

import ctypes
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

MASTER_HOST = "10.0.2.2"
"""Where the guest finds the master; also qemu's name for the machine it runs on."""

_CLONE_NEWNET = 0x40000000
_T = TypeVar("_T")


class GuestNetwork:
    """A network namespace, held by one thread: what is run in it, processes and sockets, belongs to it for life."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self.run(self._enter)

    def run(self, step: Callable[[], _T]) -> _T:
        """The result of `step`, called inside."""
        return self._thread.submit(step).result()

    def close(self) -> None:
        self._thread.shutdown()

    @staticmethod
    def _enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot make a network namespace: run as root")
        for command in ("link set lo up", f"addr add {MASTER_HOST}/32 dev lo", "addr add 169.254.169.254/32 dev lo"):
            subprocess.run(["ip", *command.split()], check=True)


@contextmanager
def guest_network(master_port: int) -> Iterator[GuestNetwork]:
    """A network where MASTER_HOST:master_port is relayed to 127.0.0.1:master_port outside."""
    network = GuestNetwork()
    # Bound inside, served by a thread from outside: each connection it opens leaves from the outside.
    relay = network.run(lambda: _Relay(master_port))
    threading.Thread(target=relay.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield network
    finally:
        relay.shutdown()
        relay.server_close()
        network.close()


class _Relay(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int) -> None:
        super().__init__(("", port), _Connection)
        self.port = port


class _Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Relay)
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.server.port)) as master:
            back = threading.Thread(target=_pump, args=(master, self.request), daemon=True)
            back.start()
            _pump(self.request, master)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
