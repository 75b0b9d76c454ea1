"""The stage over a few shards of the synthetic world, with small encoders of ours and of other libraries."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor

from components.build_shards.params import Params as BuildShards
from components.core.data import features
from components.core.data.augment import whole_views
from components.core.data.prompts import world_prompts
from components.core.data.shard_samples import read_samples
from components.core.data.tokenizer import build_tokenizer
from components.core.evaluation import zero_shot
from components.core.models.encoder import TextSide, save_encoder, save_text
from components.core.models.export import export_encoder
from components.core.models.text_tower import TextTower
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.models.trunk import Trunk
from components.extract_features.params import Params
from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, EXIT_PREEMPTED
from components.runtime.manifest import Manifest, describe_file, read_manifest, write_manifest
from components.runtime.stage import run_stage
from components.runtime.storage import LocalFolder

SIZE, NUM_PICTURES, PER_SHARD = 32, 60, 12


def commit(folder: LocalFolder, arm: str) -> None:
    """Writes a checkpoint's manifest."""
    files = {name: describe_file(folder, name) for name in folder.names() if name != "manifest.json"}
    empty: dict[str, Any] = {name: {} for name in ("params", "inputs", "counts", "cost", "code")}
    summary = {"arm": arm, "replicate": 1}
    write_manifest(folder, Manifest(kind="CheckpointManifest", stage="pretrain", files=files, summary=summary, **empty))


def shaken(module: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with probe shards, a checkpoint of clip (with its exports), of dino, and a broken one."""
    folder = tmp_path_factory.mktemp("made")
    argv = [f"--out_uri={folder / 'shards'}", "--purpose=probe", f"--num_samples={NUM_PICTURES}"]
    argv += [f"--image_size_px={SIZE}", f"--samples_per_shard={PER_SHARD}", "--min_shards=1", "--num_workers=1"]
    assert run_stage(BuildShards, argv) == EXIT_DONE
    trunk = shaken(Trunk(image_size_px=SIZE, patch_size_px=8, width=24, depth=3, num_heads=2, seed=0))
    captions = [text for prompts in world_prompts().values() for texts in prompts.values() for text in texts]
    tokenizer = build_tokenizer("words", captions, context_length=16)
    tower = TextTower(
        vocab_size=tokenizer.vocab_size, context_length=16, width=16, depth=1, num_heads=2, embedding_dim=8, seed=0
    )
    projection_DE = torch.randn(24, 8, generator=torch.Generator().manual_seed(2))
    side = TextSide(shaken(tower), tokenizer, projection_DE, torch.tensor(2.5))
    for arm in ("clip", "dino", "broken"):
        files = LocalFolder(folder / arm)
        if arm == "broken":
            trunk.vit.norm.weight.data[3] = float("nan")
        save_encoder(files, trunk, {"arm": arm})
        if arm == "clip":
            save_text(files, side)
            export_encoder(files, trunk, side)
        commit(files, arm)
    return folder


def argv(made: Path, out: Path, **changed: Any) -> list[str]:
    values = {"checkpoint": made / "clip", "shards": made / "shards", "out_uri": out, "batch_size": 8} | changed
    return [f"--{name}={value}" for name, value in values.items()]


def manifest_of(out: Path) -> Manifest:
    manifest = read_manifest(LocalFolder(out))
    assert manifest is not None
    return manifest


def extracted(made: Path, out: Path, **changed: Any) -> dict[str, Tensor]:
    """Returns everything that the stage writes, its parts joined."""
    assert run_stage(Params, argv(made, out, **changed)) == EXIT_DONE
    manifest, folder = manifest_of(out), LocalFolder(out)
    parts = [load(folder.read(name)) for name in manifest.summary["parts"]]
    tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return tensors | ({} if not folder.exists("classes.safetensors") else load(folder.read("classes.safetensors")))


def loaded(made: Path, arm: str = "clip") -> tuple[Trunk, Tensor, list[Any]]:
    """Returns the trunk, the pictures as it takes them, and the samples."""
    from components.core.models.encoder import load_encoder

    trunk, _ = load_encoder(LocalFolder(made / arm))
    shards = LocalFolder(made / "shards")
    samples = list(read_samples(shards, manifest_of(made / "shards")))
    return trunk, whole_views([sample.image for sample in samples], SIZE), samples


@torch.inference_mode()
def test_the_features_are_the_trunks_own_in_the_order_of_the_shards(made: Path, tmp_path: Path) -> None:
    found = extracted(made, tmp_path)
    trunk, images_BCHW, samples = loaded(made)
    tokens = trunk.tokens(images_BCHW)
    torch.testing.assert_close(found["cls"], tokens.cls_BD, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["patch_mean"], tokens.patches_BND.mean(dim=1), rtol=0, atol=1e-5)
    assert found["ids"].tolist() == list(range(NUM_PICTURES))
    assert found["is_test"].tolist() == [sample.split == "test" for sample in samples]
    assert found["labels/word"].tolist() == [sample.labels["word"] for sample in samples]
    manifest = manifest_of(tmp_path)
    assert {name: manifest.summary[name] for name in ("arm", "replicate", "layer", "token", "num_unusable")} == {
        "arm": "clip", "replicate": 1, "layer": -1, "token": "cls", "num_unusable": 0
    }  # fmt: skip
    assert manifest.summary["shards"] == manifest_of(made / "shards").digest
    assert [len(load(LocalFolder(tmp_path).read(p))["ids"]) for p in manifest.summary["parts"]] == [PER_SHARD] * 5
    read = features.read(LocalFolder(tmp_path), manifest, "test")
    assert torch.equal(read.rows_ND, found["cls"][found["is_test"]]) and read.joint_NE is not None


@torch.inference_mode()
def test_another_layer_is_the_block_as_it_leaves_and_joint_stays(made: Path, tmp_path: Path) -> None:
    found = extracted(made, tmp_path / "before", layer=-2)
    last = extracted(made, tmp_path / "last")
    trunk, images_BCHW, _ = loaded(made)
    expected = trunk.tokens(images_BCHW).penultimate_BND.mean(dim=1)
    torch.testing.assert_close(found["patch_mean"], expected, rtol=0, atol=1e-5)
    assert not torch.allclose(found["cls"], last["cls"], atol=0.1)
    assert torch.equal(found["joint"], last["joint"])


@torch.inference_mode()
def test_each_export_read_by_its_library_has_the_features_of_the_checkpoint(made: Path, tmp_path: Path) -> None:
    """The pictures have the encoder's size, so that no library resizes them in its own way."""
    ours = extracted(made, tmp_path / "ours")
    for library, folder in (("timm", "timm"), ("hf", "huggingface"), ("open_clip", "open_clip")):
        name = f"{library}:{made / 'clip/export' / folder}"
        theirs = extracted(made, tmp_path / library, checkpoint=name)
        for token in features.TOKENS:
            torch.testing.assert_close(theirs[token], ours[token], rtol=1e-4, atol=1e-5)
        manifest = manifest_of(tmp_path / library)
        assert (manifest.summary["arm"], manifest.summary["replicate"]) == (name, 0)
        assert manifest.inputs["checkpoint"] == name and manifest.summary["encoder"]["library"]
        assert run_stage(Params, argv(made, tmp_path / library, checkpoint=name)) == EXIT_DONE
    for name in ("joint", "classes/object", "classes/word"):
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_zero_shot_logits_are_open_clips_own(made: Path, tmp_path: Path) -> None:
    allow_torchvision_import()
    import open_clip

    ours = extracted(made, tmp_path)
    name = f"local-dir:{made / 'clip/export/open_clip'}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    tokenizer, samples = open_clip.get_tokenizer(name), loaded(made)[2]
    shards = manifest_of(made / "shards").summary
    for factor in ("object", "word"):
        classes = []
        for class_name in shards["factors"][factor]:
            texts = model.eval().encode_text(tokenizer(shards["prompts"][factor][class_name]), normalize=True)
            classes.append(F.normalize(texts.mean(dim=0), dim=0))
        pictures = model.encode_image(torch.stack([transform(sample.image) for sample in samples]), normalize=True)
        theirs = model.logit_scale.exp() * pictures @ torch.stack(classes).T
        logits = torch.tensor(2.5).exp() * ours["joint"] @ ours[f"classes/{factor}"].T
        torch.testing.assert_close(logits, theirs, rtol=1e-4, atol=1e-3)
        assert torch.equal(zero_shot.predict(ours["joint"], ours[f"classes/{factor}"]), theirs.argmax(dim=1))


def test_the_same_batch_gives_the_same_bytes_and_another_one_the_same_to_1e_5(made: Path, tmp_path: Path) -> None:
    first = extracted(made, tmp_path / "first")
    extracted(made, tmp_path / "second", num_reader_threads=5)
    for name in manifest_of(tmp_path / "first").files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert manifest_of(tmp_path / "first").digest == manifest_of(tmp_path / "second").digest
    for batch_size in (1, 5, 100):
        other = extracted(made, tmp_path / f"{batch_size}", batch_size=batch_size)
        for name in features.VECTORS:
            torch.testing.assert_close(other[name], first[name], rtol=0, atol=1e-5)


def test_parts_of_the_same_are_kept_and_parts_of_something_else_are_written_anew(made: Path, tmp_path: Path) -> None:
    extracted(made, tmp_path / "whole")
    extracted(made, tmp_path / "resumed")
    (tmp_path / "resumed" / "manifest.json").unlink()
    parts = [tmp_path / "resumed" / name for name in manifest_of(tmp_path / "whole").summary["parts"]]
    parts[1].unlink()
    parts[2].write_bytes(features.encode_part(load(parts[2].read_bytes()), "another key"))
    times = [part.stat().st_mtime_ns for part in (parts[0], parts[3], parts[4])]
    extracted(made, tmp_path / "resumed")
    assert times == [part.stat().st_mtime_ns for part in (parts[0], parts[3], parts[4])]
    assert manifest_of(tmp_path / "resumed").digest == manifest_of(tmp_path / "whole").digest
    (tmp_path / "resumed" / "manifest.json").unlink()
    extracted(made, tmp_path / "resumed", checkpoint=made / "dino")
    assert times != [part.stat().st_mtime_ns for part in (parts[0], parts[3], parts[4])]
    assert manifest_of(tmp_path / "resumed").summary["arm"] == "dino"


def test_a_stage_that_is_stopped_exits_3_and_goes_on_where_it_was(made: Path, tmp_path: Path) -> None:
    slow = LocalFolder(tmp_path / "slow")  # so that it can't end before it is told to
    trunk = Trunk(image_size_px=SIZE, patch_size_px=4, width=256, depth=6, num_heads=4, seed=0)
    save_encoder(slow, trunk, {"arm": "dino"})
    commit(slow, "dino")
    changed = {"checkpoint": tmp_path / "slow", "batch_size": 1}
    command = [sys.executable, "-m", "components.extract_features", *argv(made, tmp_path / "out", **changed)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    first = tmp_path / "out" / features.part_name(manifest_of(made / "shards").summary["shards"][0]["name"])
    while not first.exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == EXIT_PREEMPTED, process.communicate()[1]
    assert first.exists() and not (tmp_path / "out" / "manifest.json").exists()
    written = first.stat().st_mtime_ns
    found = extracted(made, tmp_path / "out", **changed)
    assert first.stat().st_mtime_ns == written
    assert found["ids"].tolist() == list(range(NUM_PICTURES))


@pytest.mark.parametrize(
    ("changed", "code", "sentence"),
    [
        ({"checkpoint": "broken"}, EXIT_FAILED, "12 of 60 pictures have features of broken that are zero or not fin"),
        ({"layer": -4}, EXIT_BAD_INPUT, "--layer=-4 of --checkpoint="),
        ({"checkpoint": "timm:no_such_model"}, EXIT_BAD_INPUT, "--checkpoint=timm:no_such_model with --layer=-1 can't"),
        ({"checkpoint": "jax:vit"}, EXIT_BAD_INPUT, "holds no manifest.json"),
        ({"shards": "clip"}, EXIT_BAD_INPUT, "give probe shards"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    code: int,
    sentence: str,
) -> None:
    changed = {n: made / v if isinstance(v, str) and ":" not in v else v for n, v in changed.items()}
    assert run_stage(Params, argv(made, tmp_path, **changed)) == code
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "manifest.json").exists()


def test_a_folder_with_features_of_another_encoder_is_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extracted(made, tmp_path, checkpoint=f"timm:{made / 'clip/export/timm'}")
    assert run_stage(Params, argv(made, tmp_path)) == EXIT_BAD_INPUT
    assert "the input checkpoint is another one" in capsys.readouterr().err


def test_threads_are_no_part_of_the_result() -> None:
    values = Params(out_uri="out", checkpoint="a", shards="b")
    assert dataclasses.replace(values, num_reader_threads=7).digest() == values.digest()
