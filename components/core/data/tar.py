"""WebDataset shards: tar archives of `{key}.{extension}` members, the same bytes for the same samples."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from components.core.data.tar_members import BLOCK_BYTES, MAX_MEMBER_BYTES, read_members

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")
ALLOWED_EXTENSIONS = frozenset({*IMAGE_EXTENSIONS, "txt", "json", "cls"})
MAX_NAME_BYTES = 100

_RECORD_BYTES = 20 * BLOCK_BYTES  # an archive's length is a multiple of it, as on tapes
_ZEROS = bytes(BLOCK_BYTES)
_MODE_AND_OWNERS = b"0000644\x00" + 2 * b"0000000\x00"
_NO_TIME = b"\x0000000000000\x00"
_REST = b"\x00 0" + bytes(100) + b"ustar\x0000" + bytes(247)
_BLANK_SUM = sum(_MODE_AND_OWNERS + _NO_TIME + _REST) + 7 * ord(" ")  # the checksum counts itself as spaces

Data = TypeVar("Data", bytes, bytes | None)


def write_shard(samples: Sequence[tuple[str, Mapping[str, bytes]]]) -> bytes:
    """Returns a ustar archive of (key, {extension: bytes}) samples.

    Times, owners and modes are fixed and a sample's members are sorted, so equal samples give equal bytes.

    Raises:
        ValueError: A member's name has over `MAX_NAME_BYTES`, or its data over `MAX_MEMBER_BYTES`.
    """
    parts: list[bytes] = []
    for key, members in samples:
        for extension in sorted(members):
            data = members[extension]
            parts += _header(f"{key}.{extension}", len(data)), data, _ZEROS[: -len(data) % BLOCK_BYTES]
    length = sum(map(len, parts)) + 2 * BLOCK_BYTES
    return b"".join([*parts, 2 * _ZEROS, bytes(-length % _RECORD_BYTES)])


def _header(name: str, size: int) -> bytes:
    name_field, size_field = name.encode(), b"%011o" % size
    if len(name_field) > MAX_NAME_BYTES or size > MAX_MEMBER_BYTES:
        raise ValueError(
            f"'{name}' of {size} bytes doesn't fit a shard: at most {MAX_NAME_BYTES} bytes of name and "
            f"{MAX_MEMBER_BYTES} of data."
        )
    checksum = b"%06o" % (_BLANK_SUM + sum(name_field) + sum(size_field))
    return name_field.ljust(MAX_NAME_BYTES, b"\x00") + _MODE_AND_OWNERS + size_field + _NO_TIME + checksum + _REST


def read_shard(data: bytes) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields (key, {extension: bytes}) of a shard, in its order; nothing is ever written to a disk.

    Members with other extensions than pictures, `txt`, `json` and `cls` are passed over.

    Raises:
        ValueError: The archive is damaged, or a member is no plain file with a relative name.
    """
    return group_members(_refuse_unsafe(read_members(io.BytesIO(data))))


def _refuse_unsafe(members: Iterable[tuple[str, bytes | None]]) -> Iterator[tuple[str, bytes]]:
    for name, data in members:
        if data is None:
            raise ValueError(f"member '{name}' is no plain file with a relative name")
        yield name, data


def group_members(members: Iterable[tuple[str, Data]]) -> Iterator[tuple[str, dict[str, Data]]]:
    """Yields (key, {extension: data}) of neighbours that share a key: the name up to its last part's first dot.

    An extension that comes twice begins a new sample with the same key. Other extensions than the allowed ones are
    passed over, unless their data is None.
    """
    current = ""
    sample: dict[str, Data] = {}
    for name, data in members:
        key, _, extension = name.partition(".")
        if "/" in extension:  # the dot was a folder's
            folder, _, last = name.rpartition("/")
            stem, _, extension = last.partition(".")
            key = f"{folder}/{stem}"
        extension = extension.lower()
        if extension not in ALLOWED_EXTENSIONS and data is not None:
            continue
        if sample and (key != current or extension in sample):
            yield current, sample
            sample = {}
        current = key
        sample[extension] = data
    if sample:
        yield current, sample
