"""train_vlm over a few real shards: files, parity, resume, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.build_shards.params import Params as BuildShards
from components.core.models.encoder import save_encoder
from components.core.models.trunk import Trunk
from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PREEMPTED
from components.runtime.manifest import Manifest, describe_file, read_manifest, write_manifest
from components.runtime.stage import Stage, run_stage
from components.runtime.storage import LocalFolder
from components.train_vlm.params import Params

SMALL = {
    "tiny_width": 16, "tiny_heads": 2, "tiny_depth": 1, "text_steps": 4, "text_batch_size": 4, "align_steps": 3,
    "align_batch_size": 4, "tune_steps": 4, "tune_batch_size": 4, "checkpoint_every_steps": 2, "log_every_steps": 1,
}  # fmt: skip


def write_checkpoint(folder: LocalFolder, arm: str, seed: int) -> None:
    trunk = Trunk(image_size_px=16, patch_size_px=8, width=16, depth=2, num_heads=2, seed=seed)
    names = save_encoder(folder, trunk, {"arm": arm, "seed": seed, "replicate": 0})
    files = {name: describe_file(folder, name) for name in names}
    empty: dict[str, Any] = {name: {} for name in ("params", "inputs", "counts", "cost", "code")}
    manifest = Manifest(kind="CheckpointManifest", stage="pretrain", files=files, summary={"arm": arm}, **empty)
    write_manifest(folder, manifest)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for purpose, size in (("instruct", 16), ("probe", 16)):
        argv = [f"--out_uri={folder / purpose}", f"--purpose={purpose}", "--image_size_px=16", "--min_shards=2"]
        assert run_stage(BuildShards, [*argv, f"--num_samples={size}", "--num_workers=1"]) == EXIT_DONE
    for seed, arm in enumerate(("clip", "dino")):
        write_checkpoint(LocalFolder(folder / arm), arm, seed)
    return folder


def argv(inputs: Path, out: Path, arm: str = "clip", **changed: Any) -> list[str]:
    values = SMALL | {"shards": inputs / "instruct", "checkpoint": inputs / arm, "out_uri": out} | changed
    return [f"--{name}={value}" for name, value in values.items()]


def test_arms_share_everything_but_the_encoder(inputs: Path, tmp_path: Path):
    found = {}
    for arm in ("clip", "dino"):
        assert run_stage(Params, argv(inputs, tmp_path / arm, arm)) == EXIT_DONE
        found[arm] = read_manifest(LocalFolder(tmp_path / arm))
    assert found["clip"].summary["parity"] == found["dino"].summary["parity"]
    assert found["clip"].summary["arm"] == "clip"
    assert found["clip"].files["projector.safetensors"] != found["dino"].files["projector.safetensors"]
    assert not list((tmp_path / "clip" / "checkpoints").rglob("*.safetensors"))
    curve = json.loads((tmp_path / "clip" / "curve.json").read_bytes())
    assert [len(curve[phase]["steps"]) for phase in ("text", "align", "tune")] == [4, 3, 4]


def test_a_stopped_run_goes_on_to_the_same_bits(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert run_stage(Params, argv(inputs, tmp_path / "whole")) == EXIT_DONE
    for stop_after in (3, 5, 5):  # asked to stop, as by SIGTERM: in text, after align, in tune
        asked = iter(range(100))
        monkeypatch.setattr(Stage, "stopping", lambda _, asked=asked, last=stop_after: next(asked) >= last)
        assert run_stage(Params, argv(inputs, tmp_path / "stopped")) == EXIT_PREEMPTED
    monkeypatch.undo()
    assert run_stage(Params, argv(inputs, tmp_path / "stopped")) == EXIT_DONE
    whole, stopped = (read_manifest(LocalFolder(tmp_path / name)) for name in ("whole", "stopped"))
    assert whole.digest == stopped.digest


def test_a_pretrained_language_model_skips_the_text(inputs: Path, tmp_path: Path):
    assert run_stage(Params, argv(inputs, tmp_path / "first")) == EXIT_DONE
    path = tmp_path / "first" / "language_model"
    assert run_stage(Params, argv(inputs, tmp_path / "second", language_model=path, max_length=1024)) == EXIT_DONE
    assert "text" not in json.loads((tmp_path / "second" / "curve.json").read_bytes())


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"language_model": "/nowhere/at/all"}, "--language_model"),
        ({"max_length": 8}, "--max_length"),
        ({"tiny_width": 17}, "no multiple"),
    ],
)
def test_bad_input_is_one_sentence(
    inputs: Path, tmp_path: Path, changed: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
):
    assert run_stage(Params, argv(inputs, tmp_path / "out", **changed)) == EXIT_BAD_INPUT
    problems = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"event": "bad_input"' in line]
    assert len(problems) == 1 and sentence in problems[0]["problem"]


def test_shards_of_another_purpose_are_refused(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run_stage(Params, argv(inputs, tmp_path / "out", shards=inputs / "probe")) == EXIT_BAD_INPUT
    assert "give instruct shards" in capsys.readouterr().err
