"""The stage over a few real shards and features that are made so that the answer is known."""

import hashlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from components.analyze_embeddings import references
from components.analyze_embeddings.params import Params
from components.analyze_embeddings.references import Look
from components.core.data import features, world
from components.core.data.ingest import encode_png
from components.core.data.pixels import dhash, pixel_hash
from components.core.data.tar import write_shard
from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PREEMPTED
from components.runtime.manifest import Manifest
from components.runtime.stage import run_stage
from components.runtime.storage import LocalFolder
from tests.manifests import commit

NUM_PICTURES = 90
COPIED = 3  # the first pictures come again at the end: with equal pixels
ALIKE = 1  # and one more with other pixels, the same hash and the same features
NUM_ROWS = NUM_PICTURES + COPIED + ALIKE
FACTORS = {name: list(world.FACTORS[name]) for name in ("word", "colour", "style", "object")}
SEES = {"clip": "word", "dino": "colour"}
Write = Callable[..., list[str]]


def _write_shards(folder: LocalFolder, labels: dict[str, np.ndarray], has_samples: bool) -> Manifest:
    """Writes two shards of test pictures."""
    samples = []
    hashes: dict[str, list[Any]] = {"sha256": [], "dhash": []}
    for number in range(NUM_ROWS):
        scene = world.sample_scene(0, number % NUM_PICTURES)
        picture = world.draw(scene, 32)
        if number == NUM_ROWS - 1:
            red, green, blue = picture.getpixel((0, 0))  # type: ignore[misc]
            picture.putpixel((0, 0), (red ^ 1, green, blue))
        hashes["sha256"].append(bytes.fromhex(pixel_hash(picture)))
        hashes["dhash"].append(dhash(picture))
        facts = {"split": "test", "labels": {f: int(of[number]) for f, of in labels.items()}, "conversations": []}
        members = {"png": encode_png(picture), "txt": world.caption(scene).encode()}
        samples.append((f"{number:06d}", members | {"json": json.dumps(facts).encode()}))
    listed = []
    for index, part in enumerate((samples[:50], samples[50:])):
        listed.append({"name": f"shards/{index:05d}.tar", "samples": len(part)})
        folder.write(listed[-1]["name"], write_shard(part))
    if has_samples:
        buffer = io.BytesIO()
        types = {"sha256": pyarrow.binary(16), "dhash": pyarrow.uint64()}
        columns = {name: pyarrow.array(values, types[name]) for name, values in hashes.items()}
        pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
        folder.write("samples.parquet", buffer.getvalue())
    return commit(folder, "ShardsManifest", "build_shards", summary={"shards": listed, "factors": FACTORS})


@pytest.fixture
def write_inputs(tmp_path: Path) -> Write:
    """Returns a function that writes shards and features, and returns the stage's command line.

    Each arm's features are a direction for its factor's class, and noise of each replicate.
    """

    def write(
        encoders: tuple[tuple[str, int], ...] = (("clip", 0), ("dino", 0)),
        zeros: int = 0,
        other_ids: str = "",
        other_shards: bool = False,
        unlabelled: bool = False,
        has_samples: bool = True,
    ) -> list[str]:
        scenes = [world.sample_scene(0, number % NUM_PICTURES) for number in range(NUM_ROWS)]
        labels = {f: np.array([names.index(getattr(s, f)) for s in scenes]) for f, names in FACTORS.items()}
        shards = LocalFolder(tmp_path / "shards")
        made = _write_shards(shards, labels, has_samples)
        if unlabelled:
            labels["word"][:60] = -1
            labels["object"][:] = 0
        for arm, replicate in encoders:
            generator = np.random.default_rng([*arm.encode(), replicate])
            rows_ND = np.eye(12)[labels[SEES.get(arm, "style")]] + 0.25 * generator.standard_normal((NUM_ROWS, 12))
            rows_ND[-COPIED - ALIKE :] = rows_ND[: COPIED + ALIKE]
            rows_ND[:zeros] = 0
            ids_N = torch.arange(NUM_ROWS) + (arm == other_ids)
            tensors = {f"labels/{f}": torch.from_numpy(of) for f, of in labels.items()}
            tensors |= {"ids": ids_N, "is_test": torch.ones(NUM_ROWS, dtype=torch.bool)}
            tensors |= {name: torch.tensor(rows_ND, dtype=torch.float32) for name in ("cls", "patch_mean")}
            folder = LocalFolder(tmp_path / "features" / f"{arm}_{replicate}")
            folder.write("features/00000.safetensors", features.encode_part(tensors, key=""))
            summary = {
                "arm": arm,
                "replicate": replicate,
                "factors": FACTORS,
                "shards": "another" if other_shards else made.digest,
                "ids": hashlib.sha256(ids_N.numpy().tobytes()).hexdigest(),
                "parts": ["features/00000.safetensors"],
            }
            commit(folder, "FeaturesManifest", "extract_features", summary=summary)
        given = ",".join(str(tmp_path / "features" / f"{arm}_{replicate}") for arm, replicate in encoders)
        return [f"--features={given}", f"--shards={shards.uri}", "--num_pairs=4", "--pair_quantile=0.9"]

    return write


def _run(argv: list[str], out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    assert run_stage(Params, [*argv, f"--out_uri={out}"]) == EXIT_DONE
    return json.loads((out / "analysis.json").read_text()), json.loads((out / "pairs.json").read_text())


def test_pairs_agree_in_what_their_encoder_sees(write_inputs: Write, tmp_path: Path) -> None:
    analysis, pairs = _run(write_inputs(), tmp_path / "out")
    assert analysis["schema"] == 2 and analysis["quantile"] == 0.9
    assert analysis["thresholds"] == {"num_pairs": 4005, "is_exact": True, "error": {"clip": 0, "dino": 0}}
    for direction in analysis["directions"]:
        seen, unseen = SEES[direction["alike"]], SEES[direction["unlike"]]
        assert direction["factors"][seen]["low"] > direction["factors"][seen]["base_rate"]
        assert direction["factors"][unseen]["share"] < direction["factors"][unseen]["base_rate"]
        assert [f["below"] for f in direction["fixed"]] == [0.5, 0.3, 0.15]
        counts = [f["num_pairs"] for f in direction["fixed"]]
        assert counts == sorted(counts, reverse=True) and counts[0] > 0
    assert [d["file"] for d in pairs["directions"]] == ["pairs_clip_not_dino.png", "pairs_dino_not_clip.png"]


def test_each_encoder_follows_what_it_sees(write_inputs: Write, tmp_path: Path) -> None:
    analysis, _ = _run(write_inputs(), tmp_path / "out")
    for arm, factor in SEES.items():
        seen, unseen = analysis["factors"][factor][arm], analysis["factors"][factor][_other(arm)]
        assert seen["separation"] > 1 and seen["intra"] > 2 * seen["inter"] and unseen["separation"] < 0.3
        assert seen["retrieval_at_1"] > 0.7 > 0.4 > unseen["retrieval_at_1"]
        assert unseen["mean_average_precision"] == pytest.approx(unseen["chance_average_precision"], abs=0.1)
    rsa = analysis["rsa"]
    assert [r["name"] for r in rsa["references"]] == ["colour_histogram", "style", "text", "category"]
    assert rsa["left_out"] == [] and rsa["num_pictures"] == NUM_PICTURES
    text = {arm: of["text"] for arm, of in rsa["arms"].items()}
    assert text["clip"]["partial"] > text["clip"]["partial_low"] > 0.1 > text["dino"]["partial"]
    assert text["dino"]["partial_low"] < 0 < text["dino"]["partial_high"]
    assert analysis["agreement"][0]["cka"]["value"] < 0.3 and len(analysis["agreement"]) == 1


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
    assert analysis["num_duplicates"] == COPIED + ALIKE and analysis["num_pictures"] == NUM_PICTURES
    ids = {p["id"] for d in pairs["directions"] for pair in d["pairs"] for p in pair["pictures"]}
    assert max(ids) < NUM_PICTURES


def test_replicates_are_averaged_and_agree_among_themselves(write_inputs: Write, tmp_path: Path) -> None:
    both = (("clip", 0), ("clip", 3), ("dino", 3), ("dino", 0))
    alone, pairs_alone = _run(write_inputs(), tmp_path / "alone")
    other, _ = _run(write_inputs((("clip", 3), ("dino", 3))), tmp_path / "other")
    analysis, pairs = _run(write_inputs(both), tmp_path / "both")
    assert analysis["replicates"] == [0, 3] and other["replicates"] == [3]
    assert pairs == pairs_alone and analysis["directions"] == alone["directions"]
    found = analysis["factors"]["word"]["clip"]
    for name, value in found.items():
        means = (alone["factors"]["word"]["clip"][name] + other["factors"]["word"]["clip"][name]) / 2
        assert value == pytest.approx(means, abs=2e-6)
    partial = analysis["rsa"]["arms"]["dino"]["colour_histogram"]
    singles = [of["rsa"]["arms"]["dino"]["colour_histogram"]["partial"] for of in (alone, other)]
    assert partial["per_replicate"] == pytest.approx(singles, abs=2e-6)
    assert partial["partial"] == pytest.approx(np.mean(singles), abs=2e-6)
    assert len(analysis["effective_rank"]["clip"]) == 2
    agreement = {tuple(found["arms"]): found for found in analysis["agreement"]}
    assert {arms: found["num_encoder_pairs"] for arms, found in agreement.items()} == {
        ("clip", "clip"): 1,
        ("clip", "dino"): 4,
        ("dino", "dino"): 1,
    }
    for measure in ("rsa", "cka", "cka_debiased", "mutual_knn"):
        assert agreement["clip", "clip"][measure]["value"] > 3 * agreement["clip", "dino"][measure]["value"]


def test_the_projection_shows_what_each_arm_sees(write_inputs: Write, tmp_path: Path) -> None:
    _run(write_inputs(), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "projection.json").read_text())
    assert found["method"] == "PCA" and found["classes"] == FACTORS and found["ids"] == list(range(NUM_PICTURES))
    for arm, points in found["arms"].items():
        points_N2 = np.stack([points["x"], points["y"]], axis=1)
        spreads = {f: _spread_between(points_N2, np.array(found["labels"][f])) for f in SEES.values()}
        assert spreads[SEES[arm]] > 2 * spreads[SEES[_other(arm)]]


def _spread_between(points_N2: np.ndarray, labels_N: np.ndarray) -> float:
    """Returns the share of the variance that lies between classes."""
    means_N2 = np.stack([points_N2[labels_N == label].mean(axis=0) for label in labels_N])
    return float(means_N2.var(axis=0).sum() / points_N2.var(axis=0).sum())


def test_what_is_not_labelled_is_left_out_and_said(write_inputs: Write, tmp_path: Path) -> None:
    analysis, _ = _run(write_inputs(unlabelled=True), tmp_path / "out")
    assert analysis["factors"].keys() == {"word", "colour", "style"}
    assert [r["name"] for r in analysis["rsa"]["references"]] == ["colour_histogram", "style"]
    assert analysis["rsa"]["left_out"] == [
        {"name": "text", "why": "the pictures' text is not known"},
        {"name": "category", "why": "it is the same for all pairs, or follows from the others"},
    ]


def test_fewer_pictures_are_a_draw_of_them(write_inputs: Write, tmp_path: Path) -> None:
    analysis, pairs = _run([*write_inputs(), "--max_pictures=40"], tmp_path / "out")
    assert analysis["num_pictures"] + analysis["num_duplicates"] == 40
    found = json.loads((tmp_path / "out" / "projection.json").read_text())
    shown = {p["id"] for d in pairs["directions"] for pair in d["pairs"] for p in pair["pictures"]}
    assert shown <= set(found["ids"]) and found["ids"] != list(range(len(found["ids"])))


def test_two_runs_write_the_same_bytes(write_inputs: Write, tmp_path: Path) -> None:
    argv = write_inputs()
    for name in ("one", "two"):
        _run(argv, tmp_path / name)
    for file in sorted((tmp_path / "one").iterdir()):
        if file.name != "manifest.json":
            assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_the_order_of_the_arms_swaps_the_directions(write_inputs: Write, tmp_path: Path) -> None:
    orders = ((("clip", 0), ("dino", 0)), (("dino", 0), ("clip", 0)))
    (there, _), (back, _) = (_run(write_inputs(order), tmp_path / order[0][0]) for order in orders)
    assert there["directions"] == back["directions"][::-1]
    assert there["agreement"][0]["arms"] == back["agreement"][0]["arms"][::-1]


def test_an_encoder_by_any_name_has_a_sheet(write_inputs: Write, tmp_path: Path) -> None:
    encoders = (("clip", 0), ("timm_a-b", 0), ("timm_a.b", 0), ("timm_a+b", 0))
    _, pairs = _run(write_inputs(encoders), tmp_path / "out")
    files = [direction["file"] for direction in pairs["directions"]]
    assert len(set(files)) == 12 and all((tmp_path / "out" / name).exists() for name in files)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"other_ids": "dino"}, "the test pictures of dino are not those of clip"),
        ({"encoders": (("clip", 0),)}, "expected two or more different arms"),
        ({"encoders": (("clip", 0), ("clip", 1))}, "expected two or more different arms"),
        ({"encoders": (("clip", 0), ("clip", 1), ("dino", 0))}, "expected the same replicates of every arm"),
        ({"zeros": 5}, "5 of 94 pictures have features of clip that are zero or not finite"),
        ({"other_shards": True}, "--shards holds other shards than those that the features of clip were made from"),
        ({"has_samples": False}, "--shards holds no samples.parquet"),
    ],
)
def test_features_that_do_not_belong_together_are_refused(
    write_inputs: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], sentence: str
) -> None:
    assert run_stage(Params, [*write_inputs(**changes), f"--out_uri={tmp_path / 'out'}"]) == EXIT_BAD_INPUT
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_stop_is_heeded_and_leaves_no_result(write_inputs: Write, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "components.analyze_embeddings", *write_inputs(), f"--out_uri={tmp_path / 'out'}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "started" not in (line := process.stderr.readline()):
            assert line, "the stage never started"
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == EXIT_PREEMPTED and "the next run starts over" in rest
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_published_set_has_its_own_category_and_texture_for_style() -> None:
    generator = np.random.default_rng(0)
    looks = [Look(*(generator.dirichlet(np.ones(size)) for size in (64, 24))) for _ in range(9)]
    found = references.compared(looks, {"cars": np.arange(9) % 3}, {"cars": ["a", "b", "c"]})
    assert list(found.similarities) == list(found.about) == ["colour_histogram", "texture", "category"]
    assert "cars" in found.about["category"] and list(found.left_out) == ["text"]
    unlabelled = references.compared(looks, {"cars": np.array([0, -1] * 4 + [0])}, {"cars": ["a"]})
    assert list(unlabelled.left_out) == ["text", "category"]
    alone = references.compared(looks, {"cars": np.zeros(9, int)}, {"cars": ["a"]})
    assert alone.left_out["category"] == "it is the same for all pairs, or follows from the others"


def _other(arm: str) -> str:
    return next(name for name in SEES if name != arm)
