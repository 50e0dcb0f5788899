"""A cloud on this host, for the demo and for tests: moto's EC2 over HTTP whose instances boot their real user data.

    with localcloud.start(root) as cloud:
        provider = Ec2Provider(..., endpoint_url=cloud.endpoint_url, access_key_id="local", secret_access_key="local")

It is a process of its own (`python -m providers.localcloud`); this module starts it and speaks to it.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_CALL_TIMEOUT_S = 10.0


class LocalCloud:
    """A running local cloud. As a context manager it is closed at the end, machines and all."""

    def __init__(self, process: subprocess.Popen[str], endpoint_url: str) -> None:
        self.process = process
        self.endpoint_url = endpoint_url
        # Straight to loopback, whatever proxy the environment names.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def faults(self, *rules: dict[str, Any]) -> None:
        """Add faults to those in force (`faults.Rule` tells which there are); ValueError for one without sense."""
        self._call("POST", "faults", list(rules))

    def clear_faults(self) -> None:
        """From now on all goes well again."""
        self._call("DELETE", "faults")

    def reclaim(self, instance_id: str, notice_s: float = 120.0) -> None:
        """Take a machine back, as EC2 does with spot machines: its metadata service tells it at once, and in `notice_s`
        seconds it ends. ValueError for a machine that is not there."""
        self._call("POST", "reclaim", {"id": instance_id, "notice_s": notice_s})

    def calls(self) -> dict[str, int]:
        """How often each action was called, failed calls included."""
        counted: dict[str, int] = self._call("GET", "calls")
        return counted

    def machines(self) -> dict[str, dict[str, Any]]:
        """By instance id: `state`, `root` folder, `metadata` (address of its metadata service), pid of its `init`
        (None: off) and the `pids` of what runs on it."""
        return {machine["id"]: machine for machine in self._call("GET", "machines")}

    def close(self) -> None:
        """End the cloud and all its machines, and wait for that. Closing twice is fine."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()  # the machines end without its help
                self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.endpoint_url}/_local/{path}", data, method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=_CALL_TIMEOUT_S) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from error


def start(
    root: Path,
    *,
    port: int = 0,
    boot_delay_s: float = 0.5,
    stop_delay_s: float = 0.3,
    forget_s: float = 3600.0,
    stderr: IO[Any] | int | None = None,
) -> LocalCloud:
    """Start a local cloud that keeps its machines below `root` and dies with this process. Ready when it returns.

    Raises RuntimeError when it does not come up; why is on `stderr` (this process' own, unless given).
    """
    command = [sys.executable, "-m", __name__, "--root", str(root), "--port", str(port)]
    command += ["--boot-delay-s", str(boot_delay_s), "--stop-delay-s", str(stop_delay_s), "--forget-s", str(forget_s)]
    command += ["--die-with-parent", str(os.getpid())]
    # A session of its own: Ctrl-C goes to the caller, who closes the cloud when it has no more use for it.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True)
    assert process.stdout is not None
    ready = select.select([process.stdout], [], [], _START_TIMEOUT_S)[0]
    line = process.stdout.readline() if ready else ""
    cloud = LocalCloud(process, json.loads(line)["endpoint_url"] if line else "")
    if not line:
        cloud.close()
        raise RuntimeError(
            "the local cloud did not start, its messages are above; it needs Linux and the extra `local`: "
            "pip install elastic-orchestrator[local]"
        )
    return cloud
