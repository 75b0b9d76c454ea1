"""Folders of named objects on a disk or in S3, behind one small interface."""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

from components.runtime.errors import BadInput, StageFailure

ATTEMPTS = 6
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
PARTIAL_SUFFIX = ".partial"


class Folder(Protocol):
    """A place that holds objects by name; names use forward slashes.

    Reading a name that isn't there raises FileNotFoundError with its full address. A write is atomic: a reader
    sees the whole object or none.
    """

    uri: str

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes) -> None: ...

    def exists(self, name: str) -> bool: ...

    def names(self, prefix: str = "") -> list[str]:
        """Returns the names below this folder that begin with `prefix`, sorted."""
        ...

    def delete(self, name: str) -> None: ...

    def folder(self, name: str) -> "Folder": ...

    def read_json(self, name: str) -> Any: ...

    def write_json(self, name: str, value: Any) -> None: ...


def open_folder(uri: str) -> Folder:
    """Returns the folder at a path, a `file://` URI or an `s3://bucket/prefix` URI; it need not exist yet.

    Raises:
        BadInput: The scheme is another one, or the bucket is missing.
    """
    scheme = re.match(r"^([a-z][a-z0-9+.-]*)://", uri)
    if scheme is None:
        return LocalFolder(Path(uri))
    parts = urlparse(uri)
    if scheme[1] == "file" and parts.netloc in ("", "localhost"):
        return LocalFolder(Path(unquote(parts.path)))
    if scheme[1] == "s3" and parts.netloc:
        return S3Folder(parts.netloc, parts.path.strip("/"))
    raise BadInput(f"The address '{uri}' can't be opened: give a path, file:///path or s3://bucket/prefix.")


class _JsonFolder:
    """JSON on top of bytes."""

    def read(self, name: str) -> bytes:
        raise NotImplementedError

    def write(self, name: str, data: bytes) -> None:
        raise NotImplementedError

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


class LocalFolder(_JsonFolder):
    """A directory; writes go to a partial file, which is renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.uri = str(self.path)

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(str(self.path / name)) from error

    def write(self, name: str, data: bytes) -> None:
        target = self.path / name
        partial = target.with_name(f"{target.name}.{os.getpid()}{PARTIAL_SUFFIX}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise BadInput(
                f"{target} can't be written ({error.strerror}): choose an out_uri that is writable and has room."
            ) from error

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()

    def names(self, prefix: str = "") -> list[str]:
        files = (p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file())
        return sorted(n for n in files if n.startswith(prefix) and not n.endswith(PARTIAL_SUFFIX))

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def folder(self, name: str) -> "LocalFolder":
        return LocalFolder(self.path / name)


class S3Folder(_JsonFolder):
    """A prefix of a bucket; address, region and credentials come from boto3's own settings and environment."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    def read(self, name: str) -> bytes:
        return self._call("get_object", name)["Body"].read()

    def write(self, name: str, data: bytes) -> None:
        self._call("put_object", name, Body=data)

    def exists(self, name: str) -> bool:
        try:
            self._call("head_object", name)
        except FileNotFoundError:
            return False
        return True

    def names(self, prefix: str = "") -> list[str]:
        below = f"{self.prefix}/" if self.prefix else ""
        pages = s3_client().get_paginator("list_objects_v2")
        keys = (
            item["Key"].removeprefix(below)
            for page in pages.paginate(Bucket=self.bucket, Prefix=below + prefix)
            for item in page.get("Contents", ())
        )
        return sorted(keys)

    def delete(self, name: str) -> None:
        self._call("delete_object", name)

    def folder(self, name: str) -> "S3Folder":
        return S3Folder(self.bucket, f"{self.prefix}/{name}".strip("/"))

    def _call(self, operation: str, name: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        key = f"{self.prefix}/{name}".lstrip("/")
        try:
            return getattr(s3_client(), operation)(Bucket=self.bucket, Key=key, **arguments)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in ("404", "NoSuchKey", "NotFound"):
                raise FileNotFoundError(f"s3://{self.bucket}/{key}") from error
            remedy = {
                "NoSuchBucket": "create the bucket or correct the address",
                "403": "grant the credentials this action",
                "AccessDenied": "grant the credentials this action",
            }.get(code, "look at the store's own log")
            raise StageFailure(f"{operation} of s3://{self.bucket}/{key} was refused ({code}): {remedy}.") from error
        except BotoCoreError as error:
            raise StageFailure(
                f"{operation} of s3://{self.bucket}/{key} failed ({error}): "
                "check the endpoint (AWS_ENDPOINT_URL), the region and the credentials."
            ) from error


_s3_clients: dict[int, Any] = {}


def s3_client() -> Any:
    """Returns this process's S3 client, made once (a forked worker makes its own)."""
    if os.getpid() not in _s3_clients:
        import boto3
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            request_checksum_calculation="when_required",  # else many S3-compatible stores refuse the request
            response_checksum_validation="when_required",
        )
        _s3_clients[os.getpid()] = boto3.client("s3", config=config)
    return _s3_clients[os.getpid()]
