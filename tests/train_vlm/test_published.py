"""train_vlm with a pretrained language model, on LLaVA's published layout and on shards; alone and on several ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from components.benchmark_vlm.params import Params as BenchmarkVlm
from components.build_shards.params import Params as BuildShards
from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PREEMPTED
from components.runtime.manifest import read_manifest
from components.runtime.stage import Stage, run_stage
from components.runtime.storage import LocalFolder
from components.train_vlm.params import Params
from tests.train_vlm.published_data import (
    NUM_CAPTIONS,
    NUM_CONVERSATIONS,
    write_captions,
    write_conversations,
    write_language_model,
)
from tests.train_vlm.test_train_vlm import write_checkpoint

SMALL = {
    "align_steps": 3, "align_batch_size": 4, "tune_steps": 4, "tune_batch_size": 4, "tune_learning_rate": 1e-3,
    "checkpoint_every_steps": 2, "log_every_steps": 1, "max_length": 256,
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_captions(folder / "captions")
    write_conversations(folder / "conversations")
    write_language_model(folder / "language_model")
    write_checkpoint(LocalFolder(folder / "clip"), "clip", 0)
    for purpose in ("instruct", "benchmark"):
        argv = [f"--out_uri={folder / purpose}", f"--purpose={purpose}", "--image_size_px=16", "--num_samples=8"]
        assert run_stage(BuildShards, [*argv, "--num_workers=1"]) == EXIT_DONE
    return folder


def argv(inputs: Path, out: Path, **changed: Any) -> list[str]:
    values = SMALL | {
        "checkpoint": inputs / "clip",
        "language_model": inputs / "language_model",
        "align_data": inputs / "captions" / "blip_laion_cc_sbu_558k.json",
        "tune_data": inputs / "conversations" / "llava_v1_5_mix665k.json",
        "out_uri": out,
    }
    return [f"--{name}={value}" for name, value in (values | changed).items() if value is not None]


def files(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(LocalFolder(folder))
    assert manifest is not None
    return manifest.files


def weights(folder: Path) -> dict[str, torch.Tensor]:
    names = ("projector.safetensors", "language_model/model.safetensors")
    return {f"{name}/{key}": tensor for name in names for key, tensor in load_file(folder / name).items()}


def test_llavas_data_trains_a_model_that_the_benchmark_asks(inputs: Path, tmp_path: Path) -> None:
    assert run_stage(Params, argv(inputs, tmp_path / "vlm")) == EXIT_DONE
    manifest = read_manifest(LocalFolder(tmp_path / "vlm"))
    assert manifest is not None and manifest.summary["template"] == "vicuna_v1"
    found = {name: manifest.counts[name]["conversations"] for name in ("align", "tune")}
    assert found == {"align": NUM_CAPTIONS, "tune": NUM_CONVERSATIONS}
    curve = json.loads((tmp_path / "vlm" / "curve.json").read_bytes())
    assert curve["tune"]["steps"] == [1, 2, 3, 4] and "text" not in curve
    before = load_file(inputs / "language_model" / "model.safetensors")
    after = load_file(tmp_path / "vlm" / "language_model" / "model.safetensors")
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    benchmark = [f"--vlm={tmp_path / 'vlm'}", f"--benchmark={inputs / 'benchmark'}"]
    for mode in ("score", "generate"):
        out = [f"--out_uri={tmp_path / mode}", f"--mode={mode}", "--max_new_tokens=3"]
        assert run_stage(BenchmarkVlm, benchmark + out) == EXIT_DONE


def test_captions_alone_train_the_projector_alone(inputs: Path, tmp_path: Path) -> None:
    assert run_stage(Params, argv(inputs, tmp_path, tune_learning_rate=0)) == EXIT_DONE
    before = load_file(inputs / "language_model" / "model.safetensors")
    after = load_file(tmp_path / "language_model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_shards_serve_as_well(inputs: Path, tmp_path: Path) -> None:
    own = {"align_data": None, "tune_data": None, "shards": inputs / "instruct"}
    assert run_stage(Params, argv(inputs, tmp_path, **own)) == EXIT_DONE
    manifest = read_manifest(LocalFolder(tmp_path))
    assert manifest is not None and manifest.counts["tune"]["conversations"] == 8
    assert manifest.summary["template"] == "vicuna_v1"


def test_lora_is_part_of_an_ordinary_model_at_the_end(inputs: Path, tmp_path: Path) -> None:
    assert run_stage(Params, argv(inputs, tmp_path, lora_rank=2)) == EXIT_DONE
    before = load_file(inputs / "language_model" / "model.safetensors")
    after = load_file(tmp_path / "language_model" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("proj" in name for name in changed)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_stopped_run_goes_on_to_the_same_bits(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora_rank: int
) -> None:
    assert run_stage(Params, argv(inputs, tmp_path / "whole", lora_rank=lora_rank)) == EXIT_DONE
    for stop_after in (1, 5):  # asked to stop, as by SIGTERM: in align, in tune
        asked = iter(range(100))
        monkeypatch.setattr(Stage, "stopping", lambda _, asked=asked, last=stop_after: next(asked) >= last)
        assert run_stage(Params, argv(inputs, tmp_path / "stopped", lora_rank=lora_rank)) == EXIT_PREEMPTED
    monkeypatch.undo()
    assert run_stage(Params, argv(inputs, tmp_path / "stopped", lora_rank=lora_rank)) == EXIT_DONE
    assert files(tmp_path / "whole") == files(tmp_path / "stopped")


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_are_one(inputs: Path, tmp_path: Path, parallel: str) -> None:
    """Two processes under torchrun; gradients are averaged in another order, so within 1e-4."""
    assert run_stage(Params, argv(inputs, tmp_path / "one")) == EXIT_DONE
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*launcher, "-m", "components.train_vlm", *argv(inputs, tmp_path / "two", parallel=parallel)]
    ended = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert ended.returncode == EXIT_DONE, ended.stderr.decode()[-3000:]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"align_data": None}, "--align_data and --tune_data belong together"),
        ({"language_model": "tiny"}, "--tune_data="),
        ({"max_length": 8}, "no reply begins within max_length=8"),
        ({"tune_batch_size": 17}, "batch_size=17 is more than the 16 conversations"),
        ({"language_model": "/nowhere/at/all"}, "--language_model"),
        ({"checkpoint": "timm:no_such_model"}, "--checkpoint=timm:no_such_model can't be used"),
    ],
)
def test_bad_input_is_one_sentence(
    inputs: Path, tmp_path: Path, changed: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_stage(Params, argv(inputs, tmp_path / "out", **changed)) == EXIT_BAD_INPUT
    problems = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"event": "bad_input"' in line]
    assert len(problems) == 1 and sentence in problems[0]["problem"]


def test_a_missing_picture_is_left_out_or_refused(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_conversations(tmp_path / "data", image="coco/train2017/none.jpg")
    assert run_stage(Params, argv(inputs, tmp_path / "out", tune_data=path)) == EXIT_BAD_INPUT
    assert "there is no picture coco/train2017/none.jpg" in capsys.readouterr().err
    assert run_stage(Params, argv(inputs, tmp_path / "out", tune_data=path, max_left_out=0.1)) == EXIT_DONE
    manifest = read_manifest(LocalFolder(tmp_path / "out"))
    assert manifest is not None and manifest.counts["tune"]["left_out"] == {"picture_missing": 1}
