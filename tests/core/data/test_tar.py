"""Shards as tar archives."""

import io
import tarfile

import pytest

from components.core.data.tar import read_shard, write_shard

SAMPLES = [
    ("a/0001", {"png": b"p", "txt": b"caption", "json": b"{}"}),
    ("a/0002", {"png": b"q", "txt": b"", "json": b"{}"}),
]


def test_a_shard_is_read_back_as_it_was_written() -> None:
    assert list(read_shard(write_shard(SAMPLES))) == SAMPLES


def test_equal_samples_give_equal_bytes_whatever_the_order_of_members() -> None:
    turned = [(key, dict(reversed(list(members.items())))) for key, members in SAMPLES]
    assert write_shard(turned) == write_shard(SAMPLES)


def test_webdataset_reads_our_shards() -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    stream = [{"stream": io.BytesIO(write_shard(SAMPLES)), "url": "shard"}]
    found = list(group_by_keys(tar_file_expander(stream)))
    assert [(s["__key__"], s["txt"]) for s in found] == [("a/0001", b"caption"), ("a/0002", b"")]


def archive(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        header = tarfile.TarInfo(name)
        header.type, header.linkname = kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
        out.addfile(header, io.BytesIO(b""))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [archive("../x.png"), archive("/x.png"), archive("x.png", tarfile.SYMTYPE), archive("x.png", tarfile.LNKTYPE)],
)
def test_an_unsafe_member_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no plain file with a relative name"):
        list(read_shard(data))


def test_a_damaged_archive_is_an_error() -> None:
    data = bytearray(write_shard(SAMPLES))
    data[100] ^= 0xFF
    with pytest.raises(ValueError, match="damaged"):
        list(read_shard(bytes(data)))


def test_pickles_are_passed_over() -> None:
    assert list(read_shard(write_shard([("k", {"pkl": b"boom", "txt": b"t"})]))) == [("k", {"txt": b"t"})]
