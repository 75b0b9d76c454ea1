"""Reads a tar archive from a stream, member by member, and tells a damaged one from one that has ended.

`tarfile` takes a damaged header in the middle of an archive for its end, and needs several times as long. This reader
knows ustar and the long names of GNU tar and PAX (POSIX.1-2001, pax); nothing is ever written to a disk.
"""

import re
import zlib
from collections.abc import Iterator
from io import BufferedIOBase

BLOCK_BYTES = 512
MAX_MEMBER_BYTES = 1 << 28
MAX_EXTENSION_BYTES = 1 << 20

_END = bytes(BLOCK_BYTES)
_FILES, _FOLDER, _SPARSE, _WITHOUT_DATA, _EXTENSIONS = b"0\x00", b"5", b"S", b"123456", b"LKxg"  # kinds of member
_ADLER_BASE = 65521
_DECIMAL = re.compile(r"[0-9]{1,18}")
_PAX_RECORD = re.compile(rb"(\d{1,18}) ([^=]+)=")


class DamagedArchive(ValueError):
    """The bytes are no tar archive from here on."""

    def __init__(self, damage: str) -> None:
        super().__init__(f"the archive is damaged: {damage}")


def read_members(stream: BufferedIOBase) -> Iterator[tuple[str, bytes | None]]:
    """Yields (name, data) of an archive's members one at a time; folders are passed over.

    The data is None of a member that is no plain file (a link, a device, a sparse file), whose name is absolute or
    leads upwards, or that is larger than `MAX_MEMBER_BYTES`.

    Raises:
        DamagedArchive: A header is wrong, or there is no end mark; every whole member before that came already.
    """
    for name, size in _entries(stream):
        yield name, None if size is None else _read(stream, size)


def find_members(stream: BufferedIOBase) -> Iterator[tuple[str, int, int]]:
    """Yields (name, where its data begins, its size) of the members that `read_members` gives data of.

    Only headers are read: from one to the next, the stream seeks.

    Raises:
        DamagedArchive: As `read_members`.
    """
    for name, size in _entries(stream):
        if size is not None:
            start = stream.tell()
            yield name, start, size
            stream.seek(start + size + -size % BLOCK_BYTES)


def _entries(stream: BufferedIOBase) -> Iterator[tuple[str, int | None]]:
    """Yields (name, size) of members, the stream at the data, which the caller steps over; no size: it is done here."""
    records: dict[str, str] = {}  # what extension headers say of the next member
    while (header := stream.read(BLOCK_BYTES)) != _END:
        kind, size = header[156:157], _checked_size(header)
        if kind in _EXTENSIONS:
            records |= _read_extension(stream, kind, size)
            continue
        name, is_plain = _name(header), kind in _FILES
        if records:
            name, declared = records.get("path", name), records.get("size", "")
            size = int(declared) if _DECIMAL.fullmatch(declared) else size
            is_plain = is_plain and not any(key.startswith("GNU.sparse") for key in records)
            records = {}
        if is_plain and size <= MAX_MEMBER_BYTES and _is_below(name):
            yield name, size
            continue
        if kind == _SPARSE:
            _skip_sparse_map(stream, header)
        if kind not in _WITHOUT_DATA:
            _skip(stream, size)
        if kind != _FOLDER:
            yield name, None


def _checked_size(header: bytes) -> int:
    """Returns a member's size; the header's checksum is the sum of its bytes, the checksum itself taken as spaces."""
    if len(header) < BLOCK_BYTES:
        raise DamagedArchive("it breaks off")
    checksum = header[148:156]
    total = (zlib.adler32(header) & 0xFFFF) - 1  # the sum modulo _ADLER_BASE, several times faster than sum()
    if (total - sum(checksum) + len(checksum) * ord(" ") - _number(checksum)) % _ADLER_BASE:
        raise DamagedArchive("a header's checksum is wrong")
    return _number(header[124:136])


def _number(field: bytes) -> int:
    """Returns a header's number: octal digits, or binary behind 0x80, which is GNU's way with 8 GiB and more."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\x00")[0].strip()
    if digits.strip(b"01234567"):
        raise DamagedArchive(f"{field!r} is no number")
    return int(digits or b"0", 8)


def _name(header: bytes) -> str:
    name = _text(header[:100])
    has_prefix = header[345] != 0 and header[257:263] == b"ustar\x00"  # GNU's magic differs, and so does what is there
    return f"{_text(header[345:500])}/{name}" if has_prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\x00")[0].decode(errors="backslashreplace")


def _is_below(name: str) -> bool:
    return name[:1] not in ("", "/") and (".." not in name or ".." not in name.split("/"))


def _read(stream: BufferedIOBase, size: int) -> bytes:
    """Returns a member's data, and leaves the stream at the next header."""
    data = stream.read(size)
    if len(data) < size:
        raise DamagedArchive("it breaks off")
    stream.read(-size % BLOCK_BYTES)
    return data


def _read_extension(stream: BufferedIOBase, kind: bytes, size: int) -> dict[str, str]:
    """Returns what an extension header says of the next member, under PAX's names."""
    if size > MAX_EXTENSION_BYTES:
        raise DamagedArchive(f"an extension header of {size} bytes")
    data = _read(stream, size)
    if kind == b"L":
        return {"path": _text(data)}
    records, start = {}, 0
    while kind == b"x" and start < size:
        record = _PAX_RECORD.match(data, start)
        stop = start + int(record[1]) if record else 0
        if record is None or not record.end() < stop <= size:
            raise DamagedArchive("an extension header has no `length key=value`")
        records[_text(record[2])] = _text(data[record.end() : stop - 1])
        start = stop
    return records


def _skip(stream: BufferedIOBase, size: int) -> None:
    while size > 0:
        size -= len(_read(stream, min(size, MAX_EXTENSION_BYTES)))


def _skip_sparse_map(stream: BufferedIOBase, header: bytes) -> None:
    goes_on = header[482]
    while goes_on:
        goes_on = _read(stream, BLOCK_BYTES)[504]
