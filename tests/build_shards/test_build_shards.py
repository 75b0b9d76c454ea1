"""build_shards on the synthetic world and on folders of pictures."""

import collections
import io
import json
from pathlib import Path

import pyarrow.parquet
import pytest
from PIL import Image

from components.build_shards.params import Params
from components.core.data.order import SampleOrder
from components.core.data.reader import ShardReader, read_samples
from components.runtime.manifest import Manifest, read_manifest
from components.runtime.stage import run_stage
from components.runtime.storage import open_folder


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CETERIS_LOG_FILE", str(tmp_path / "log.jsonl"))
    monkeypatch.setenv("CETERIS_SPOOL", str(tmp_path / "spool.jsonl"))
    monkeypatch.setattr("components.runtime.process.signal.signal", lambda number, handler: None)


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


def test_the_reader_gives_the_orders_samples_and_checks_the_shards(tmp_path: Path) -> None:
    manifest = build(tmp_path, "train", "--purpose=pretrain", "--num_samples=32", "--min_shards=4")
    assert manifest is not None
    folder = open_folder(str(tmp_path / "train"))
    samples = {sample.id: sample for sample in read_samples(folder, manifest)}
    order = SampleOrder([8] * 4, seed=0, batch_size=8, num_streams=4)
    for cache_bytes in (0, 10**9):
        batch = next(ShardReader(folder, manifest, order, cache_bytes).batches(start_step=3))
        for image_CHW, sample, caption in zip(batch.images_BCHW, batch.ids_B.tolist(), batch.captions, strict=True):
            assert image_CHW.permute(1, 2, 0).numpy().tobytes() == samples[sample].image.tobytes()
            assert caption == samples[sample].caption
    shard = tmp_path / "train" / "shards" / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match=r"00001.tar differs from its manifest"):
        list(read_samples(folder, manifest))


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
    assert manifest.counts["reasons"] == {"caption_missing": 1, "duplicate": 1, "not_image": 1}
    rejects = [json.loads(line) for line in (tmp_path / "train" / "rejects.jsonl").read_text().splitlines()]
    assert {r["name"]: r["reason"] for r in rejects}["cats/90.png"] == "not_image"


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
    assert "one folder per class" in last_problem(tmp_path)
