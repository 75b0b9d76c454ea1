"""Shards as tar archives."""

import io
import tarfile

import pytest

from components.core.data.tar import group_members, read_shard, write_shard

SAMPLES = [
    ("a/0001", {"png": b"p" * 512, "txt": b"caption", "json": b"{}"}),
    ("a/0002", {"png": b"q" * 700, "txt": b"", "json": b"{}"}),
]


def test_a_shard_is_read_back_as_it_was_written() -> None:
    assert list(read_shard(write_shard(SAMPLES))) == SAMPLES
    assert list(read_shard(write_shard([]))) == []


def test_equal_samples_give_equal_bytes_whatever_the_order_of_members() -> None:
    turned = [(key, dict(reversed(list(members.items())))) for key, members in SAMPLES]
    assert write_shard(turned) == write_shard(SAMPLES)


@pytest.mark.parametrize("num_samples", [0, 1, 2, 7])
def test_a_shard_is_what_tarfile_writes_byte_for_byte(num_samples: int) -> None:
    samples = [(f"{n:020d}", {"jpg": bytes([n]) * n * 300, "txt": "größer".encode()}) for n in range(num_samples)]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as out:
        for key, members in samples:
            for extension, data in sorted(members.items()):
                header = tarfile.TarInfo(f"{key}.{extension}")
                header.size = len(data)
                out.addfile(header, io.BytesIO(data))
    assert write_shard(samples) == buffer.getvalue()


def test_a_name_that_does_not_fit_is_refused() -> None:
    assert list(read_shard(write_shard([("k" * 96, {"txt": b""})]))) == [("k" * 96, {"txt": b""})]
    with pytest.raises(ValueError, match="doesn't fit a shard: at most 100 bytes of name"):
        write_shard([("k" * 97, {"txt": b""})])


def test_webdataset_reads_our_shards() -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    stream = [{"stream": io.BytesIO(write_shard(SAMPLES)), "url": "shard"}]
    found = list(group_by_keys(tar_file_expander(stream)))
    assert [(s["__key__"], s["txt"]) for s in found] == [("a/0001", b"caption"), ("a/0002", b"")]


def test_we_read_webdatasets_shards() -> None:
    import webdataset

    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, encoder=False) as writer:
        for key, members in SAMPLES:
            writer.write({"__key__": key} | members)
    assert list(read_shard(buffer.getvalue())) == SAMPLES


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


def test_neighbours_with_one_key_are_a_sample() -> None:
    members = [("a.JPG", b"1"), ("a.txt", b"2"), ("a.txt", b"3"), ("b.c/d.txt", b"4"), ("b.c/d.x.txt", b"5")]
    members += [("README", b"6"), ("._a.jpg", b"7"), ("b.c/d.json", b"8"), ("./e.txt", b"9")]
    assert list(group_members(members)) == [
        ("a", {"jpg": b"1", "txt": b"2"}),
        ("a", {"txt": b"3"}),
        ("b.c/d", {"txt": b"4", "json": b"8"}),
        ("./e", {"txt": b"9"}),
    ]


def test_a_member_without_data_is_never_passed_over() -> None:
    assert list(group_members([("../passwd", None), ("a.txt", b"1")])) == [
        ("../passwd", {"": None}),
        ("a", {"txt": b"1"}),
    ]
