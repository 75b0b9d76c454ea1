"""Parquet files with pictures and with URLs, as DataComp, img2dataset and Hugging Face write them."""

import hashlib
import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow
import pyarrow.parquet
import pytest

from components.build_shards import parquet_rows
from components.build_shards.download import DownloadSettings
from components.build_shards.parquet_source import ParquetSource
from components.build_shards.source import Raw
from components.runtime.errors import BadInput, StageFailure
from components.runtime.storage import Folder, LocalFolder, open_folder
from tests.build_shards.picture_host import PictureHost, picture_host, sends
from tests.s3 import s3_server, use_s3

DOWNLOADS = DownloadSettings(first_wait_s=0.01, allowed_private_hosts=("127.0.0.1",))
HF_IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path))


@pytest.fixture
def host() -> Iterator[PictureHost]:
    with picture_host() as server:
        yield server


def write(folder: Folder, name: str, table: pyarrow.Table | dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    table = pyarrow.table(table) if isinstance(table, dict) else table
    pyarrow.parquet.write_table(table, buffer, **options)
    folder.write(name, buffer.getvalue())
    return buffer.getvalue()


def read_all(folder: Folder) -> list[Raw]:
    source = pickle.loads(pickle.dumps(ParquetSource(folder, DOWNLOADS)))
    found = []
    for item in source.items():
        raws = list(source.read(item))
        assert len(raws) == item.num_inputs
        found += raws
    return found


def test_datacomps_urls_are_downloaded_and_their_hashes_checked(folder: Folder, host: PictureHost) -> None:
    host.pages |= {f"/{n}": sends(b"picture %d" % n) for n in range(2)}
    write(
        folder,
        "meta/part.parquet",
        {
            "uid": ["u0", "u1", "u2", "u3"],
            "url": [host.url("/0"), host.url("/1"), host.url("/2"), None],
            "text": ["zero", "one", "two", "three"],
            "sha256": [hashlib.sha256(b"picture 0").hexdigest(), "0" * 64, "0" * 64, "0" * 64],
            "original_width": [1, 2, 3, 4],
        },
    )
    assert read_all(folder) == [
        Raw("meta/part.parquet:0", b"picture 0", "zero", url=host.url("/0"), key="u0"),
        Raw("meta/part.parquet:1", b"", "one", url=host.url("/1"), key="u1", reject="hash_mismatch"),
        Raw("meta/part.parquet:2", b"", "two", url=host.url("/2"), key="u2", reject="http_status"),
        Raw("meta/part.parquet:3", b"", "three", key="u3", reject="bad_url"),
    ]


def test_names_of_columns_may_be_in_capitals_as_in_laion(folder: Folder, host: PictureHost) -> None:
    host.pages["/"] = sends(b"picture")
    write(folder, "a.parquet", {"URL": [host.url("/")], "TEXT": ["words"]})
    assert read_all(folder) == [Raw("a.parquet:0", b"picture", "words", url=host.url("/"))]


def test_hugging_faces_pictures_have_the_names_of_their_classes(folder: Folder) -> None:
    features = {"img": {"_type": "Image"}, "fine": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    schema = pyarrow.schema(
        [("img", HF_IMAGE), ("fine", pyarrow.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    images = [{"bytes": b"%d" % n, "path": None} for n in range(4)]
    write(folder, "data/train.parquet", pyarrow.table([images, [1, 0, -1, 2]], schema=schema))
    assert read_all(folder) == [
        Raw("data/train.parquet:0", b"0", category="dog"),
        Raw("data/train.parquet:1", b"1", category="cat"),
        Raw("data/train.parquet:2", b"2"),
        Raw("data/train.parquet:3", reject="bad_label"),
    ]


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("caption", pyarrow.array(["x", None]), [("x", ""), (None, "")]),
        ("caption", pyarrow.array([["x", "y"], []]), [("x", ""), (None, "")]),
        ("text", pyarrow.array(["x", "y"]).dictionary_encode(), [("x", ""), ("y", "")]),
        ("label", pyarrow.array([3, None]), [(None, "3"), (None, "")]),
        ("class", pyarrow.array(["cat", ""]), [(None, "cat"), (None, "")]),
    ],
)
def test_captions_and_classes_have_several_forms(folder: Folder, column: str, values: Any, expected: Any) -> None:
    write(folder, "a.parquet", {"image": pyarrow.array([b"1", None]), column: values})
    found = read_all(folder)
    assert [raw.image for raw in found] == [b"1", b""]
    assert [(raw.caption, raw.category) for raw in found] == expected


@pytest.mark.parametrize("is_s3", [False, True])
def test_items_are_spans_of_row_groups_and_give_every_row_once_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_s3: bool
) -> None:
    with s3_server() as endpoint:
        use_s3(monkeypatch, endpoint)
        boto3.client("s3").create_bucket(Bucket="bucket")
        folder = open_folder("s3://bucket/tables" if is_s3 else str(tmp_path))
        images = [b"%d" % n for n in range(5250)]
        write(folder, "a.parquet", {"image": images[:4250]}, row_group_size=2150)
        write(folder, "b.parquet", {"image": images[4250:]})
        write(folder, "nothing.parquet", {"image": pyarrow.array([], pyarrow.binary())})
        source = ParquetSource(folder, DOWNLOADS)
        items = source.items()
        assert [item.num_inputs for item in items] == [1000, 1000, 150, 1000, 1000, 100, 1000]
        straight = [raw for item in items for raw in source.read(item)]
        assert [raw.image for raw in straight] == images
        assert len({raw.name for raw in straight}) == 5250
        assert straight[2150].name == "a.parquet:2150"
        turned = [list(source.read(item)) for item in reversed(items)]
        assert [raw for raws in reversed(turned) for raw in raws] == straight
        skipping = [raw for item in items[1::2] for raw in source.read(item)]
        assert skipping == straight[1000:2000] + straight[2150:3150] + straight[4150:4250]


def test_a_pass_goes_on_where_the_last_item_ended(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "a.parquet", {"image": [b"%d" % n for n in range(3000)]})
    source = ParquetSource(folder, DOWNLOADS)
    items = source.items()
    opened = []
    original = LocalFolder.open
    monkeypatch.setattr(LocalFolder, "open", lambda self, name: (opened.append(name), original(self, name))[1])
    for item in items:
        list(pickle.loads(pickle.dumps(source)).read(item))
    assert opened == ["a.parquet"]


def test_an_item_that_is_left_early_is_read_again_whole(folder: Folder) -> None:
    write(folder, "a.parquet", {"image": [b"%d" % n for n in range(500)]})
    source = ParquetSource(folder, DOWNLOADS)
    (item,) = source.items()
    rows = source.read(item)
    assert next(rows).image == b"0"
    rows.close()
    assert len({raw.image for raw in source.read(item)}) == 500


def test_rows_from_a_damaged_page_on_are_unreadable(folder: Folder) -> None:
    images = [hashlib.sha256(b"%d" % n).digest() * 20 for n in range(2000)]
    data = bytearray(
        write(
            folder,
            "a.parquet",
            {"image": images},
            data_page_size=40_000,
            write_batch_size=50,
            compression="none",
            use_dictionary=False,
            write_page_checksum=True,
        )
    )
    place = data.index(images[1500])
    data[place] ^= 0xFF
    folder.write("a.parquet", bytes(data))
    found = read_all(folder)
    rejects = [raw.reject for raw in found]
    first = rejects.index("unreadable")
    assert 1300 < first <= 1500 and rejects == [""] * first + ["unreadable"] * (2000 - first)
    assert [raw.image for raw in found[:first]] == images[:first]
    assert [raw.name for raw in found] == [f"a.parquet:{n}" for n in range(2000)]


def test_a_fault_of_the_store_is_not_taken_for_damage(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise StageFailure("the store is down")

    write(folder, "a.parquet", {"image": [b"1"]})
    (item,) = ParquetSource(folder, DOWNLOADS).items()
    monkeypatch.setattr(LocalFolder, "open", lambda self, name: Failing(self.read(name)))
    with pytest.raises(StageFailure, match="the store is down"):
        list(ParquetSource(folder, DOWNLOADS).read(item))


def test_a_file_without_pictures_and_urls_is_refused_with_its_columns(folder: Folder) -> None:
    write(folder, "good.parquet", {"url": ["http://example.org/"]})
    write(folder, "odd.parquet", {"image": ["not bytes"], "words": ["x"]})
    with pytest.raises(
        BadInput, match=r"odd\.parquet has neither .* called image or .* it has image \(string\), words"
    ):
        ParquetSource(folder, DOWNLOADS).items()


def test_several_columns_of_classes_are_refused_unless_one_is_the_label(folder: Folder) -> None:
    about = {"info": {"features": {n: {"_type": "ClassLabel", "names": ["x"]} for n in ("fine", "coarse")}}}
    schema = pyarrow.schema(
        [("img", pyarrow.binary()), ("fine", pyarrow.int64()), ("coarse", pyarrow.int64())],
        metadata={"huggingface": json.dumps(about)},
    )
    table = pyarrow.table([[b"1"], [0], [0]], schema=schema)
    write(folder, "a.parquet", table)
    with pytest.raises(BadInput, match=r"several columns of classes \(fine, coarse\): rename .* `label`"):
        ParquetSource(folder, DOWNLOADS).items()
    write(folder, "a.parquet", table.append_column("label", pyarrow.array(["y"])))
    assert [raw.category for raw in read_all(folder)] == ["y"]


def test_what_is_no_parquet_is_refused_by_name(folder: Folder) -> None:
    folder.write("broken.parquet", b"PAR1 but not for long")
    with pytest.raises(BadInput, match=r"broken\.parquet can't be read as parquet"):
        ParquetSource(folder, DOWNLOADS).items()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_without_rows_is_refused(folder: Folder, is_there: bool) -> None:
    if is_there:
        write(folder, "a.parquet", {"image": pyarrow.array([], pyarrow.binary())})
    with pytest.raises(BadInput, match=r"holds no rows in files ending in \.parquet"):
        ParquetSource(folder, DOWNLOADS).items()


def test_a_batch_divides_a_span() -> None:
    assert parquet_rows.ROWS_PER_SPAN % parquet_rows.ROWS_PER_BATCH == 0
