"""From the setting `files` to the two stores."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.files.base import FileStore, LogStore
from orchestrator.files.local import LocalFiles, LocalLogs
from orchestrator.settings import Settings


def open_stores(settings: Settings, installation: str) -> tuple[LogStore, FileStore]:
    """Logs and artifacts where the settings want them. Asks nobody yet."""
    limit = int(settings.log_limit_mb * 1e6)
    if settings.files is None:
        return local_stores(settings.data_dir, limit)
    from orchestrator.files.s3 import Bucket, S3Files, S3Logs

    name, _, prefix = settings.files.removeprefix("s3://").partition("/")
    # Masters of one installation share its place; two installations in one bucket never do.
    beginning = re.sub(r"/*$", "/", prefix) if prefix else ""
    bucket = Bucket(name, f"{beginning}{installation}/", settings.files_endpoint_url)
    return S3Logs(bucket, limit), S3Files(bucket)


def local_stores(folder: Path, limit: int) -> tuple[LocalLogs, LocalFiles]:
    return LocalLogs(folder / "logs", limit), LocalFiles(folder / "artifacts")
