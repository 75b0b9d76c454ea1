"""Pictures by the names that records give them: files in a folder, or members of the tars that lie in it.

Names are known before training from a listing and one pass over the tars' headers, so that a missing picture is found
before a GPU is taken.
"""

import io
import posixpath
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from components.core.data.llava_layout import Record
from components.core.data.record_tally import RecordTally
from components.core.data.tar_members import DamagedArchive, find_members

TAR_SUFFIX = ".tar"


class PictureFolder(Protocol):
    """A place that holds files by name, and reads parts of them."""

    uri: str

    def names(self, prefix: str = "") -> list[str]: ...

    def open(self, name: str) -> io.BufferedIOBase: ...

    def read(self, name: str) -> bytes: ...

    def read_range(self, name: str, start: int, stop: int) -> bytes: ...


class _Place(NamedTuple):
    """Where in which tar a picture lies."""

    tar: str
    start: int
    stop: int


class NamedPictures:
    """The pictures of a folder; any thread may read.

    A file is known by its name below the folder, and a member of a tar by its name in the tar.

    Args:
        folder: Files or tars of pictures, or both, at any depth.
        num_threads: Tars whose headers are read at the same time.

    Raises:
        ValueError: A tar is damaged, or a name stands for two pictures.
    """

    def __init__(self, folder: PictureFolder, *, num_threads: int) -> None:
        self._folder = folder
        found = folder.names()
        self._files = {name for name in found if not name.endswith(TAR_SUFFIX)}
        self._members: dict[str, _Place] = {}
        tars = [name for name in found if name.endswith(TAR_SUFFIX)]
        with ThreadPoolExecutor(num_threads) as threads:
            for tar, members in zip(tars, threads.map(self._index, tars), strict=True):
                for name, start, stop in members:
                    self._add(name, _Place(tar, start, stop))

    def __len__(self) -> int:
        return len(self._files) + len(self._members)

    def __contains__(self, name: str) -> bool:
        name = posixpath.normpath(name)
        return name in self._members or name in self._files

    def read(self, name: str) -> bytes:
        """Returns a picture's bytes.

        Raises:
            FileNotFoundError: There is no such picture.
        """
        name = posixpath.normpath(name)
        place = self._members.get(name)
        if place is not None:
            return self._folder.read_range(place.tar, place.start, place.stop)
        if name not in self._files:
            raise FileNotFoundError(f"{self._folder.uri}/{name}")
        return self._folder.read(name)

    def _index(self, tar: str) -> list[tuple[str, int, int]]:
        try:
            with self._folder.open(tar) as file:
                return [(name, start, start + size) for name, start, size in find_members(file)]
        except DamagedArchive as error:
            raise ValueError(f"{self._folder.uri}/{tar}: {error}; copy it here again.") from error

    def _add(self, name: str, place: _Place) -> None:
        name = posixpath.normpath(name)
        other = f"tar {self._members[name].tar}" if name in self._members else "the folder itself"
        if name in self:
            raise ValueError(
                f"{self._folder.uri}: the picture {name} is in the tar {place.tar} and in {other}; remove one of them."
            )
        self._members[name] = place


def with_pictures(records: Iterable[Record], pictures: NamedPictures, tally: RecordTally) -> Iterator[Record]:
    """Yields the records whose pictures are all there, and those without any; the tally counts the others."""
    for record in records:
        missing = next((name for name in record.pictures if name not in pictures), None)
        if missing is None:
            yield record
        else:
            tally.leave_out("picture_missing", f"{record.place}: there is no picture {missing}; add it.")
