"""From the setting `files` to the two stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.files.base import FileStore, LogStore
from orchestrator.files.local import LocalFiles, LocalLogs
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from orchestrator.files.s3 import Bucket


def open_stores(settings: Settings, installation: str) -> tuple[LogStore, FileStore]:
    """Logs and artifacts where the settings want them. Asks nobody yet."""
    limit = int(settings.log_limit_mb * 1e6)
    if settings.files is None:
        return local_stores(settings.data_dir, limit)
    from orchestrator.files.s3 import S3Files, S3Logs

    # Masters of one installation share its place; two installations in one bucket never do.
    bucket = bucket_of(settings.files, settings.files_endpoint_url, f"{installation}/")
    return S3Logs(bucket, limit), S3Files(bucket)


def bucket_of(files: str, endpoint_url: str | None, below: str = "") -> Bucket:
    """The place that `s3://BUCKET/PREFIX` names. Asks nobody yet."""
    from orchestrator.files.s3 import Bucket

    name, _, prefix = files.removeprefix("s3://").partition("/")
    beginning = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
    return Bucket(name, f"{beginning}{below}", endpoint_url)


def local_stores(folder: Path, limit: int) -> tuple[LocalLogs, LocalFiles]:
    return LocalLogs(folder / "logs", limit), LocalFiles(folder / "artifacts")
