"""Ceph's gateway, which checks signatures and conditions as stores on premises do, holds a run like any other."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest

from components.runtime.errors import StageFailure
from components.runtime.s3 import S3Folder
from components.runtime.s3_client import Limits
from tests.runtime.radosgw import missing_programs, radosgw
from tests.s3 import ACCESS_KEY, SECRET, use_s3

MIB = 1 << 20
PARTS = Limits(part_bytes=5 * MIB)
DATA = hashlib.shake_256(b"large").digest(17 * MIB + 5)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_programs()), reason=f"Ceph isn't installed: {', '.join(missing_programs())}"),
]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with radosgw(tmp_path_factory.mktemp("ceph"), ACCESS_KEY, SECRET) as address:
        yield address


@pytest.fixture
def folder(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3Folder:
    use_s3(monkeypatch, endpoint)
    boto3.session.Session().client("s3").create_bucket(Bucket="bucket")
    found = S3Folder("bucket", "run", PARTS)
    found.clear()
    return found


def test_an_object_of_several_parts_is_read_whole_in_ranges_and_as_a_file(folder: S3Folder) -> None:
    folder.write("large", DATA)
    assert folder.read("large") == DATA and folder.size("large") == len(DATA)
    assert folder.read_range("large", 5 * MIB - 3, 11 * MIB) == DATA[5 * MIB - 3 : 11 * MIB]
    with folder.open("large") as file:
        file.seek(-7, 2)
        assert file.read() == DATA[-7:]
        file.seek(0)
        assert file.read() == DATA
    assert folder.names() == ["large"]


def test_of_many_writers_at_once_one_wins(folder: S3Folder) -> None:
    texts = [b"writer %d" % i for i in range(16)]
    with ThreadPoolExecutor(len(texts)) as threads:
        won = list(threads.map(lambda text: folder.write_once("lease", text), texts))
    assert won.count(True) == 1
    assert folder.read("lease") == texts[won.index(True)]


def test_a_wrong_secret_is_refused_in_a_sentence_without_it(
    folder: S3Folder, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-" + SECRET)
    with pytest.raises(StageFailure, match=r"^auth: .*run/x was refused \(SignatureDoesNotMatch\)") as refusal:
        folder.write("x", b"1")
    assert SECRET not in str(refusal.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
    monkeypatch.setattr("components.runtime.s3_client._connections", {})
    with pytest.raises(StageFailure, match=r"^auth: .*InvalidAccessKeyId"):
        folder.read("x")


def test_a_broken_upload_is_gone_and_a_fresh_one_is_not_swept(folder: S3Folder) -> None:
    client = boto3.session.Session().client("s3")
    with pytest.raises(ZeroDivisionError), folder.writer("broken") as file:
        file.write(DATA)
        1 / 0  # noqa: B018
    assert "Uploads" not in client.list_multipart_uploads(Bucket="bucket")
    upload = client.create_multipart_upload(Bucket="bucket", Key="run/fresh")
    assert folder.sweep_uploads() == 0
    client.abort_multipart_upload(Bucket="bucket", Key="run/fresh", UploadId=upload["UploadId"])


def test_missing_names_and_empty_objects_are_what_they_are(folder: S3Folder) -> None:
    folder.write("empty", b"")
    assert folder.read("empty") == b"" and folder.size("empty") == 0
    assert not folder.exists("nothing")
    with pytest.raises(FileNotFoundError, match="s3://bucket/run/nothing"):
        folder.read("nothing")
