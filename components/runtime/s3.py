"""Folders in an S3 store."""

import io
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

from components.runtime.s3_client import Address, Limits, call, connection
from components.runtime.s3_file import open_object
from components.runtime.s3_read import read_object, stat_object
from components.runtime.s3_write import object_writer, put_once
from components.runtime.storage import STALE_AFTER_S, BaseFolder


class S3Folder(BaseFolder):
    """A prefix of a bucket; address, region and credentials come from boto3's own settings and environment.

    Connections open at the first use, so that a folder travels to other processes.
    """

    def __init__(self, bucket: str, prefix: str, limits: Limits = Limits()) -> None:  # noqa: B008 - it is frozen
        self.bucket, self.prefix, self.limits = bucket, prefix, limits
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    def read(self, name: str) -> bytes:
        return read_object(self.limits, self._address(name))

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        return read_object(self.limits, self._address(name), start, stop)

    def open(self, name: str) -> io.BufferedIOBase:
        return open_object(self.limits, self._address(name))

    def write(self, name: str, data: bytes) -> None:
        with self.writer(name) as file:
            file.write(data)

    def writer(self, name: str) -> AbstractContextManager[io.BufferedIOBase]:
        return object_writer(self.limits, self._address(name))

    def write_once(self, name: str, data: bytes) -> bool:
        return put_once(self.limits, self._address(name), data)

    def size(self, name: str) -> int:
        return stat_object(self.limits, self._address(name))[0]

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def names(self, prefix: str = "") -> list[str]:
        below = f"{self.prefix}/" if self.prefix else ""
        found: set[str] = set()  # a key may come twice when others are written between two pages
        more: dict[str, Any] = {}
        while True:
            page = call(self.limits, "list_objects_v2", Address(self.bucket, ""), Prefix=below + prefix, **more)
            found.update(item["Key"].removeprefix(below) for item in page.get("Contents", ()))
            if not page["IsTruncated"]:
                return sorted(found)
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, name: str) -> None:
        call(self.limits, "delete_object", self._address(name))

    def clear(self) -> None:
        list(connection(self.limits).threads.map(self.delete, self.names()))

    def sweep_uploads(self) -> int:
        oldest = datetime.now(UTC) - timedelta(seconds=STALE_AFTER_S)
        num_removed = 0
        more: dict[str, Any] = {}
        while True:
            bucket = Address(self.bucket, "")
            page = call(self.limits, "list_multipart_uploads", bucket, Prefix=self._address("").key, **more)
            for upload in page.get("Uploads", ()):
                if upload["Initiated"] < oldest:
                    address = Address(self.bucket, upload["Key"])
                    call(self.limits, "abort_multipart_upload", address, UploadId=upload["UploadId"])
                    num_removed += 1
            if not page["IsTruncated"]:
                return num_removed
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def folder(self, name: str) -> "S3Folder":
        return S3Folder(self.bucket, f"{self.prefix}/{name}".strip("/"), self.limits)

    def _address(self, name: str) -> Address:
        return Address(self.bucket, f"{self.prefix}/{name}".lstrip("/"))
