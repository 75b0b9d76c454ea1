"""The stage over a few real shards and features that are made so that the answer is known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from components.analyze_embeddings.params import Params
from components.core.data import world
from components.core.data.ingest import encode_png
from components.core.data.tar import write_shard
from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE
from components.runtime.manifest import Manifest, describe_file, write_manifest
from components.runtime.stage import run_stage
from components.runtime.storage import LocalFolder

NUM_PICTURES, NUM_COPIES = 90, 3
FACTORS = {name: list(world.FACTORS[name]) for name in ("word", "colour")}
SEES = {"clip": "word", "dino": "colour"}
Write = Callable[..., list[str]]


def _commit(folder: LocalFolder, kind: str, stage: str, **parts: Any) -> Manifest:
    files = {name: describe_file(folder, name) for name in folder.names() if name != "manifest.json"}
    empty: dict[str, Any] = {name: {} for name in ("params", "inputs", "counts", "summary", "cost", "code")}
    manifest = Manifest(kind=kind, stage=stage, files=files, **empty | parts)
    write_manifest(folder, manifest)
    return manifest


@pytest.fixture
def write_inputs(tmp_path: Path) -> Write:
    """Returns a function that writes shards and features, and returns the stage's command line.

    Each arm's features are a direction for its factor's class, and noise; the last pictures are copies of the first.
    """

    def write(arms: tuple[str, ...] = ("clip", "dino"), zeros: int = 0, other_ids: str = "") -> list[str]:
        scenes = [world.sample_scene(0, i) for i in range(NUM_PICTURES)]
        scenes += scenes[:NUM_COPIES]
        labels = {f: np.array([values.index(getattr(s, f)) for s in scenes]) for f, values in FACTORS.items()}
        samples = []
        for number, scene in enumerate(scenes):
            facts = {"split": "test", "labels": {f: int(of[number]) for f, of in labels.items()}, "conversations": []}
            members = {"png": encode_png(world.draw(scene, 32)), "txt": world.caption(scene).encode()}
            samples.append((f"{number:06d}", members | {"json": json.dumps(facts).encode()}))
        shards = LocalFolder(tmp_path / "shards")
        shards.write("shards/00000.tar", write_shard(samples))
        listed = [{"name": "shards/00000.tar", "samples": len(scenes)}]
        made = _commit(shards, "ShardsManifest", "build_shards", summary={"shards": listed, "factors": FACTORS})
        generator = np.random.default_rng(0)
        for arm in arms:
            cls_ND = np.eye(12)[labels[SEES[arm]]] + 0.25 * generator.standard_normal((len(scenes), 12))
            cls_ND[:zeros] = 0
            ids_N = np.arange(len(scenes)) + (arm == other_ids)
            tensors = {f"test/labels/{f}": of for f, of in labels.items()}
            tensors |= {"test/cls": cls_ND.astype(np.float32), "test/ids": ids_N}
            folder = LocalFolder(tmp_path / "features" / arm)
            folder.write("features.safetensors", safetensors.numpy.save(tensors))
            summary = {"arm": arm, "factors": FACTORS}
            _commit(folder, "FeaturesManifest", "extract_features", summary=summary, inputs={"shards": made.digest})
        features = ",".join(str(tmp_path / "features" / arm) for arm in arms)
        return [f"--features={features}", f"--shards={shards.uri}", "--num_pairs=4", "--pair_quantile=0.9"]

    return write


def _run(argv: list[str], out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    assert run_stage(Params, [*argv, f"--out_uri={out}"]) == EXIT_DONE
    return json.loads((out / "analysis.json").read_text()), json.loads((out / "pairs.json").read_text())


def test_pairs_agree_in_what_their_encoder_sees(write_inputs: Write, tmp_path: Path) -> None:
    analysis, pairs = _run(write_inputs(), tmp_path / "out")
    for direction in analysis["directions"]:
        seen, unseen = SEES[direction["alike"]], SEES[direction["unlike"]]
        assert direction["factors"][seen]["low"] > direction["factors"][seen]["base_rate"]
        assert direction["factors"][unseen]["share"] < direction["factors"][unseen]["base_rate"]
    for arm, factor in SEES.items():
        assert analysis["factors"][factor][arm]["separation"] > 1
        assert all(values["separation"] < 0.3 for values in [analysis["factors"][factor][_other(arm)]])
    assert {"above": 0.7, "below": 0.5}.items() <= analysis["directions"][0]["fixed"].items()
    assert analysis["agreement"][0]["cka"]["value"] < 0.3 and analysis["quantile"] == 0.9
    assert [d["file"] for d in pairs["directions"]] == ["pairs_clip_not_dino.png", "pairs_dino_not_clip.png"]


def test_shown_pairs_keep_the_thresholds_and_their_pictures(write_inputs: Write, tmp_path: Path) -> None:
    analysis, pairs = _run(write_inputs(), tmp_path / "out")
    for facts, shown in zip(analysis["directions"], pairs["directions"], strict=True):
        ids = [picture["id"] for pair in shown["pairs"] for picture in pair["pictures"]]
        assert len(shown["pairs"]) == min(4, facts["num_pairs"]) > 0 and len(set(ids)) == len(ids)
        sheet = Image.open(tmp_path / "out" / shown["file"]).convert("RGB")
        for pair in shown["pairs"]:
            assert pair["similarity"][facts["alike"]] >= round(facts["above"], 4)
            assert pair["similarity"][facts["unlike"]] <= round(facts["below"], 4)
            for picture in pair["pictures"]:
                scene = world.sample_scene(0, picture["id"])
                assert picture["labels"] == {f: getattr(scene, f) for f in FACTORS}
                cut = sheet.crop(tuple(picture["box"])).resize((32, 32), Image.Resampling.BOX)
                difference = np.abs(np.asarray(cut, float) - np.asarray(world.draw(scene, 32), float))
                assert difference.mean() < 12  # it was enlarged and reduced again


def test_copies_of_a_picture_count_once(write_inputs: Write, tmp_path: Path) -> None:
    analysis, pairs = _run(write_inputs(), tmp_path / "out")
    assert analysis["num_duplicates"] == NUM_COPIES and analysis["num_pictures"] == NUM_PICTURES
    ids = {p["id"] for d in pairs["directions"] for pair in d["pairs"] for p in pair["pictures"]}
    assert max(ids) < NUM_PICTURES


def test_two_runs_write_the_same_bytes(write_inputs: Write, tmp_path: Path) -> None:
    argv = write_inputs()
    for name in ("one", "two"):
        _run(argv, tmp_path / name)
    for file in sorted((tmp_path / "one").iterdir()):
        if file.name != "manifest.json":
            assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_the_order_of_the_arms_swaps_the_directions(write_inputs: Write, tmp_path: Path) -> None:
    (there, _), (back, _) = (
        _run(write_inputs(arms), tmp_path / arms[0]) for arms in (("clip", "dino"), ("dino", "clip"))
    )
    assert [d["alike"] for d in there["directions"]] == [d["alike"] for d in back["directions"]][::-1]
    assert there["agreement"][0]["arms"] == back["agreement"][0]["arms"][::-1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"other_ids": "dino"}, "the test pictures of dino are not those of clip"),
        ({"arms": ("clip",)}, "expected two or more different ones"),
        ({"zeros": 5}, "5 of 93 features are zero or not finite"),
    ],
)
def test_features_that_do_not_belong_together_are_refused(
    write_inputs: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], sentence: str
) -> None:
    assert run_stage(Params, [*write_inputs(**changes), f"--out_uri={tmp_path / 'out'}"]) == EXIT_BAD_INPUT
    assert sentence in capsys.readouterr().err


def _other(arm: str) -> str:
    return next(name for name in SEES if name != arm)
