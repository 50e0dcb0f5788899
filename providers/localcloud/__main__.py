"""`python -m providers.localcloud`: moto's EC2 on loopback whose instances boot as processes of this host.

Prints one line of JSON when it is ready, {"endpoint_url": …, "pid": …}, and ends, machines and all, at SIGTERM,
SIGINT or, with --die-with-parent, soon after its parent has ended.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

from . import slim
from .faults import Faults
from .front import Front
from .hypervisor import Hypervisor, Times

_PARENT_LOOK_S = 0.25


def main() -> int:
    options = _options()
    if sys.platform != "linux":
        sys.exit("the local cloud keeps its machines together with means of Linux: run it there, or in a container")
    over = threading.Event()
    failed = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())

    def lost() -> None:
        failed.set()
        over.set()

    faults = Faults()
    options.root.mkdir(parents=True, exist_ok=True)
    times = Times(options.boot_delay_s, options.stop_delay_s, options.forget_s)
    hypervisor = Hypervisor(options.root, times, faults, lost)
    _allow_many_sockets()  # from here on: the machines keep the usual limit
    endpoint_url = _serve(hypervisor, faults, options.port)
    print(json.dumps({"endpoint_url": endpoint_url, "pid": os.getpid()}), flush=True)
    parent = options.die_with_parent
    # Not PR_SET_PDEATHSIG: that one strikes when the *thread* ends that started us.
    while not over.wait(_PARENT_LOOK_S if parent else None) and (not parent or os.getppid() == parent):
        pass
    hypervisor.close()
    if failed.is_set():
        print("the local cloud's nursery has died and all machines with it: start it again", file=sys.stderr)
    return int(failed.is_set())


def _allow_many_sockets() -> None:
    """Each machine has a listening one, for its metadata."""
    import resource  # not everywhere, and this ends with a word on that before

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _options() -> argparse.Namespace:
    usual = Times()
    parser = argparse.ArgumentParser(prog="python -m providers.localcloud", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder for the machines, each in one of its own")
    parser.add_argument("--port", type=int, default=0, help="port on loopback; 0 takes a free one")
    parser.add_argument("--boot-delay-s", type=float, default=usual.boot_s, help="seconds from pending to running")
    parser.add_argument("--stop-delay-s", type=float, default=usual.stop_s, help="seconds from shutting-down to ended")
    parser.add_argument("--forget-s", type=float, default=usual.forget_s, help="seconds an ended machine stays listed")
    parser.add_argument(
        "--die-with-parent",
        type=int,
        nargs="?",
        const=os.getppid(),
        metavar="PID",
        help="end when this process is no longer our parent; without a PID, the one that is it now",
    )
    return parser.parse_args()


def _serve(hypervisor: Hypervisor, faults: Faults, port: int) -> str:
    """Answer on loopback from another thread; gives the endpoint's URL."""
    # Amazon's own images cost a second and 100 MB. moto reads this when its EC2 is first used.
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
    slim.install()
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    from . import verbs

    class Quiet(WSGIRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing: the caller reads our standard output, and tests count calls."""

    verbs.install(hypervisor)
    front = Front(DomainDispatcherApplication(create_backend_app), hypervisor, faults)
    server = make_server("127.0.0.1", port, front, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


if __name__ == "__main__":
    sys.exit(main())
