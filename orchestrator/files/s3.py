"""Any S3-compatible store. Appending does not exist there: a log is objects that are named by what they cover.

    PREFIX/INSTALLATION/logs/ATTEMPT/OFFSET-LENGTH          artifacts/ATTEMPT/SHA-256 of the path

A name says which bytes it holds, and the same name always holds the same ones: masters may store the same chunk twice, or
overlapping ones, in any order. Reading joins what covers the log from its beginning.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.files.base import FilesUnavailable, Missing
from orchestrator.files.local import name_of

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PIECE = 4 << 20
"""Smaller objects are brought together into such ones."""
MANY = 128  # chunks of one log that came to this process before they are brought together, though it still grows
REMEMBERED = 10_000  # logs whose size is known without asking
GONE = ("NoSuchKey", "404", "NotFound")


class Bucket:
    """One bucket and the beginning of every key. The SDK is loaded at the first call. Raises FilesUnavailable, Missing."""

    def __init__(self, name: str, prefix: str, endpoint_url: str | None = None) -> None:
        self._name = name
        self._prefix = prefix
        self._endpoint_url = endpoint_url
        self._making = threading.Lock()

    def put(self, key: str, data: bytes) -> None:
        with self._told():
            self._client.put_object(Bucket=self._name, Key=self._prefix + key, Body=data)

    def put_file(self, key: str, source: Path) -> None:
        with self._told():
            self._client.upload_file(str(source), self._name, self._prefix + key)

    def get(self, key: str, offset: int, length: int) -> bytes:
        with self._told():
            wanted = f"bytes={offset}-{offset + length - 1}"
            answer = self._client.get_object(Bucket=self._name, Key=self._prefix + key, Range=wanted)
            return answer["Body"].read()

    def pieces(self, key: str, offset: int) -> Iterator[bytes]:
        more: dict[str, Any] = {"Range": f"bytes={offset}-"} if offset else {}
        with self._told():
            answer = self._client.get_object(Bucket=self._name, Key=self._prefix + key, **more)
        return self._read(answer["Body"])

    def list(self, beginning: str) -> Iterator[tuple[str, datetime]]:
        """Keys and when they were written, in the order of the keys."""
        with self._told():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._name, Prefix=self._prefix + beginning
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    yield item["Key"].removeprefix(self._prefix), item["LastModified"]

    def delete(self, keys: Iterable[str]) -> None:
        with self._told():  # singly: not every store takes many at once
            for key in keys:
                self._client.delete_object(Bucket=self._name, Key=self._prefix + key)

    def _read(self, body: Any) -> Iterator[bytes]:
        with self._told():
            yield from body.iter_chunks(1 << 20)

    @property
    def _client(self) -> S3Client:
        with self._making:
            made: S3Client = self._made
            return made

    @cached_property
    def _made(self) -> S3Client:
        import boto3
        from botocore.config import Config

        config = Config(
            connect_timeout=5,
            read_timeout=15,
            retries={"mode": "standard", "total_max_attempts": 2},  # agents come again anyway
            # Only where the call needs one: other stores than AWS's do not know the newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if self._endpoint_url else {},
        )
        session = boto3.session.Session()
        region = session.region_name or ("us-east-1" if self._endpoint_url else None)
        made: S3Client = session.client("s3", endpoint_url=self._endpoint_url, region_name=region, config=config)
        return made

    @contextmanager
    def _told(self) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in GONE:
                raise Missing(str(error)) from error
            raise self._trouble(error) from error
        except (Boto3Error, BotoCoreError, HTTPClientError) as error:
            raise self._trouble(error) from error

    def _trouble(self, error: Exception) -> FilesUnavailable:
        told = " ".join(str(error).split())
        fix = "see to the bucket, its endpoint and the SDK's credentials (settings `files`, `files_endpoint_url`)"
        return FilesUnavailable(f"the file store s3://{self._name} does not do it ({told}); nothing was done: {fix}")


class Chunk(NamedTuple):
    """The bytes of a log from `offset` to `end` are in the object `key`."""

    offset: int
    end: int
    key: str


class S3Logs:
    waits = True

    def __init__(self, bucket: Bucket, limit: int) -> None:
        self._bucket = bucket
        self.limit = limit
        self._sizes: OrderedDict[int, int] = OrderedDict()
        self._chunks: Counter[int] = Counter()
        self._lock = threading.Lock()

    def append(self, attempt_id: int, offset: int, data: bytes) -> int:
        size = self._sizes.get(attempt_id)
        if size is None or offset > size:  # another master may have had the chunks between
            size = self.size(attempt_id)
        fresh = data[max(0, size - offset) : max(0, self.limit - offset)] if offset <= size else b""
        if fresh:
            self._bucket.put(_key(attempt_id, size, size + len(fresh)), fresh)
            size += len(fresh)
            self._count(attempt_id)
        self._remember(attempt_id, size)
        return size

    def read(self, attempt_id: int, offset: int = 0, length: int = 1 << 20) -> bytes:
        for _ in range(3):
            try:
                return self._joined(self._cover(attempt_id), offset, offset + length)
            except Missing:  # it was brought together just now
                continue
        raise FilesUnavailable(f"the log of attempt {attempt_id} changes its pieces all the time; ask again")

    def size(self, attempt_id: int) -> int:
        cover = self._cover(attempt_id)
        return cover[-1].end if cover else 0

    def settle(self, attempt_id: int) -> None:
        """Nothing is deleted that another object does not cover, so masters may do this at once."""
        listed = self._listed(attempt_id)
        kept = set()
        for group in _groups(_covering(listed)):
            if len(group) == 1:
                kept.add(group[0].key)
                continue
            start, end = group[0].offset, group[-1].end
            kept.add(key := _key(attempt_id, start, end))
            self._bucket.put(key, self._joined(group, start, end))
        self._bucket.delete(chunk.key for chunk in listed if chunk.key not in kept)
        with self._lock:
            del self._chunks[attempt_id]

    def remove(self, attempt_id: int) -> None:
        self._bucket.delete([key for key, _ in self._bucket.list(f"logs/{attempt_id}/")])
        with self._lock:
            self._sizes.pop(attempt_id, None)

    def last_written_before(self, moment: datetime) -> Iterator[int]:
        return _quiet_since(self._bucket.list("logs/"), moment)

    def _count(self, attempt_id: int) -> None:
        with self._lock:
            self._chunks[attempt_id] += 1
            many = self._chunks[attempt_id] >= MANY
        if many:
            self.settle(attempt_id)

    def _remember(self, attempt_id: int, size: int) -> None:
        with self._lock:
            self._sizes[attempt_id] = size
            self._sizes.move_to_end(attempt_id)
            if len(self._sizes) > REMEMBERED:
                forgotten, _ = self._sizes.popitem(last=False)
                self._chunks.pop(forgotten, None)

    def _listed(self, attempt_id: int) -> list[Chunk]:
        chunks = []
        for key, _ in self._bucket.list(f"logs/{attempt_id}/"):
            offset, _, length = key.rpartition("/")[2].partition("-")
            chunks.append(Chunk(int(offset), int(offset) + int(length), key))
        return chunks

    def _cover(self, attempt_id: int) -> list[Chunk]:
        return _covering(self._listed(attempt_id))

    def _joined(self, cover: Sequence[Chunk], start: int, end: int) -> bytes:
        parts, at = [], start
        for chunk in cover:
            if chunk.offset <= at < chunk.end and at < end:
                parts.append(self._bucket.get(chunk.key, at - chunk.offset, min(end, chunk.end) - at))
                at = min(end, chunk.end)
        return b"".join(parts)


class S3Files:
    waits = True

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def put(self, attempt_id: int, path: str, source: Path) -> None:
        self._bucket.put_file(self._key(attempt_id, path), source)
        source.unlink()

    def read(self, attempt_id: int, path: str, offset: int = 0) -> Iterator[bytes]:
        return self._bucket.pieces(self._key(attempt_id, path), offset)

    def remove(self, attempt_id: int) -> None:
        self._bucket.delete([key for key, _ in self._bucket.list(f"artifacts/{attempt_id}/")])

    def last_written_before(self, moment: datetime) -> Iterator[int]:
        return _quiet_since(self._bucket.list("artifacts/"), moment)

    def _key(self, attempt_id: int, path: str) -> str:
        return f"artifacts/{attempt_id}/{name_of(path)}"


def _key(attempt_id: int, start: int, end: int) -> str:
    return f"logs/{attempt_id}/{start:016d}-{end - start}"


def _covering(listed: Iterable[Chunk]) -> list[Chunk]:
    """What joins without a gap from offset 0 on; what others cover is left out."""
    cover: list[Chunk] = []
    end = 0
    for chunk in sorted(listed, key=lambda chunk: (chunk.offset, -chunk.end)):
        if chunk.offset > end:
            break
        if chunk.end > end:
            cover.append(chunk)
            end = chunk.end
    return cover


def _groups(cover: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Neighbours that together make a piece; what is one already stays as it is."""
    group: list[Chunk] = []
    for chunk in cover:
        if chunk.end - chunk.offset >= PIECE:
            if group:
                yield group
            yield [chunk]
            group = []
            continue
        group.append(chunk)
        if chunk.end - group[0].offset >= PIECE:
            yield group
            group = []
    if group:
        yield group


def _quiet_since(listed: Iterable[tuple[str, datetime]], moment: datetime) -> Iterator[int]:
    for number, objects in itertools.groupby(listed, key=lambda item: item[0].split("/")[1]):
        if number.isdigit() and all(written < moment for _, written in list(objects)):
            yield int(number)
