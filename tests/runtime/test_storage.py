"""Folders on a disk and in S3 behave alike."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from components.runtime.errors import BadInput, StageFailure
from components.runtime.storage import Folder, open_folder


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["path", "file", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_endpoint: str) -> Folder:
    if request.param == "path":
        return open_folder(str(tmp_path / "run"))
    if request.param == "file":
        return open_folder(f"file://{tmp_path}/with%20space")
    use_s3(monkeypatch, s3_endpoint)
    boto3.client("s3").create_bucket(Bucket="bucket")
    return open_folder(f"s3://bucket/{tmp_path.name}")


def use_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("components.runtime.storage._s3_clients", {})


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


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(BadInput, match="gs://bucket"):
        open_folder("gs://bucket/x")


def test_a_folder_that_can_not_be_written_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="choose an out_uri that is writable"):
        open_folder(str(tmp_path / "file")).write("x", b"")


def test_a_missing_bucket_is_named(monkeypatch: pytest.MonkeyPatch, s3_endpoint: str) -> None:
    use_s3(monkeypatch, s3_endpoint)
    with pytest.raises(StageFailure, match="s3://no-such-bucket/x was refused"):
        open_folder("s3://no-such-bucket").write("x", b"")
