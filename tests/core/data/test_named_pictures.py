"""Pictures by name, out of files and tars, on a disk and in S3."""

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.core.data.llava_layout import Record
from components.core.data.named_pictures import NamedPictures, with_pictures
from components.core.data.record_tally import RecordTally
from components.core.data.tar_members import find_members
from components.runtime.storage import Folder, LocalFolder, open_folder
from tests.s3 import s3_server, use_s3

PICTURES = {f"coco/train2017/{number:012}.jpg": bytes([number]) * (700 + 300 * number) for number in range(5)}
LONG = f"vg/{'n' * 200}/ü.jpg"


def archive(members: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    if request.param == "disk":
        yield LocalFolder(tmp_path)
        return
    import boto3

    with s3_server() as endpoint:
        use_s3(monkeypatch, endpoint)
        boto3.client("s3").create_bucket(Bucket="data")
        yield open_folder("s3://data/llava/images")


def test_files_and_members_of_tars_are_read_by_name(folder: Folder) -> None:
    folder.write("gqa/1.jpg", b"a file")
    folder.write("parts/0.tar", archive(dict(list(PICTURES.items())[:3])))
    folder.write("parts/1.tar", archive(dict(list(PICTURES.items())[3:]) | {LONG: b"long", "./textvqa/a.jpg": b"dot"}))
    pictures = NamedPictures(folder, num_threads=2)
    expected = PICTURES | {LONG: b"long", "textvqa/a.jpg": b"dot", "gqa/1.jpg": b"a file"}
    assert len(pictures) == len(expected)
    assert {name: pictures.read(name) for name in expected if name in pictures} == expected
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(pictures.read, [*expected] * 3)) == [*expected.values()] * 3


def test_names_are_the_same_however_they_are_written(folder: Folder) -> None:
    folder.write("gqa/1.jpg", b"a file")
    folder.write("0.tar", archive({"coco/2.jpg": b"a member"}))
    pictures = NamedPictures(folder, num_threads=1)
    assert pictures.read("./gqa//1.jpg") == b"a file"
    assert "./coco/./2.jpg" in pictures and pictures.read("./coco/./2.jpg") == b"a member"


@pytest.mark.parametrize("name", ["gqa/2.jpg", "gqa", "0.tar", "../outside.jpg", "/etc/hostname", ""])
def test_what_is_not_listed_is_not_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside.jpg").write_bytes(b"secret")
    folder = LocalFolder(tmp_path / "images")
    folder.write("gqa/1.jpg", b"a file")
    folder.write("0.tar", archive({"../outside.jpg": b"evil", "/etc/hostname": b"evil"}))
    pictures = NamedPictures(folder, num_threads=1)
    assert len(pictures) == 1 and name not in pictures
    with pytest.raises(FileNotFoundError):
        pictures.read(name)


@pytest.mark.parametrize("other", ["file", "tar", "same tar"])
def test_a_name_that_stands_for_two_pictures_is_refused(tmp_path: Path, other: str) -> None:
    folder = LocalFolder(tmp_path)
    folder.write("0.tar", archive({"a.jpg": b"one"} | ({"./a.jpg": b"two"} if other == "same tar" else {})))
    if other == "file":
        folder.write("a.jpg", b"two")
    if other == "tar":
        folder.write("1.tar", archive({"./a.jpg": b"two"}))
    place = {"file": "the folder itself", "tar": "tar 0.tar", "same tar": "tar 0.tar"}[other]
    with pytest.raises(ValueError, match=rf"the picture a\.jpg is in the tar [01]\.tar and in {place}; remove one"):
        NamedPictures(folder, num_threads=2)


@pytest.mark.parametrize("cut", [700, 1024, 3000])
def test_a_tar_that_breaks_off_is_refused(tmp_path: Path, cut: int) -> None:
    folder = LocalFolder(tmp_path)
    folder.write("0.tar", archive(PICTURES)[:cut])
    with pytest.raises(ValueError, match=r"0\.tar: the archive is damaged: .*; copy it here again"):
        NamedPictures(folder, num_threads=1)


def test_records_with_missing_pictures_are_left_out(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    folder.write("a.jpg", b"a")
    folder.write("b.jpg", b"b")
    names = [("a.jpg",), (), ("a.jpg", "c.jpg"), ("b.jpg", "a.jpg"), ("d.jpg",)]
    records = [Record(f"mix.json, record {number}", found, ("", "")) for number, found in enumerate(names)]
    tally = RecordTally()
    kept = list(with_pictures(records, NamedPictures(folder, num_threads=1), tally))
    assert [record.pictures for record in kept] == [names[0], names[1], names[3]]
    assert tally.left_out == {"picture_missing": 2}
    assert tally.first["picture_missing"] == "mix.json, record 2: there is no picture c.jpg; add it."


class Watched(io.BytesIO):
    """A file that counts what is read of it."""

    num_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.num_read += len(data)
        return data


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_index_reads_headers_only(kind: int) -> None:
    members = {"a.jpg": b"a" * 100_000, "b/" * 40 + "ü.jpg": b"b" * 512, "empty.jpg": b"", "c.jpg": b"c" * 99_999}
    data = archive(members, kind)
    file = Watched(data)
    assert {name: data[start : start + size] for name, start, size in find_members(file)} == members
    assert file.num_read <= 16 * 512
