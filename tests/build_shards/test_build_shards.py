"""build_shards on the synthetic world and on folders of pictures."""

import collections
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from components.build_shards.params import Params
from components.core.data.shard_samples import read_samples
from components.runtime.manifest import Manifest, read_manifest
from components.runtime.stage import run_stage
from components.runtime.storage import open_folder
from tests.build_shards.picture_host import picture_host


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CETERIS_LOG_FILE", str(tmp_path / "log.jsonl"))
    monkeypatch.setenv("CETERIS_SPOOL", str(tmp_path / "spool.jsonl"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of 40 distinct pictures each, with captions."""
    root = tmp_path / "pictures"
    for number in range(80):
        folder = root / ("cats" if number % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number * 3, 255 - number, number)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"Picture number {number}\nzweite Zeile")
    return root


def build(tmp_path: Path, name: str, *argv: str, code: int = 0) -> Manifest | None:
    out = tmp_path / name
    assert run_stage(Params, [f"--out_uri={out}", "--image_size_px=32", *argv]) == code
    return read_manifest(open_folder(str(out)))


def last_problem(tmp_path: Path) -> str:
    return json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["problem"]


def test_no_scene_serves_two_purposes(tmp_path: Path) -> None:
    captions = {}
    for purpose in ("pretrain", "probe", "instruct"):
        manifest = build(tmp_path, purpose, f"--purpose={purpose}", "--num_samples=20")
        assert manifest is not None
        samples = list(read_samples(open_folder(str(tmp_path / purpose)), manifest))
        captions[purpose] = {sample.image.tobytes() for sample in samples}
        assert [sample.id for sample in samples] == list(range(20))
    assert not captions["pretrain"] & captions["probe"] and not captions["probe"] & captions["instruct"]


def test_a_probe_has_both_splits_and_every_factor(tmp_path: Path) -> None:
    manifest = build(tmp_path, "probe", "--purpose=probe", "--num_samples=40", "--test_fraction=0.25")
    assert manifest is not None
    samples = list(read_samples(open_folder(str(tmp_path / "probe")), manifest))
    assert collections.Counter(sample.split for sample in samples) == {"train": 30, "test": 10}
    assert set(manifest.summary["factors"]) == set(samples[0].labels) >= {"object", "colour", "style", "word"}


def test_a_benchmark_has_the_columns_of_vmcbench(tmp_path: Path) -> None:
    manifest = build(tmp_path, "bench", "--purpose=benchmark", "--num_samples=10")
    assert manifest is not None
    table = pyarrow.parquet.read_table(io.BytesIO((tmp_path / "bench" / "benchmark.parquet").read_bytes()))
    assert table.column_names == ["index", "question", "A", "B", "C", "D", "answer", "category", "image"]
    assert set(table["category"].to_pylist()) == set(manifest.summary["groups"])
    assert set(manifest.summary["groups"].values()) == {"general", "reasoning", "ocr", "doc & chart"}


def test_a_folder_of_pictures_is_split_alike_for_every_purpose(tmp_path: Path, pictures: Path) -> None:
    names = {}
    for purpose in ("pretrain", "probe", "instruct"):
        manifest = build(tmp_path, purpose, f"--purpose={purpose}", f"--source_uri={pictures}")
        assert manifest is not None
        for sample in read_samples(open_folder(str(tmp_path / purpose)), manifest):
            names.setdefault((purpose, sample.split), set()).add(sample.key)
    assert names["pretrain", "train"] == names["probe", "train"] == names["instruct", "train"]
    assert names["probe", "test"] and not names["probe", "test"] & names["probe", "train"]
    assert len(names["probe", "test"] | names["probe", "train"]) == 80


def test_the_first_line_of_a_caption_file_is_the_caption(tmp_path: Path, pictures: Path) -> None:
    manifest = build(tmp_path, "train", "--purpose=pretrain", f"--source_uri={pictures}")
    assert manifest is not None
    samples = list(read_samples(open_folder(str(tmp_path / "train")), manifest))
    assert all(sample.caption.startswith("Picture number") and "zweite" not in sample.caption for sample in samples)


def test_rejects_are_counted_by_reason_and_input_is_kept_rejected_or_duplicate(tmp_path: Path, pictures: Path) -> None:
    (pictures / "cats" / "90.png").write_bytes(b"<html>")
    (pictures / "cats" / "90.txt").write_text("an error page")
    (pictures / "cats" / "91.png").write_bytes((pictures / "cats" / "01.png").read_bytes())
    (pictures / "cats" / "91.txt").write_text("seen before")
    (pictures / "cats" / "03.txt").unlink()
    manifest = build(tmp_path, "train", "--purpose=pretrain", f"--source_uri={pictures}", "--test_fraction=0.01")
    assert manifest is not None
    assert manifest.counts["reasons"] == {"duplicate": 1, "not_image": 1, "unpaired": 1}
    rejects = [json.loads(line) for line in (tmp_path / "train" / "rejects.jsonl").read_text().splitlines()]
    assert {r["name"]: r["reason"] for r in rejects}["cats/90.png"] == "not_image"
    counts = manifest.counts
    assert counts["inputs"] == 82 == sum(counts[kind] for kind in ("samples", "rejected", "duplicates", "unused"))


def test_too_many_rejects_fail_the_stage_with_a_table_of_reasons(tmp_path: Path, pictures: Path) -> None:
    for name in sorted((pictures / "cats").glob("*.txt"))[:10]:
        name.write_bytes(b"\xff\xfe\xfa")
    build(tmp_path, "train", "--purpose=pretrain", f"--source_uri={pictures}", code=1)
    assert "10 of 80 pictures were rejected (caption_encoding 10)" in last_problem(tmp_path)
    assert not (tmp_path / "train" / "manifest.json").exists()
    assert (tmp_path / "train" / "rejects.jsonl").exists()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    build(tmp_path, "train", "--purpose=pretrain", f"--source_uri={tmp_path / 'nothing'}", code=2)
    assert "holds no pictures" in last_problem(tmp_path)


def test_pictures_without_class_folders_can_not_be_probed(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "flat" / "a.png")
    build(tmp_path, "probe", "--purpose=probe", f"--source_uri={tmp_path / 'flat'}", code=2)
    assert "one folder or label per class" in last_problem(tmp_path)


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def jpeg(number: int, size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (number * 3 % 256, 255 - number, number)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Three tars of twelve pictures, as img2dataset writes them."""
    root = tmp_path / "tars"
    root.mkdir()
    for shard in range(3):
        members = []
        for number in range(12 * shard, 12 * shard + 12):
            facts = json.dumps({"url": f"https://example.org/{number}.jpg", "caption": "not this"}).encode()
            members += [(f"{number:09d}.jpg", jpeg(number)), (f"{number:09d}.json", facts)]
            members += [(f"{number:09d}.txt", f"caption {number}".encode())]
        (root / f"{shard:05d}.tar").write_bytes(tar_of(members))
        (root / f"{shard:05d}_stats.json").write_text("{}")
        pyarrow.parquet.write_table(pyarrow.table({"status": ["success"]}), root / f"{shard:05d}.parquet")
    return root


def test_img2dataset_tars_become_shards_in_their_order(tmp_path: Path, tars: Path) -> None:
    manifest = build(tmp_path, "train", "--purpose=pretrain", f"--source_uri={tars}", "--test_fraction=0.01")
    assert manifest is not None
    captions = [sample.caption for sample in read_samples(open_folder(str(tmp_path / "train")), manifest)]
    assert captions == sorted(captions, key=lambda text: int(text.split()[1])) and len(captions) == 36
    table = pyarrow.parquet.read_table(tmp_path / "train" / "samples.parquet").to_pylist()
    assert table[7]["url"] == "https://example.org/7.jpg" and table[7]["name"] == "00000.tar/000000007"


def test_small_jpegs_pass_through_untouched(tmp_path: Path, tars: Path) -> None:
    arguments = ("--purpose=pretrain", f"--source_uri={tars}", "--test_fraction=0.01")
    manifest = build(tmp_path, "train", *arguments)
    assert manifest is not None
    data = b"".join((tmp_path / "train" / name).read_bytes() for name in manifest.files if name.endswith(".tar"))
    assert all(jpeg(number) in data for number in range(36))


def test_a_key_that_comes_twice_is_counted_and_one_sample(tmp_path: Path, tars: Path) -> None:
    twice = [("000000002.jpg", jpeg(99)), ("000000002.txt", b"later"), ("000000040.jpg", jpeg(98))]
    (tars / "00003.tar").write_bytes(tar_of([*twice, ("000000040.txt", b"new"), *twice[:2]]))
    limits = ("--max_reject_fraction=0.1", "--test_fraction=0.01")
    manifest = build(tmp_path, "train", "--purpose=pretrain", f"--source_uri={tars}", *limits)
    assert manifest is not None
    assert manifest.counts["reasons"] == {"duplicate": 1, "duplicate_key": 1}
    assert manifest.counts["samples"] == 37 and manifest.counts["inputs"] == 39
    again = build(tmp_path, "anew", "--purpose=pretrain", f"--source_uri={tars}", "--unique_keys=false", *limits)
    assert again is not None and again.counts["reasons"] == {"duplicate": 1}


def test_a_truncated_tar_gives_its_whole_members_and_fails_the_stage_above_the_limit(
    tmp_path: Path, tars: Path
) -> None:
    path = tars / "00001.tar"
    path.write_bytes(path.read_bytes()[: 512 * 20])
    build(tmp_path, "strict", "--purpose=pretrain", f"--source_uri={tars}", "--max_reject_fraction=0.01", code=1)
    assert "truncated_shard 1" in last_problem(tmp_path)
    manifest = build(
        tmp_path,
        "train",
        "--purpose=pretrain",
        f"--source_uri={tars}",
        "--max_reject_fraction=0.1",
        "--test_fraction=0.01",
    )
    assert manifest is not None
    assert manifest.counts["reasons"]["truncated_shard"] == 1 and 24 < manifest.counts["samples"] < 36


def test_pictures_of_an_evaluation_are_left_out_of_training(tmp_path: Path, pictures: Path) -> None:
    benchmark = build(tmp_path, "probe", "--purpose=probe", f"--source_uri={pictures}", "--seed=1")
    other = build(
        tmp_path,
        "train",
        "--purpose=pretrain",
        f"--source_uri={pictures}",
        "--seed=2",
        f"--exclude={tmp_path / 'probe'}",
        "--max_reject_fraction=0",
    )
    assert benchmark is not None and other is not None
    tests = {s.key for s in read_samples(open_folder(str(tmp_path / "probe")), benchmark) if s.split == "test"}
    trained = {s.key for s in read_samples(open_folder(str(tmp_path / "train")), other)}
    assert tests and trained and not tests & trained
    assert other.counts["reasons"]["in_evaluation"] == len(tests)
    assert other.inputs == {"exclude": benchmark.digest}


def test_the_number_of_samples_cuts_the_source_and_not_all_of_it_is_read(tmp_path: Path, tars: Path) -> None:
    manifest = build(
        tmp_path, "few", "--purpose=pretrain", f"--source_uri={tars}", "--num_samples=5", "--test_fraction=0.01"
    )
    whole = build(tmp_path, "all", "--purpose=pretrain", f"--source_uri={tars}", "--test_fraction=0.01")
    assert manifest is not None and whole is not None
    few, every = (
        [s.key for s in read_samples(open_folder(str(tmp_path / name)), m)]
        for name, m in (("few", manifest), ("all", whole))
    )
    assert few == every[:5] and manifest.counts["inputs"] < 12


def test_a_parquet_of_urls_is_downloaded_and_the_dead_ones_are_counted_apart(tmp_path: Path) -> None:
    with picture_host() as host:
        for number in range(20):
            host.pages[f"/{number}.jpg"] = lambda visit, number=number: visit.answer(jpeg(number))
        host.pages["/18.jpg"] = lambda visit: visit.answer(jpeg(18), headers={"X-Robots-Tag": "noai"})
        rows = {
            "uid": [f"{n:032x}" for n in range(24)],
            "url": [host.url(f"/{n}.jpg") for n in range(24)],
            "text": [f"caption {n}" for n in range(24)],
            "sha256": [hashlib.sha256(jpeg(n if n != 17 else 0)).hexdigest() for n in range(24)],
        }
        (tmp_path / "urls").mkdir()
        pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "urls" / "part-0.parquet", row_group_size=7)
        arguments = ("--purpose=pretrain", f"--source_uri={tmp_path / 'urls'}", "--test_fraction=0.01")
        build(tmp_path, "refused", *arguments, code=1)
        assert "24 of 24 pictures were rejected (private_host 24)" in last_problem(tmp_path)
        manifest = build(tmp_path, "train", *arguments, "--private_hosts=127.0.0.1", "--max_reject_fraction=0")
        assert manifest is not None
        assert manifest.counts["reasons"] == {"hash_mismatch": 1, "http_status": 4, "opted_out": 1}
        assert manifest.counts["samples"] == 18 and manifest.counts["inputs"] == 24
        num_asked = len(host.visits)
    again = build(tmp_path, "train", *arguments, "--private_hosts=127.0.0.1", "--max_reject_fraction=0")
    assert again == manifest and len(host.visits) == num_asked


def test_a_hugging_face_parquet_is_probed_by_its_class_names(tmp_path: Path) -> None:
    names = ["cat", "dog"]
    features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    images = [{"bytes": jpeg(n), "path": f"{n}.jpg"} for n in range(40)]
    table = pyarrow.table({"image": images, "label": [n % 2 for n in range(40)]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    (tmp_path / "hf").mkdir()
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "hf" / "train.parquet")
    manifest = build(tmp_path, "probe", "--purpose=probe", f"--source_uri={tmp_path / 'hf'}")
    assert manifest is not None
    assert manifest.summary["factors"] == {"category": names} and manifest.counts["samples"] == 40


def digests(manifest: Manifest | None) -> dict[str, str]:
    assert manifest is not None
    return {name: facts["sha256"] for name, facts in manifest.files.items()}


@pytest.mark.parametrize("purpose", ["pretrain", "probe", "instruct", "benchmark"])
def test_one_and_four_workers_write_the_same_bytes(tmp_path: Path, pictures: Path, purpose: str) -> None:
    arguments = (f"--purpose={purpose}", f"--source_uri={pictures}")
    one = build(tmp_path, "one", *arguments, "--num_workers=1")
    four = build(tmp_path, "four", *arguments, "--num_workers=4")
    assert digests(one) == digests(four) and len(digests(one)) > 3
    assert one.digest == four.digest
