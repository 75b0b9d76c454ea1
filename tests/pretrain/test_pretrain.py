"""pretrain: the arms share all but the objective, and nothing is lost by stopping."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from components.build_shards.params import Params as BuildShards
from components.pretrain.params import ARMS, Params
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


def train(out: Path, shards: Path, arm: str, *more: str) -> Manifest:
    assert run_stage(Params, [f"--out_uri={out}", f"--shards={shards}", f"--arm={arm}", *SMALL, *more]) == 0
    manifest = read_manifest(open_folder(str(out)))
    assert manifest is not None
    return manifest


def test_the_arms_share_everything_but_the_objective(tmp_path: Path, shards: Path) -> None:
    clip, dino = (train(tmp_path / arm, shards, arm).summary["parity"] for arm in ("clip", "dino"))
    assert {name: clip[name] for name in EQUAL} == {name: dino[name] for name in EQUAL}
    assert clip["supervision"] != dino["supervision"]


@pytest.mark.parametrize("arm", ARMS)
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


def test_a_shard_that_is_lost_on_the_way_ends_the_training_or_is_replaced_and_counted(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "shards"
    shutil.copytree(shards, mine)
    asked = iter([False, False, True])
    monkeypatch.setattr(Stage, "stopping", lambda stage: next(asked, False))
    argv = [f"--out_uri={tmp_path / 'out'}", f"--shards={mine}", "--arm=dino", *SMALL]
    assert run_stage(Params, argv) == 3
    (mine / "shards" / "00002.tar").unlink()
    assert run_stage(Params, argv) == 1
    assert run_stage(Params, [*argv, "--lost_shards=replace"]) == 0
    manifest = read_manifest(open_folder(str(tmp_path / "out")))
    assert manifest is not None and 0 < manifest.summary["parity"]["num_samples_replaced"] < 160
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [event["shard"] for event in events if event["event"] == "shard_lost"] == ["shards/00002.tar"]


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


def test_an_arm_of_other_data_or_another_seed_may_not_join_a_study(tmp_path: Path, shards: Path) -> None:
    study = f"--study={tmp_path / 'study'}"
    train(tmp_path / "clip", shards, "clip", study)
    train(tmp_path / "dino", shards, "dino", study)
    argv = [f"--out_uri={tmp_path / 'other'}", f"--shards={shards}", "--arm=siglip", *SMALL, study]
    assert run_stage(Params, [*argv, "--seed=1"]) == 2
    assert "compares arms of other data or seed (seed is 0 there and 1 here)" in (tmp_path / "log.jsonl").read_text()
    train(tmp_path / "alone", shards, "siglip", "--seed=1")


def test_a_replicate_is_the_arm_with_its_number_added_to_the_seed(tmp_path: Path, shards: Path) -> None:
    study = f"--study={tmp_path / 'study'}"
    first, second = (train(tmp_path / str(n), shards, "clip", study, f"--replicate={n}") for n in (0, 1))
    other = train(tmp_path / "seed", shards, "clip", "--seed=1")
    encoder = "encoder.safetensors"
    assert second.files[encoder] == other.files[encoder] != first.files[encoder]
    assert (first.summary["replicate"], second.summary["replicate"]) == (0, 1)


PROBED = ("probe/knn_object", "probe/knn_style", "probe/zero_shot_word")


def test_the_training_is_probed_on_the_way(tmp_path: Path, shards: Path) -> None:
    argv = ["--purpose=probe", "--num_samples=80", "--image_size_px=24"]
    assert run_stage(BuildShards, [f"--out_uri={tmp_path / 'probe'}", *argv]) == 0
    probed = train(tmp_path / "clip", shards, "clip", f"--probe_shards={tmp_path / 'probe'}", "--probe_every_steps=4")
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [event for event in events if event["event"] == "probed"]
    assert [event["step"] for event in found] == [4, 8]
    assert all(0 <= event[name] <= 1 for event in found for name in PROBED)
    curve = json.loads((tmp_path / "clip" / "curve.json").read_text())
    for name in PROBED:
        probed_at = {
            at: value for at, value in zip(curve["steps"], curve["values"][name], strict=True) if value is not None
        }
        assert {at: round(value, 4) for at, value in probed_at.items()} == {
            event["step"]: event[name] for event in found
        }
    plain = train(tmp_path / "plain", shards, "clip")
    encoders = [manifest.files["encoder.safetensors"]["sha256"] for manifest in (probed, plain)]
    assert encoders[0] == encoders[1]


def test_other_settings_are_refused_when_a_run_is_resumed_and_may_be_forced(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter([False, False, True])
    monkeypatch.setattr(Stage, "stopping", lambda stage: next(asked, False))
    argv = [f"--out_uri={tmp_path / 'out'}", f"--shards={shards}", "--arm=clip", *SMALL]
    assert run_stage(Params, argv) == 3
    assert run_stage(Params, [*argv, "--learning_rate=0.5"]) == 2
    sentence = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["problem"]
    assert "learning_rate was 0.001 and is 0.5" in sentence and "only cache_gib, checkpoint_activations" in sentence
    train(tmp_path / "out", shards, "clip", "--learning_rate=0.5", "--override_settings=true")
    assert '"event": "settings_changed"' in (tmp_path / "log.jsonl").read_text()


def under_torchrun(num_ranks: int, log: Path, out: Path, shards: Path, *argv: str) -> "subprocess.Popen[bytes]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CETERIS_")} | {"OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=2"]
    launcher += [f"--nproc-per-node={num_ranks}"]
    stage = ["-m", "components.pretrain", f"--out_uri={out}", f"--shards={shards}", *argv]
    with log.open("wb") as file:
        return subprocess.Popen([*launcher, *stage], env=environment, stderr=file)


def event(log: Path, name: str) -> dict[str, Any]:
    """Returns the first rank's first event of that name, once it has happened."""
    for _ in range(6000):
        for line in log.read_text().splitlines():
            if f'"event": "{name}"' in line and '"rank"' not in line:
                return json.loads(line)
        time.sleep(0.02)
    raise TimeoutError(log.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["clip", "dino"])
def test_two_ranks_train_what_one_does(tmp_path: Path, shards: Path, arm: str) -> None:
    """Two processes under torchrun; gradients are averaged in another order, so within 1e-4."""
    process = under_torchrun(2, tmp_path / "log", tmp_path / "two", shards, *SMALL, f"--arm={arm}")
    assert process.wait(timeout=200) == 0, (tmp_path / "log").read_text()
    alone = train(tmp_path / "one", shards, arm)
    two = read_manifest(open_folder(str(tmp_path / "two")))
    assert two is not None and two.summary["parity"] == alone.summary["parity"] and two.cost["ranks"] == 2
    curves = [json.loads((tmp_path / name / "curve.json").read_text())["values"]["loss"] for name in ("one", "two")]
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    weights = [load_file(tmp_path / name / "encoder.safetensors") for name in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=2e-4)


@pytest.mark.slow
def test_a_signal_to_two_ranks_loses_no_step(tmp_path: Path, shards: Path) -> None:
    """SIGTERM to the launcher, as a pod gets it; the second run goes on from the step that was under way."""
    short = ("--num_samples_seen", "--checkpoint_every_steps")
    long = [word for word in SMALL if not word.startswith(short)]
    long += ["--arm=clip", "--num_samples_seen=320000", "--checkpoint_every_steps=20"]
    out, first, second = tmp_path / "out", tmp_path / "first", tmp_path / "second"
    process = under_torchrun(2, first, out, shards, *long)
    while not list((out / "checkpoints").glob("*.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    process.wait(timeout=60)
    assert "which is saved" in event(first, "preempted")["reason"]
    saved = max(int(path.stem.partition("-")[2]) for path in (out / "checkpoints").glob("step-*.json"))
    assert f"after step {saved} of 20000" in event(first, "preempted")["reason"]
    process = under_torchrun(2, second, out, shards, *long)
    assert event(second, "resumed")["step"] == saved
    process.terminate()
    process.wait(timeout=60)


@pytest.mark.slow
def test_a_rank_that_is_killed_restarts_all_and_the_result_is_that_of_an_unbroken_run(
    tmp_path: Path, shards: Path
) -> None:
    """SIGKILL to the second of two ranks; torchrun starts both anew, and they go on from the last checkpoint."""
    short = ("--num_samples_seen", "--checkpoint_every_steps")
    long = [word for word in SMALL if not word.startswith(short)]
    long += ["--arm=dino", "--num_samples_seen=8000", "--checkpoint_every_steps=20"]
    unbroken = under_torchrun(2, tmp_path / "log", tmp_path / "unbroken", shards, *long)
    assert unbroken.wait(timeout=250) == 0, (tmp_path / "log").read_text()
    log, out = tmp_path / "killed.log", tmp_path / "killed"
    process = under_torchrun(2, log, out, shards, *long)
    while not list((out / "checkpoints").glob("*.json")):
        assert process.poll() is None
        time.sleep(0.02)
    ranks = [child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1"]
    ranks[0].kill()
    assert process.wait(timeout=250) == 0, log.read_text()
    assert event(log, "resumed")["step"] > 0
    found = [read_manifest(open_folder(str(tmp_path / name))) for name in ("unbroken", "killed")]
    assert found[0] is not None and found[1] is not None and found[0].files == found[1].files
