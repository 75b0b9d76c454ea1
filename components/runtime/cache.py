"""A node's own copy of what its processes read again and again."""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from components.runtime import metrics
from components.runtime.storage import PARTIAL_SUFFIX, Folder

LOCK_NAME = "lock"
ABANDONED_AFTER_S = 3600


class CachedFolder:
    """Reads objects of a folder through files on this machine, which all its processes share.

    A file is named by the sha256 of what it holds, so a new version of an object is another file, and equal objects
    are one. A disk that is full or can't be written costs the cache, never the read.

    Args:
        folder: Where the objects are.
        path: The directory of the files; processes that name the same one share it.
        max_bytes: What the files may take together; those not read for the longest time go first.
    """

    def __init__(self, folder: Folder, path: Path, max_bytes: int) -> None:
        self._folder, self._path, self._max_bytes = folder, path, max_bytes

    def read_verified(self, name: str, sha256: str) -> bytes:
        """Returns the object, which has this digest wherever it came from.

        Raises:
            FileNotFoundError: The folder doesn't have it.
            StageFailure: The folder has another content.
        """
        cached = self._cached(sha256)
        if cached is not None:
            metrics.count("cache_hits")
            return cached
        metrics.count("cache_misses")
        data = self._folder.read_verified(name, sha256)
        try:
            self._keep(sha256, data)
        except OSError as error:
            metrics.count("cache_failures", reason=errno.errorcode.get(error.errno or 0, "unknown"))
        return data

    def _cached(self, sha256: str) -> bytes | None:
        file = self._path / sha256
        try:
            data = file.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha256:
                os.utime(file)
                return data
            file.unlink(missing_ok=True)
            metrics.count("cache_failures", reason="damaged")
        except FileNotFoundError:
            pass
        except OSError as error:
            metrics.count("cache_failures", reason=errno.errorcode.get(error.errno or 0, "unknown"))
        return None

    def _keep(self, sha256: str, data: bytes) -> None:
        if len(data) > self._max_bytes:
            return
        self._path.mkdir(parents=True, exist_ok=True)
        partial = self._path / f"{sha256}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}"
        try:
            with self._locked():
                self._make_room(len(data))
                partial.write_bytes(data)
                partial.replace(self._path / sha256)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, num_bytes: int) -> None:
        """Removes the files read longest ago until `num_bytes` more fit, and what killed processes have left."""
        found = []
        for file in self._path.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if file.name != LOCK_NAME:
                    status = file.stat()
                    found.append((status.st_mtime, status.st_size, file))
        room = self._max_bytes - sum(size for _, size, _ in found)
        for read_at, size, file in sorted(found):
            is_abandoned = file.suffix == PARTIAL_SUFFIX and read_at < time.time() - ABANDONED_AFTER_S
            if room < num_bytes or is_abandoned:
                file.unlink(missing_ok=True)
                room += size

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lets one process at a time count and write, so that the bound holds for all together."""
        with (self._path / LOCK_NAME).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
