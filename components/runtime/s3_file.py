"""A file to read from in an S3 store, which reads ahead where its reader goes straight on."""

import io
from collections import deque
from concurrent.futures import Future

from components.runtime.s3_client import Address, Limits
from components.runtime.s3_read import fetch_later, read_object, stat_object

BUFFER_BYTES = 128 << 10


def open_object(limits: Limits, address: Address) -> io.BufferedReader:
    """Returns a file over one version of an object, which can seek."""
    return io.BufferedReader(_S3File(limits, address), BUFFER_BYTES)


class _S3File(io.RawIOBase):
    """What a buffered reader reads from: parts on their way, and exact ranges after a seek.

    A read that begins at the start, or where the one before it ended, has more to come: from there on, parts are
    fetched before they are asked for. A read after a seek may be the only one, and fetches its own bytes.
    """

    def __init__(self, limits: Limits, address: Address) -> None:
        self._limits, self._address = limits, address
        self._parts: deque[tuple[int, bytearray, Future[None]]] = deque()
        self._used = bytearray()  # the last part that was read to its end: its memory serves a later one
        self._position = self._expected = 0
        self._size, self._etag = stat_object(limits, address)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise ValueError(f"seek to {origin + offset}: there is nothing before byte 0")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        wanted = memoryview(buffer).cast("B")
        if self._position >= self._size or not len(wanted):
            return 0
        if self._position == self._expected:
            received = self._from_parts(wanted)
        else:
            self._drop_parts()
            stop = min(self._position + len(wanted), self._size)
            data = read_object(self._limits, self._address, self._position, stop, self._etag)
            wanted[: len(data)] = data
            received = len(data)
        self._position += received
        self._expected = self._position
        return received

    def close(self) -> None:
        self._drop_parts()
        super().close()

    def _from_parts(self, wanted: memoryview) -> int:
        """Copies what the part at the position holds, and keeps as many parts on their way as the limits say."""
        while self._parts and self._parts[0][0] + len(self._parts[0][1]) <= self._position:
            _, self._used, _ = self._parts.popleft()
        behind = self._parts[-1][0] + len(self._parts[-1][1]) if self._parts else self._position
        while len(self._parts) <= self._limits.parts_ahead and behind < self._size:
            length = min(self._limits.part_bytes, self._size - behind)
            part = self._used if len(self._used) == length else bytearray(length)
            self._used = bytearray()
            fetch = fetch_later(self._limits, self._address, memoryview(part), behind, self._etag)
            self._parts.append((behind, part, fetch))
            behind += len(part)
        start, part, fetch = self._parts[0]
        fetch.result()
        found = memoryview(part)[self._position - start :][: len(wanted)]
        wanted[: len(found)] = found
        return len(found)

    def _drop_parts(self) -> None:
        for _, _, fetch in self._parts:
            fetch.cancel()
        self._parts.clear()
