"""pretrain: the arms share all but the objective, and nothing is lost by stopping."""

import json
from pathlib import Path

import pytest

from components.build_shards.params import Params as BuildShards
from components.pretrain.params import Params
from components.runtime.manifest import Manifest, read_manifest
from components.runtime.stage import Stage, run_stage
from components.runtime.storage import open_folder

SMALL = [
    "--num_samples_seen=160",
    "--batch_size=16",
    "--num_streams=4",
    "--image_size_px=16",
    "--dino_local_size_px=8",
    "--width=16",
    "--depth=2",
    "--num_heads=2",
    "--text_width=16",
    "--text_depth=1",
    "--text_heads=2",
    "--clip_embed_dim=8",
    "--dino_out_dim=32",
    "--dino_head_hidden=16",
    "--dino_head_bottleneck=8",
    "--dino_num_local_crops=2",
    "--warmup_steps=2",
    "--checkpoint_every_steps=3",
    "--log_every_steps=2",
]
EQUAL = ("trunk_init", "manifest", "sample_order", "schedule", "optimiser", "batch_size", "num_samples_seen")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    argv = [f"--out_uri={out}", "--purpose=pretrain", "--num_samples=64", "--image_size_px=24", "--min_shards=4"]
    assert run_stage(BuildShards, argv) == 0
    return out


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CETERIS_LOG_FILE", str(tmp_path / "log.jsonl"))
    monkeypatch.setenv("CETERIS_SPOOL", str(tmp_path / "spool.jsonl"))
    monkeypatch.setattr("components.runtime.process.signal.signal", lambda number, handler: None)


def train(out: Path, shards: Path, arm: str, *more: str) -> Manifest:
    assert run_stage(Params, [f"--out_uri={out}", f"--shards={shards}", f"--arm={arm}", *SMALL, *more]) == 0
    manifest = read_manifest(open_folder(str(out)))
    assert manifest is not None
    return manifest


def test_the_arms_share_everything_but_the_objective(tmp_path: Path, shards: Path) -> None:
    clip, dino = (train(tmp_path / arm, shards, arm).summary["parity"] for arm in ("clip", "dino"))
    assert {name: clip[name] for name in EQUAL} == {name: dino[name] for name in EQUAL}
    assert clip["supervision"] != dino["supervision"]


@pytest.mark.parametrize("arm", ["clip", "dino"])
def test_a_run_that_was_stopped_ends_in_the_same_bits(
    tmp_path: Path, shards: Path, arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = train(tmp_path / "unbroken", shards, arm)
    asked = iter([False, False, False, False, True])
    monkeypatch.setattr(Stage, "stopping", lambda stage: next(asked, False))
    argv = [f"--out_uri={tmp_path / 'broken'}", f"--shards={shards}", f"--arm={arm}", *SMALL]
    assert run_stage(Params, argv) == 3
    assert not (tmp_path / "broken" / "manifest.json").exists()
    broken = train(tmp_path / "broken", shards, arm)
    assert broken.files == unbroken.files and broken.digest == unbroken.digest


def test_the_curve_has_every_logged_step(tmp_path: Path, shards: Path) -> None:
    train(tmp_path / "out", shards, "clip")
    curve = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert curve["steps"] == [2, 4, 6, 8, 10]
    assert curve["samples_seen"] == [32, 64, 96, 128, 160]
    assert len(curve["values"]["loss"]) == 5


def test_more_streams_than_shards_are_refused(tmp_path: Path, shards: Path) -> None:
    argv = [f"--out_uri={tmp_path / 'out'}", f"--shards={shards}", "--arm=clip", *SMALL]
    argv = [word for word in argv if "num_streams" not in word]
    assert run_stage(Params, [*argv, "--num_streams=8"]) == 2
    assert "num_streams=8 is more than the 4 shards" in (tmp_path / "log.jsonl").read_text()


def test_shards_of_another_purpose_are_refused(tmp_path: Path) -> None:
    argv = ["--purpose=probe", "--num_samples=8", "--image_size_px=24"]
    assert run_stage(BuildShards, [f"--out_uri={tmp_path / 'probe'}", *argv]) == 0
    assert run_stage(Params, [f"--out_uri={tmp_path / 'out'}", f"--shards={tmp_path / 'probe'}", "--arm=clip"]) == 2
    assert "built for probe: give pretrain shards" in (tmp_path / "log.jsonl").read_text()
