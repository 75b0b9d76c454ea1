"""benchmark_vlm over a small model and a small benchmark."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from components.benchmark_vlm.params import Params
from components.build_shards.params import Params as BuildShards
from components.core.data.conversation import TEMPLATES
from components.core.models.language_model import tiny_language_model
from components.core.models.projector import Projector
from components.core.models.trunk import Trunk
from components.core.models.vision_tower import own_tower
from components.core.models.vlm import VisionLanguageModel
from components.core.models.vlm_files import save_vlm
from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE
from components.runtime.manifest import Manifest, describe_file, write_manifest
from components.runtime.stage import run_stage
from components.runtime.storage import LocalFolder


def commit(folder: LocalFolder, kind: str, summary: dict[str, Any]) -> None:
    files = {name: describe_file(folder, name) for name in folder.names() if name != "manifest.json"}
    empty: dict[str, Any] = {name: {} for name in ("params", "inputs", "counts", "cost", "code")}
    write_manifest(folder, Manifest(kind=kind, stage="made", files=files, summary=summary, **empty))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    argv = [f"--out_uri={folder / 'benchmark'}", "--purpose=benchmark", "--image_size_px=16", "--num_samples=6"]
    assert run_stage(BuildShards, [*argv, "--num_workers=1"]) == EXIT_DONE
    vlm = LocalFolder(folder / "vlm")
    language_model = tiny_language_model(["red green"], width=16, depth=1, num_heads=2, seed=0)
    trunk = Trunk(image_size_px=16, patch_size_px=8, width=16, depth=2, num_heads=2, seed=0)
    projector = Projector(in_width=16, out_width=16, seed=0)
    save_vlm(vlm, VisionLanguageModel(own_tower(trunk, {}), projector, language_model, TEMPLATES["bare"]))
    commit(vlm, "VlmManifest", {"arm": "clip", "replicate": 0})
    return folder


def argv(inputs: Path, out: Path, **changed: Any) -> list[str]:
    values = {"vlm": inputs / "vlm", "benchmark": inputs / "benchmark", "out_uri": out} | changed
    return [f"--{name}={value}" for name, value in values.items()]


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def test_every_question_is_answered_and_scored(inputs: Path, tmp_path: Path):
    assert run_stage(Params, argv(inputs, tmp_path)) == EXIT_DONE
    lines, scores = answers(tmp_path), json.loads((tmp_path / "scores.json").read_bytes())
    assert scores["arm"] == "clip" and scores["unparsed_rate"] == 0
    assert scores["micro"]["n"] == len(lines) == sum(entry["n"] for entry in scores["sets"].values())
    assert scores["micro"]["accuracy"] == pytest.approx(sum(line["is_correct"] for line in lines) / len(lines))
    assert all(line["is_parsed"] and line["is_correct"] == (line["answer"] == line["predicted"]) for line in lines)


def test_the_batch_size_changes_no_answer(inputs: Path, tmp_path: Path):
    for size in (1, 7, 64):
        assert run_stage(Params, argv(inputs, tmp_path / str(size), batch_size=size)) == EXIT_DONE
    assert answers(tmp_path / "1") == answers(tmp_path / "7") == answers(tmp_path / "64")


def test_generated_replies_are_parsed(inputs: Path, tmp_path: Path):
    assert run_stage(Params, argv(inputs, tmp_path, mode="generate", max_new_tokens=3)) == EXIT_DONE
    scores = json.loads((tmp_path / "scores.json").read_bytes())
    unread = [line for line in answers(tmp_path) if not line["is_parsed"]]
    assert scores["unparsed_rate"] == pytest.approx(len(unread) / scores["micro"]["n"])
    assert not any(line["is_correct"] for line in unread)


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("answer", "E", "expected A, B, C or D"),
        ("category", "Nobody", "belongs to no group"),
        ("image", b"no picture", "can't be decoded"),
        ("index", 1, "occurs twice"),
    ],
)
def test_a_faulty_benchmark_is_refused(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, value: Any, sentence: str
):
    table = pyarrow.parquet.read_table(io.BytesIO((inputs / "benchmark" / "benchmark.parquet").read_bytes()))
    rows = table.to_pylist()
    rows[0][column] = value
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), buffer)
    faulty = LocalFolder(tmp_path / "faulty")
    faulty.write("benchmark.parquet", buffer.getvalue())
    groups = json.loads((inputs / "benchmark" / "manifest.json").read_bytes())["summary"]["groups"]
    commit(faulty, "BenchmarkManifest", {"groups": groups})
    assert run_stage(Params, argv(inputs, tmp_path / "out", benchmark=faulty.path)) == EXIT_BAD_INPUT
    problems = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"event": "bad_input"' in line]
    assert len(problems) == 1 and sentence in problems[0]["problem"]
