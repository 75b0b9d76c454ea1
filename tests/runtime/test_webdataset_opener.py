"""Stock webdataset reads shards in S3 through our reader."""

import io
import tarfile
from pathlib import Path

import boto3
import pytest
import webdataset

from components.runtime import metrics, webdataset_opener
from components.runtime.storage import open_folder
from tests.s3 import s3_server, use_s3


def shard(first: int) -> bytes:
    """Returns a tar of ten samples."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for i in range(first, first + 10):
            for suffix, data in {"txt": b"caption %d" % i, "bin": bytes([i]) * 100_000}.items():
                member = tarfile.TarInfo(f"{i:03}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def test_webdataset_reads_shards_in_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as endpoint:
        use_s3(monkeypatch, endpoint)
        boto3.session.Session().client("s3").create_bucket(Bucket="shards")
        folder = open_folder("s3://shards/train")
        for i in range(2):
            folder.write(f"{i}.tar", shard(10 * i))
        metrics.drain()
        webdataset_opener.register()
        dataset = webdataset.WebDataset("s3://shards/train/{0..1}.tar", shardshuffle=False)
        found = [(sample["__key__"], sample["txt"], sample["bin"]) for sample in dataset]
    assert found == [(f"{i:03}", b"caption %d" % i, bytes([i]) * 100_000) for i in range(20)]
    assert metrics.totals()["storage_read_bytes"] == len(shard(0)) + len(shard(10))


def test_writing_through_webdataset_is_refused() -> None:
    webdataset_opener.register()
    with pytest.raises(ValueError, match="can't be opened with mode 'wb'"):
        webdataset.gopen("s3://shards/train/0.tar", "wb")
