"""WebDataset shards: tar archives of `{key}.{extension}` members, the same bytes for the same samples."""

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence

ALLOWED_EXTENSIONS = ("png", "jpg", "jpeg", "webp", "txt", "json")
IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")


def write_shard(samples: Sequence[tuple[str, Mapping[str, bytes]]]) -> bytes:
    """Returns a ustar archive of (key, {extension: bytes}) samples.

    Times, owners and modes are fixed and a sample's members are sorted, so equal samples give equal bytes.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for key, members in samples:
            for extension in sorted(members):
                header = tarfile.TarInfo(f"{key}.{extension}")
                header.size, header.mtime, header.mode = len(members[extension]), 0, 0o644
                archive.addfile(header, io.BytesIO(members[extension]))
    return buffer.getvalue()


def read_shard(data: bytes) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields (key, {extension: bytes}) of a shard, in its order; nothing is ever written to a disk.

    Members with other extensions than pictures, `txt` and `json` are passed over.

    Raises:
        ValueError: The archive is damaged, or a member is no plain file with a relative name.
    """
    current = ""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for header in archive:
                if not header.isreg() or header.name.startswith("/") or ".." in header.name.split("/"):
                    raise ValueError(f"member '{header.name}' is no plain file with a relative name")
                folder, _, name = header.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if extension.lower() not in ALLOWED_EXTENSIONS:
                    continue
                if key != current and members:
                    yield current, members
                    members = {}
                current = key
                file = archive.extractfile(header)
                assert file is not None
                members[extension.lower()] = file.read()
    except tarfile.TarError as error:
        raise ValueError(f"the archive is damaged: {error}") from error
    if members:
        yield current, members
