"""Tars of others as a source of inputs."""

import io
import json
import tarfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
import webdataset

from components.build_shards.source import Raw
from components.build_shards.tar_source import TarSource
from components.runtime.storage import LocalFolder

Members = Sequence[tuple[str, bytes | None]]
"""Names with their data; None is a symbolic link."""


def write(path: Path, members: Members) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data or b"")
            if data is None:
                header.type, header.linkname = tarfile.SYMTYPE, "/etc/passwd"
            out.addfile(header, io.BytesIO(data or b""))
    return path.read_bytes()


def read(folder: Path) -> list[Raw]:
    source = TarSource(LocalFolder(folder))
    return [raw for item in source.items() for raw in source.read(item)]


def reasons(folder: Path) -> list[tuple[str, str]]:
    return [(raw.name, raw.reject) for raw in read(folder)]


def sample(key: str) -> list[tuple[str, bytes | None]]:
    return [(f"{key}.jpg", key.encode()), (f"{key}.txt", b"caption of " + key.encode())]


def test_samples_come_with_what_img2dataset_stores_of_them(tmp_path: Path) -> None:
    facts = {"caption": "from the JSON", "url": "http://a/b.jpg", "key": "00000", "sha256": "ab", "width": 40}
    write(tmp_path / "b/00001.tar", [("00010.jpg", b"3"), ("00010.json", b"[1]"), ("00010.cls", b" 7\n")])
    members = [("00000.jpg", b"1"), ("00000.json", json.dumps(facts).encode()), ("00000.txt", b"from the text")]
    write(tmp_path / "00000.tar", [*members, ("00001.webp", b"2"), ("00001.json", json.dumps(facts).encode())])
    (tmp_path / "00000.parquet").write_bytes(b"what img2dataset writes beside it")
    assert read(tmp_path) == [
        Raw("00000.tar/00000", b"1", b"from the text", "", "http://a/b.jpg", "00000"),
        Raw("00000.tar/00001", b"2", "from the JSON", "", "http://a/b.jpg", "00001"),
        Raw("b/00001.tar/00010", b"3", None, "7", "", "00010"),
    ]


@pytest.mark.parametrize("facts", [b"{", b"[" * 100_000, b"\xff", b'{"caption": 3, "url": null}', b"null"])
def test_json_that_says_nothing_is_no_obstacle(tmp_path: Path, facts: bytes) -> None:
    write(tmp_path / "a.tar", [("0.jpg", b"1"), ("0.json", facts)])
    assert read(tmp_path) == [Raw("a.tar/0", b"1", None, key="0")]


def test_shards_of_webdataset_are_read(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        for number in range(3):
            writer.write({"__key__": f"{number}", "jpg": b"picture", "txt": b"caption", "cls": b"1"})
    assert read(tmp_path) == [Raw(f"a.tar/{n}", b"picture", b"caption", "1", key=f"{n}") for n in range(3)]


def test_a_sample_with_an_unsafe_member_is_refused_once(tmp_path: Path) -> None:
    members = [*sample("0"), ("1.jpg", None), ("1.txt", b"caption"), ("../../2.jpg", b"evil"), ("/etc/3.txt", b"evil")]
    write(tmp_path / "a.tar", [*members, ("etc", None), *sample("4")])
    unsafe = [(f"a.tar/{key}", "unsafe_member") for key in ("1", "../../2", "/etc/3", "etc")]
    assert reasons(tmp_path) == [("a.tar/0", ""), *unsafe, ("a.tar/4", "")]


def test_a_caption_without_its_picture_is_unpaired(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [("0.txt", b"caption"), ("1.json", b"{}"), *sample("2"), ("3.jpg", b"3")])
    assert reasons(tmp_path) == [("a.tar/0", "unpaired"), ("a.tar/1", "unpaired"), ("a.tar/2", ""), ("a.tar/3", "")]


def test_the_first_sample_of_a_key_wins(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [*sample("0"), *sample("0"), *sample("1"), *sample("0")])
    write(tmp_path / "b.tar", sample("0"))
    expected = [
        ("a.tar/0", ""),
        ("a.tar/0#2", "duplicate"),
        ("a.tar/1", ""),
        ("a.tar/0#3", "duplicate"),
        ("b.tar/0", ""),
    ]
    assert reasons(tmp_path) == expected
    assert {raw.key for raw in read(tmp_path)} == {"0", "1"}  # across tars the stage decides


@pytest.mark.parametrize(
    ("length", "whole"), [(0, []), (100, []), (700, ["0"]), (2048, ["0"]), (3000, ["0", "1"]), (4096, ["0", "1"])]
)
def test_of_a_truncated_tar_what_is_whole_is_kept(tmp_path: Path, length: int, whole: list[str]) -> None:
    data = write(tmp_path / "a.tar", [*sample("0"), *sample("1")])  # a member is 1,024 bytes
    (tmp_path / "a.tar").write_bytes(data[:length])
    write(tmp_path / "b.tar", sample("2"))
    kept = [(f"a.tar/{key}", "") for key in whole]
    assert reasons(tmp_path) == [*kept, ("a.tar", "truncated_shard"), ("b.tar/2", "")]


def test_a_damaged_header_ends_a_tar_as_truncation_does(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.tar", [*sample("0"), *sample("1"), *sample("2")]))
    data[2048 + 150] ^= 1
    (tmp_path / "a.tar").write_bytes(bytes(data))
    assert reasons(tmp_path) == [("a.tar/0", ""), ("a.tar", "truncated_shard")]


def test_a_tar_is_not_held_in_memory(tmp_path: Path) -> None:
    picture = bytes(1 << 20)
    write(tmp_path / "a.tar", [(f"{n}.jpg", picture) for n in range(16)])
    source = TarSource(LocalFolder(tmp_path))
    tracemalloc.start()
    assert sum(len(raw.image) for raw in source.read(source.items()[0])) == 16 << 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 << 20
