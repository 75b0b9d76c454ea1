"""Archives of others: whatever tar can hold, and every way to break one."""

import io
import tarfile

import pytest

from components.core.data.tar_members import MAX_MEMBER_BYTES, DamagedArchive, read_members

PLAIN = ("a/0001.jpg", b"picture" * 200)
LAST = ("a/0002.txt", b"a caption")


def entry(name: str, data: bytes = b"", **header: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in header.items():
        setattr(info, field, value)
    return info, data


def archive(*entries: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as out:
        for info, data in entries:
            out.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(data: bytes) -> list[tuple[str, bytes | None]]:
    return list(read_members(io.BytesIO(data)))


def read_to_damage(data: bytes) -> list[tuple[str, bytes | None]]:
    found = []
    with pytest.raises(DamagedArchive, match="the archive is damaged: "):
        for member in read_members(io.BytesIO(data)):
            found.append(member)
    return found


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["short.jpg", "a/" * 60 + "long.jpg", "grüße/大.jpg", "..a/b..jpg"])
def test_members_are_read_as_tarfile_reads_them(kind: int, name: str) -> None:
    assert read(archive(entry(name, PLAIN[1]), entry(*LAST), kind=kind)) == [(name, PLAIN[1]), LAST]


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_is_the_next_members_alone(kind: int) -> None:
    name = "n" * 300 + ".jpg"
    data = archive(entry(name, b"1"), entry(*LAST), entry("d" * 200, type=tarfile.DIRTYPE), entry(*PLAIN), kind=kind)
    assert read(data) == [(name, b"1"), LAST, PLAIN]


def test_pax_records_of_others_are_passed_over() -> None:
    stamped = entry(*PLAIN, pax_headers={"mtime": "12.5", "comment": "a=b c"})
    data = archive(stamped, entry(*LAST))
    assert b"comment=a=b c" in data
    assert read(data) == [PLAIN, LAST]


@pytest.mark.parametrize(
    "unsafe",
    [
        entry("../x.jpg", b"evil"),
        entry("a/../../x.jpg", b"evil"),
        entry("/etc/x.jpg", b"evil"),
        entry("../" * 50 + "x.jpg", b"evil"),
        entry("x.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("x.jpg", type=tarfile.LNKTYPE, linkname="a/0001.jpg"),
        entry("x.jpg", type=tarfile.CHRTYPE),
        entry("x.jpg", type=tarfile.BLKTYPE),
        entry("x.jpg", type=tarfile.FIFOTYPE),
        entry("x.jpg", b"sparse", type=tarfile.GNUTYPE_SPARSE),
        entry("x.jpg", b"sparse", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.name": "x.jpg"}),
        entry("x.jpg", b"unknown", type=b"Z"),
    ],
)
def test_an_unsafe_member_gives_no_data_and_its_neighbours_do(unsafe: tuple[tarfile.TarInfo, bytes]) -> None:
    kind = tarfile.GNU_FORMAT if unsafe[0].type == tarfile.GNUTYPE_SPARSE else tarfile.PAX_FORMAT
    assert read(archive(entry(*PLAIN), unsafe, entry(*LAST), kind=kind)) == [PLAIN, (unsafe[0].name, None), LAST]


def test_the_map_of_a_sparse_file_is_stepped_over() -> None:
    data = bytearray(
        archive(entry("x.jpg", b"sparse", type=tarfile.GNUTYPE_SPARSE), entry(*LAST), kind=tarfile.GNU_FORMAT)
    )
    data[482] = 1
    data[148:156] = b"%06o\x00 " % (sum(data[:148]) + sum(data[156:512]) + 8 * 32)
    more = bytes(504) + b"\x01" + bytes(7) + bytes(512)
    assert read(bytes(data[:512]) + more + bytes(data[512:])) == [("x.jpg", None), LAST]


def test_a_member_that_is_too_large_is_stepped_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.core.data.tar_members.MAX_MEMBER_BYTES", 1000)
    assert read(archive(entry(*PLAIN), entry(*LAST))) == [(PLAIN[0], None), LAST]


@pytest.mark.parametrize("size", [MAX_MEMBER_BYTES - 1, 9 << 30])
def test_a_size_beyond_the_archives_end_takes_no_memory(size: int) -> None:
    header = entry("x.jpg", size=size)[0].tobuf(tarfile.GNU_FORMAT)
    whole = archive(entry(*PLAIN))
    assert read_to_damage(whole[: 512 + 1536] + header + bytes(512)) == [PLAIN]


@pytest.mark.parametrize("length", [0, 100, 512, 1000, 2048, 2560, 2570])
def test_of_a_truncated_archive_the_whole_members_come(length: int) -> None:
    data = archive(entry(*PLAIN), entry(*LAST))
    ends = {PLAIN: 512 + len(PLAIN[1]), LAST: 2048 + 512 + len(LAST[1])}
    assert read_to_damage(data[:length]) == [member for member, end in ends.items() if end <= length]


@pytest.mark.parametrize("at", [0, 110, 130, 150, 156, 300, 511])
def test_a_flipped_bit_in_any_header_is_found(at: int) -> None:
    data = bytearray(archive(entry(*PLAIN), entry(*LAST)))
    data[2048 + at] ^= 1
    assert read_to_damage(bytes(data)) == [PLAIN]


@pytest.mark.parametrize("size", [b"-0000000512", b"0_000000512", b"0000000009x", b"00000000008"])
def test_a_size_that_is_no_octal_number_is_damage(size: bytes) -> None:
    header = bytearray(archive(entry(*LAST))[:512])
    header[124:135] = size
    header[148:156] = b"%06o\x00 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    assert read_to_damage(bytes(header) + bytes(2048)) == []


@pytest.mark.parametrize(
    "record", [b"0 path=x\n", b"7 path=\n", b"9999 path=x\n", b"path=x\n", b"9" * 5000 + b" a=b\n"]
)
def test_a_pax_record_of_a_wrong_length_is_damage(record: bytes) -> None:
    assert (
        read_to_damage(archive(entry("pax", record, type=tarfile.XHDTYPE), entry(*LAST), kind=tarfile.USTAR_FORMAT))
        == []
    )
