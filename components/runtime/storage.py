"""Folders of named objects on a disk or in S3, behind one small interface."""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

from components.runtime import metrics
from components.runtime.errors import BadInput, StageFailure

PARTIAL_SUFFIX = ".partial"
STALE_AFTER_S = 24 * 3600
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


class Folder(Protocol):
    """A place that holds objects by name; names use forward slashes.

    Reading a name that isn't there raises FileNotFoundError with its full address. A write is atomic: a reader
    sees the whole object or none.
    """

    uri: str

    def read(self, name: str) -> bytes: ...

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Returns the bytes from `start` up to `stop`; fewer where the object ends before."""
        ...

    def open(self, name: str) -> io.BufferedIOBase:
        """Returns a file to read from, which can seek."""
        ...

    def write(self, name: str, data: bytes) -> None: ...

    def writer(self, name: str) -> AbstractContextManager[io.BufferedIOBase]:
        """Returns a file to write to; the object appears when its block ends, and never after an exception."""
        ...

    def write_once(self, name: str, data: bytes) -> bool:
        """Writes a name that doesn't exist yet; of several writers at once, exactly one succeeds.

        Returns:
            Whether it was written; where the name existed already, it is left as it is.
        """
        ...

    def size(self, name: str) -> int:
        """Returns the object's length in bytes."""
        ...

    def exists(self, name: str) -> bool: ...

    def names(self, prefix: str = "") -> list[str]:
        """Returns the names below this folder that begin with `prefix`, sorted."""
        ...

    def delete(self, name: str) -> None: ...

    def clear(self) -> None:
        """Deletes everything below this folder."""
        ...

    def sweep_uploads(self) -> int:
        """Removes what writers that were killed over 24 hours ago have left, and returns how many there were."""
        ...

    def folder(self, name: str) -> "Folder": ...

    def read_verified(self, name: str, sha256: str) -> bytes:
        """Returns an object whose content has this digest; one that hasn't is read a second time.

        Raises:
            StageFailure: It hasn't at the second reading either.
        """
        ...

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
        from components.runtime.s3 import S3Folder

        return S3Folder(parts.netloc, parts.path.strip("/"))
    raise BadInput(f"The address '{uri}' can't be opened: give a path, file:///path or s3://bucket/prefix.")


class BaseFolder:
    """What is the same in every folder: digests and JSON on top of bytes."""

    uri: str

    def read(self, name: str) -> bytes:
        raise NotImplementedError

    def write(self, name: str, data: bytes) -> None:
        raise NotImplementedError

    def read_verified(self, name: str, sha256: str) -> bytes:
        data = self.read(name)
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
        metrics.count("storage_retries", operation="read", reason="Corrupted")
        data = self.read(name)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise StageFailure(
                f"{self.uri}/{name} is damaged: its sha256 is {found}, its manifest says {sha256}; "
                "run the stage that wrote it again."
            )
        return data

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


class LocalFolder(BaseFolder):
    """A directory; writes go to a partial file, which is renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.uri = str(self.path)

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(str(self.path / name)) from error

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        with self.open(name) as file:
            file.seek(start)
            return file.read(max(0, stop - start))

    def open(self, name: str) -> io.BufferedIOBase:
        try:
            return (self.path / name).open("rb")
        except NotADirectoryError as error:
            raise FileNotFoundError(str(self.path / name)) from error

    def write(self, name: str, data: bytes) -> None:
        with self.writer(name) as file:
            file.write(data)

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[io.BufferedIOBase]:
        target = self.path / name
        with self._partial(target) as partial:
            with _said(target):
                file = partial.open("wb")
            with _said(target, DISK_ERRORS), file:
                yield file
                _settle(file)
            with _said(target):
                partial.replace(target)

    def write_once(self, name: str, data: bytes) -> bool:
        target = self.path / name
        with self._partial(target) as partial, _said(target):
            with partial.open("wb") as file:
                file.write(data)
                _settle(file)
            try:
                os.link(partial, target)
            except FileExistsError:
                return False
        return True

    def size(self, name: str) -> int:
        with self.open(name) as file:
            return os.fstat(file.fileno()).st_size

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()

    def names(self, prefix: str = "") -> list[str]:
        files = (p.relative_to(self.path).as_posix() for p in _files_below(self.path))
        return sorted(n for n in files if n.startswith(prefix) and not n.endswith(PARTIAL_SUFFIX))

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def sweep_uploads(self) -> int:
        num_removed = 0
        for partial in self.path.rglob(f"*{PARTIAL_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                if partial.stat().st_mtime < time.time() - STALE_AFTER_S:
                    partial.unlink()
                    num_removed += 1
        return num_removed

    def folder(self, name: str) -> "LocalFolder":
        return LocalFolder(self.path / name)

    @contextlib.contextmanager
    def _partial(self, target: Path) -> Iterator[Path]:
        """Yields the path of a file beside the target; whatever happens, it is gone in the end."""
        partial = target.with_name(f"{target.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
        with _said(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)


def _files_below(folder: Path) -> Iterator[Path]:
    """Yields all files, through links to folders too, as sets of pictures are often put together."""
    for here, names, files in os.walk(folder, followlinks=True):
        place = Path(here)
        yield from (path for path in map(place.joinpath, files) if path.is_file())
        links = [name for name in names if (place / name).is_symlink()]
        rings = {name for name in links if place.resolve().is_relative_to((place / name).resolve())}
        names[:] = [name for name in names if name not in rings]


def _settle(file: io.BufferedWriter) -> None:
    """Returns when the bytes are on the disk, so that a name never stands for less after a power cut."""
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def _said(target: Path, only: frozenset[int] = frozenset()) -> Iterator[None]:
    """Turns an OSError (where `only` is given, of these numbers) into a sentence; others belong to the caller."""
    try:
        yield
    except OSError as error:
        if only and error.errno not in only:
            raise
        raise BadInput(
            f"{target} can't be written ({error.strerror}): choose an out_uri that is writable and has room."
        ) from error
