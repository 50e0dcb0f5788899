"""The agent as one file: a zipapp made from `cloudinit/agent/`, the same bytes each time, so that its hash is stable."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache

from orchestrator.fleet.bootstrap import cloudinit_dir

EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class AgentPackage:
    content: bytes
    sha256: str


@cache
def agent_package() -> AgentPackage:
    """The zipapp and its hash."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(cloudinit_dir().joinpath("agent").glob("*.py")):
            entry = zipfile.ZipInfo(path.name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            file.writestr(entry, path.read_bytes())
    content = b"#!/usr/bin/env python3\n" + archive.getvalue()
    return AgentPackage(content, hashlib.sha256(content).hexdigest())
