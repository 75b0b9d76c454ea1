"""Questions from parquet files, on a disk and in S3."""

from pathlib import Path

import boto3
import pyarrow.parquet
import pytest

from components.benchmark_vlm.question_files import QuestionFiles, published_tables
from components.runtime.errors import BadInput
from components.runtime.storage import open_folder
from tests.benchmark_vlm import vmcbench
from tests.s3 import s3_server, use_s3


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/dev-00000-of-00001.parquet", "dev"),
        ("data/test-00001-of-00002.parquet", "test"),
        ("VMCBench_TEST.parquet", "test"),
        ("default/dev/0000.parquet", "dev"),
        ("latest.parquet", ""),
        ("device.parquet", ""),
        ("dev/test.parquet", "test"),
    ],
)
def test_a_split_is_what_the_name_says(tmp_path: Path, name: str, split: str):
    vmcbench.write(tmp_path / "set" / name, vmcbench.rows(2))
    (table,) = published_tables(str(tmp_path / "set"))
    assert (table.name, table.split) == (name, split)


def test_pictures_are_those_of_the_wanted_rows(tmp_path: Path):
    rows = vmcbench.rows(250)
    for part, name in ((rows[:130], "a"), (rows[130:], "b")):
        vmcbench.write(tmp_path / f"{name}.parquet", part)
    files = QuestionFiles(published_tables(str(tmp_path)), "--questions")
    assert len(files.questions({}, False)) == 250
    wanted = [0, 99, 100, 129, 130, 249]
    assert files.pictures(wanted) == {number: rows[number]["image"]["bytes"] for number in wanted}


def test_only_row_groups_with_wanted_pictures_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = vmcbench.write(tmp_path / "a.parquet", vmcbench.rows(350))
    files = QuestionFiles(published_tables(str(path)), "--questions")
    files.questions({}, False)
    whole = path.read_bytes()
    groups = pyarrow.parquet.read_metadata(path)
    second = groups.row_group(1).column(groups.num_columns - 2)  # the bytes of the pictures
    damaged = bytearray(whole)
    start = second.dictionary_page_offset or second.data_page_offset
    damaged[start : start + second.total_compressed_size] = bytes(second.total_compressed_size)
    path.write_bytes(damaged)
    assert len(files.pictures([0, 99, 200, 349])) == 4
    with pytest.raises(BadInput, match=r"a\.parquet.*damaged"):
        files.pictures([150])


def test_the_same_questions_come_from_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = vmcbench.write(tmp_path / "dev.parquet", vmcbench.rows(120))
    with s3_server() as endpoint:
        use_s3(monkeypatch, endpoint)
        boto3.client("s3").create_bucket(Bucket="questions")
        open_folder("s3://questions/set").write("dev.parquet", path.read_bytes())
        for uri in ("s3://questions/set", "s3://questions/set/dev.parquet"):
            files = QuestionFiles(published_tables(uri), "--questions")
            here = QuestionFiles(published_tables(str(path)), "--questions")
            assert files.questions({}, False) == here.questions({}, False)
            assert files.pictures([3, 110]) == here.pictures([3, 110])
