"""Folders of pictures, on a disk and in a bucket."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from components.build_shards.folder_source import CHUNK, FolderSource, category_of, pair_up
from components.build_shards.source import Raw
from components.runtime.errors import BadInput
from components.runtime.storage import Folder, open_folder
from tests.s3 import s3_server, use_s3


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_endpoint: str) -> Folder:
    if request.param == "disk":
        return open_folder(str(tmp_path))
    use_s3(monkeypatch, s3_endpoint)
    boto3.client("s3").create_bucket(Bucket="bucket")
    return open_folder(f"s3://bucket/{tmp_path.name}")


def read_all(source: FolderSource) -> list[Raw]:
    return [raw for item in source.items() for raw in source.read(item)]


def test_pictures_come_with_their_captions_and_classes(folder: Folder) -> None:
    folder.write("cats/old/1.JPG", b"cat")
    folder.write("cats/old/1.txt", b"a cat")
    folder.write("2.png", b"thing")
    source = FolderSource(folder, needs_caption=False)
    found = read_all(source)
    assert sorted(found, key=lambda raw: raw.name) == [
        Raw("2.png", b"thing"),
        Raw("cats/old/1.JPG", b"cat", b"a cat", category="cats"),
    ]
    assert read_all(pickle.loads(pickle.dumps(source))) == found


def test_a_picture_or_caption_without_the_other_is_unpaired(folder: Folder) -> None:
    for name in ("whole.png", "whole.txt", "a/bare.gif", "alone.txt"):
        folder.write(name, b"x")
    rejects = {raw.name: raw.reject for raw in read_all(FolderSource(folder, needs_caption=True))}
    assert rejects == {"whole.png": "", "a/bare.gif": "unpaired", "alone.txt": "unpaired"}
    rejects = {raw.name: raw.reject for raw in read_all(FolderSource(folder, needs_caption=False))}
    assert rejects == {"whole.png": "", "a/bare.gif": "", "alone.txt": "unpaired"}


def test_a_picture_that_has_gone_since_the_listing_is_unreadable(folder: Folder) -> None:
    folder.write("kept.png", b"x")
    folder.write("gone.png", b"x")
    source = FolderSource(folder, needs_caption=False)
    (item,) = source.items()
    folder.delete("gone.png")
    assert {raw.name: raw.reject for raw in source.read(item)} == {"kept.png": "", "gone.png": "unreadable"}


def test_a_caption_of_a_file_that_is_not_read_is_no_input() -> None:
    assert sorted(pair_up(["a.svg", "a.txt", "b.png", "b.txt", "c.txt"])) == [("b.png", "b.txt"), ("c.txt", "")]


def test_a_name_may_have_dots_and_spaces() -> None:
    assert pair_up(["x.y/my cat.v2.png", "x.y/my cat.v2.txt"]) == [("x.y/my cat.v2.png", "x.y/my cat.v2.txt")]
    assert category_of("x.y/z/my cat.v2.png") == "x.y" and category_of("my cat.png") == ""


def test_items_are_chunks_that_mix_the_classes_in_an_order_that_is_always_the_same(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path))
    names = [f"{name}/{number:04d}.png" for name in ("a", "b") for number in range(CHUNK)]
    for name in names:
        folder.write(name, name.encode())
    source = FolderSource(folder, needs_caption=False)
    items = source.items()
    assert items == source.items()
    assert [item.num_inputs for item in items] == [CHUNK, CHUNK]
    chunks = [[raw.name for raw in source.read(item)] for item in items]
    assert sorted(chunks[0] + chunks[1]) == names
    # Of 256 drawn without return from two classes of 256, 128 +- 5 standard deviations (5.7) are of the first.
    assert 99 < sum(name.startswith("a/") for name in chunks[0]) < 157
    assert all(raw.image == raw.name.encode() for item in items for raw in source.read(item))


def test_a_reader_that_stops_early_leaves_no_threads_behind(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path))
    for number in range(50):
        folder.write(f"{number}.png", b"x")
    source = FolderSource(folder, needs_caption=False)
    rows = source.read(source.items()[0])
    assert next(rows).image == b"x"
    rows.close()
    assert next(source.read(source.items()[0])).image == b"x"


@pytest.mark.parametrize("names", [[], ["readme.md"], ["only.txt"]])
def test_a_folder_without_pictures_is_refused_in_a_sentence(tmp_path: Path, names: list[str]) -> None:
    folder = open_folder(str(tmp_path))
    for name in names:
        folder.write(name, b"x")
    with pytest.raises(BadInput, match=r"holds no pictures: expected files ending in \.png"):
        FolderSource(folder, needs_caption=False).items()
