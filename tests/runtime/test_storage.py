"""Folders on a disk and in S3 behave alike."""

import hashlib
import io
import multiprocessing
import os
import pickle
import random
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from components.runtime.errors import BadInput, StageFailure
from components.runtime.storage import Folder, LocalFolder, open_folder
from tests.s3 import s3_server, use_s3


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["path", "file", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_endpoint: str) -> Folder:
    if request.param == "path":
        return open_folder(str(tmp_path / "run"))
    if request.param == "file":
        return open_folder(f"file://{tmp_path}/with%20space")
    use_s3(monkeypatch, s3_endpoint)
    boto3.client("s3").create_bucket(Bucket="bucket")
    return open_folder(f"s3://bucket/{tmp_path.name}")


def test_what_is_written_is_read_back(folder: Folder) -> None:
    folder.write("a/b.bin", b"\x00\xff")
    folder.write_json("c.json", {"x": [1, 2.5]})
    assert folder.read("a/b.bin") == b"\x00\xff"
    assert folder.folder("a").read("b.bin") == b"\x00\xff"
    assert folder.read_json("c.json") == {"x": [1, 2.5]}
    assert open_folder(folder.uri).exists("c.json")


def test_names_are_sorted_relative_and_cut_by_prefix(folder: Folder) -> None:
    for name in ("z.txt", "a/2.tar", "a/1.tar", "ab.txt"):
        folder.write(name, b"1")
    assert folder.names() == ["a/1.tar", "a/2.tar", "ab.txt", "z.txt"]
    assert folder.names("a/") == ["a/1.tar", "a/2.tar"]


def test_a_missing_name_is_an_error_with_its_address(folder: Folder) -> None:
    assert not folder.exists("nothing")
    with pytest.raises(FileNotFoundError, match="nothing"):
        folder.read("nothing")
    folder.delete("nothing")


def test_a_range_ends_where_the_object_ends(folder: Folder) -> None:
    folder.write("digits", b"0123456789")
    assert folder.read_range("digits", 2, 5) == b"234"
    assert folder.read_range("digits", 8, 20) == b"89"
    assert folder.read_range("digits", 3, 3) == folder.read_range("digits", 10, 12) == b""
    assert folder.size("digits") == 10
    for read in (folder.size, folder.open, lambda name: folder.read_range(name, 0, 1)):
        with pytest.raises(FileNotFoundError, match="nothing"):
            read("nothing")


def test_an_empty_object_is_an_object(folder: Folder) -> None:
    folder.write("empty", b"")
    assert folder.exists("empty") and folder.size("empty") == 0 and folder.read("empty") == b""
    with folder.open("empty") as file:
        assert file.read() == b""


def test_an_open_file_reads_and_seeks_as_one_on_a_disk_does(folder: Folder) -> None:
    data = hashlib.shake_256(b"large").digest(20 << 20)
    folder.write("large", data)
    expected, choose = io.BytesIO(data), random.Random(0)
    with folder.open("large") as file:
        assert file.readable() and file.seekable()
        for _ in range(60):
            if choose.random() < 0.5:
                place = choose.randrange(len(data))
                assert file.seek(place) == expected.seek(place)
            length = choose.choice([1, 1000, 1 << 20, 9 << 20])
            assert file.read(length) == expected.read(length) and file.tell() == expected.tell()
        assert file.seek(-5, 2) == len(data) - 5 and file.read() == data[-5:]


def test_what_is_written_in_pieces_appears_whole_at_the_end(folder: Folder) -> None:
    with folder.writer("pieces") as file:
        file.write(b"one ")
        assert not folder.exists("pieces") and folder.names() == []
        file.write(memoryview(b"two"))
        assert file.tell() == 7
    assert folder.read("pieces") == b"one two"


def test_an_exception_leaves_what_was_there_before(folder: Folder) -> None:
    folder.write("kept", b"before")
    for error in (ZeroDivisionError, FileNotFoundError):
        with pytest.raises(error), folder.writer("kept") as file:
            file.write(b"after")
            raise error
    assert folder.read("kept") == b"before" and folder.names() == ["kept"]


def test_of_many_writers_at_once_one_wins(folder: Folder) -> None:
    texts = [b"writer %d" % i for i in range(8)]
    with ThreadPoolExecutor(len(texts)) as threads:
        won = list(threads.map(lambda text: folder.write_once("lease", text), texts))
    assert won.count(True) == 1
    assert folder.read("lease") == texts[won.index(True)]
    assert not folder.write_once("lease", b"late") and folder.names() == ["lease"]


def test_a_cleared_folder_is_empty_and_its_neighbour_is_not(folder: Folder) -> None:
    for name in ("a/1", "a/b/2", "ab/3"):
        folder.write(name, b"1")
    folder.folder("a").clear()
    assert folder.names() == ["ab/3"]
    folder.folder("nothing").clear()


def test_a_folder_travels_to_other_processes(folder: Folder) -> None:
    folder.write("x", b"1")
    assert pickle.loads(pickle.dumps(folder)).read("x") == b"1"
    process = multiprocessing.get_context("fork").Process(target=folder.write, args=("y", b"2"))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 0 and folder.read("y") == b"2"


def test_partial_files_older_than_a_day_are_swept(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    for name, age_s in {"old.partial": 25 * 3600, "a/new.partial": 23 * 3600, "old": 25 * 3600}.items():
        folder.write(name, b"1")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    assert folder.sweep_uploads() == 1
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"new.partial", "old"}


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(BadInput, match="gs://bucket"):
        open_folder("gs://bucket/x")


def test_a_folder_that_can_not_be_written_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="choose an out_uri that is writable"):
        open_folder(str(tmp_path / "file")).write("x", b"")


@pytest.mark.parametrize("num_bytes", [1000, 100_000])
def test_a_disk_that_takes_no_more_is_refused_in_one_sentence(tmp_path: Path, num_bytes: int) -> None:
    folder, before = LocalFolder(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))  # a write breaks off in its middle, as on a full disk
    try:
        for write in (folder.write, folder.write_once):
            with pytest.raises(BadInput, match="choose an out_uri that is writable and has room"):
                write("x", bytes(num_bytes))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_missing_bucket_is_named(monkeypatch: pytest.MonkeyPatch, s3_endpoint: str) -> None:
    use_s3(monkeypatch, s3_endpoint)
    with pytest.raises(StageFailure, match="s3://no-such-bucket/x was refused"):
        open_folder("s3://no-such-bucket").write("x", b"")


def test_folders_that_are_links_are_listed_and_rings_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "train").mkdir(parents=True)
    (tmp_path / "elsewhere" / "train" / "1.jpg").write_bytes(b"1")
    here = tmp_path / "here"
    here.mkdir()
    (here / "0.jpg").write_bytes(b"0")
    (here / "coco").symlink_to(tmp_path / "elsewhere")
    (here / "ring").symlink_to(here)
    (here / "broken").symlink_to(tmp_path / "nowhere")
    assert LocalFolder(here).names() == ["0.jpg", "coco/train/1.jpg"]
