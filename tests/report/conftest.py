"""A study as the other stages leave it, small, with accuracies that the test chooses."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from components.analyze_embeddings import grid
from components.core.evaluation.intervals import wilson
from components.runtime.manifest import Manifest, describe_file, write_manifest
from components.runtime.storage import LocalFolder

Accuracies = Mapping[str, Mapping[str, float]]
NUM_PICTURES, NUM_QUESTIONS = 400, 200
PURPOSES = ("pretrain", "probe", "instruct", "benchmark")
HASHES = {"trunk_init": "a" * 64, "manifest": "b" * 64, "sample_order": "c" * 64, "schedule": "d" * 64}


def commit(folder: LocalFolder, kind: str, stage: str, **parts: Any) -> Manifest:
    """Writes the manifest of what lies in `folder`."""
    empty: dict[str, Any] = {name: {} for name in ("params", "inputs", "counts", "summary", "cost")}
    files = {name: describe_file(folder, name) for name in folder.names() if name != "manifest.json"}
    manifest = Manifest(kind=kind, stage=stage, files=files, code={"commit": "f" * 40, "image": ""}, **empty | parts)
    write_manifest(folder, manifest)
    return manifest


def _right(accuracy: float, n: int, shift: int) -> np.ndarray:
    """Returns which of n items are right: exactly that share, at places that `shift` moves."""
    return np.roll(np.arange(n) < round(accuracy * n), shift)


def _score(is_right: np.ndarray, chance: float = 0.1) -> dict[str, Any]:
    low, high = wilson(int(is_right.sum()), len(is_right))
    return {"accuracy": float(is_right.mean()), "low": low, "high": high, "n": len(is_right), "chance": chance}


def _write_pretrain(root: Path, arm: str, parity: Mapping[str, Any]) -> None:
    """Writes what pretrain leaves of one arm."""
    folder = LocalFolder(root / "pretrain" / arm)
    losses = [3.0, 2.0, float(len(arm))]
    folder.write_json("curve.json", {"steps": [1, 2, 3], "samples_seen": [64, 128, 192], "values": {"loss": losses}})
    shape = {"image_size_px": 48, "patch_size_px": 8, "width": 96, "depth": 4, "num_heads": 4}
    summary = {"arm": arm, "architecture": shape, "parity": dict(parity), "train_flops_per_sample": 1e8}
    cost = {"seconds": 12.5, "cpu_seconds": 20.0, "samples_per_s": 100.0, "device": "cpu"}
    commit(
        folder,
        "CheckpointManifest",
        "pretrain",
        params={"arm": arm, "seed": 7},
        summary=summary | {"num_samples_seen": 192},
        cost=cost,
    )


def _write_evaluate(root: Path, arm: str, accuracies: Mapping[str, float], shift: int) -> None:
    folder = LocalFolder(root / "evaluate" / arm)
    right = {factor: _right(accuracy, NUM_PICTURES, shift) for factor, accuracy in accuracies.items()}
    labels = np.arange(NUM_PICTURES) % 10
    tensors = {f"probe/{factor}": np.where(is_right, labels, (labels + 1) % 10) for factor, is_right in right.items()}
    folder.write("predictions.safetensors", safetensors.numpy.save(tensors | {f"labels/{f}": labels for f in right}))
    probe = {factor: _score(is_right) for factor, is_right in right.items()}
    scores = {"arm": arm, "probe": probe, "knn": {f: {"20": s} for f, s in probe.items()}, "zero_shot": {}}
    folder.write_json("scores.json", scores)
    commit(
        folder, "EvaluationManifest", "evaluate", params={"confidence": 0.95}, summary={"arm": arm}, cost={"seconds": 1}
    )


def _write_benchmark(root: Path, arm: str, accuracies: Mapping[str, float], shift: int) -> None:
    folder = LocalFolder(root / "benchmark_vlm" / arm)
    right = {group: _right(accuracy, NUM_QUESTIONS, shift) for group, accuracy in accuracies.items()}
    answers = [
        {"category": f"Set of {group}", "group": group, "answer": "A", "is_correct": bool(is_right)}
        for group, of in right.items()
        for is_right in of
    ]
    lines = (json.dumps(answer | {"index": index, "is_parsed": True}) for index, answer in enumerate(answers))
    folder.write("answers.jsonl", "\n".join(lines).encode())
    groups = {group: _score(is_right, 0.25) for group, is_right in right.items()}
    scores = {
        "arm": arm,
        "groups": groups,
        "sets": {f"Set of {group}": score | {"group": group} for group, score in groups.items()},
        "micro": _score(np.concatenate(list(right.values())), 0.25),
        "macro": float(np.mean([score["accuracy"] for score in groups.values()])),
        "unparsed_rate": 0.0,
    }
    folder.write_json("scores.json", scores)
    inputs = {"benchmark": "e" * 64}
    params = {"confidence": 0.95}
    commit(
        folder,
        "BenchmarkScores",
        "benchmark_vlm",
        params=params,
        inputs=inputs,
        summary={"arm": arm},
        cost={"seconds": 1},
    )


def _write_analysis(root: Path, arms: list[str], factors: list[str]) -> None:
    from PIL import Image

    folder = LocalFolder(root / "analyze_embeddings")
    agreeing = {"share": 0.5, "low": 0.2, "high": 0.8, "base_rate": 0.1, "n": 10}
    directions, sheets = [], []
    for alike in arms:
        for unlike in (arm for arm in arms if arm != alike):
            name = f"pairs_{alike}_not_{unlike}.png"
            red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
            folder.write(name, grid.draw_grid(name, [(red, blue, "")]))
            boxes = grid.boxes(0)
            pictures = [
                {"id": i, "caption": "<b>a caption</b>", "labels": {factors[0]: "x"}, "box": list(box)}
                for i, box in enumerate(boxes)
            ]
            similarity = {arm: 0.9 if arm == alike else 0.1 for arm in arms}
            shown = {"pictures": pictures, "similarity": similarity}
            sheets.append({"alike": alike, "unlike": unlike, "file": name, "pairs": [shown]})
            facts = {"alike": alike, "unlike": unlike, "num_candidates": 3, "num_pairs": 1, "above": 0.8, "below": 0.2}
            directions.append(facts | {"factors": dict.fromkeys(factors, agreeing)})
    folder.write_json("pairs.json", {"schema": 1, "tile_px": grid.TILE_PX, "directions": sheets})
    values = {"value": 0.5, "chance": 0.1, "chance_high": 0.2, "p": 0.01}
    agreement = {"arms": arms[:2], "k": 10, "rsa_pictures": 100, "rsa": values, "cka": values, "mutual_knn": values}
    classes = {"intra": 0.5, "inter": 0.2, "ratio": 2.5, "separation": 1.0}
    analysis = {
        "schema": 1,
        "arms": arms,
        "num_pictures": NUM_PICTURES,
        "num_duplicates": 0,
        "num_unusable": 0,
        "similarity": "raw cosine of CLS features",
        "quantile": 0.99,
        "directions": directions,
        "factors": {factor: dict.fromkeys(arms, classes) for factor in factors},
        "agreement": [agreement],
        "effective_rank": dict.fromkeys(arms, 10.0),
    }
    folder.write_json("analysis.json", analysis)
    commit(folder, "AnalysisManifest", "analyze_embeddings", summary={"arms": arms})


@pytest.fixture
def write_schedule(tmp_path: Path) -> Callable[[str, str], None]:
    """Returns a function that gives one arm of the written study another schedule's hash."""

    def write(arm: str, schedule: str) -> None:
        _write_pretrain(tmp_path / "study", arm, HASHES | {"schedule": schedule})

    return write


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., list[str]]:
    """Returns a function that writes a study and returns the command line of its report."""

    def write(probe: Accuracies, vmc: Accuracies, name: str = "study", reverse_inputs: bool = False) -> list[str]:
        root, arms = tmp_path / name, list(probe)
        for shift, arm in enumerate(arms):
            _write_pretrain(root, arm, HASHES | {"crops": f"those of {arm}"})
            _write_evaluate(root, arm, probe[arm], 9 * shift)
            vlm = {"inputs": {"shards": "9" * 64}, "summary": {"arm": arm}, "cost": {"seconds": 1}}
            commit(LocalFolder(root / "train_vlm" / arm), "VlmManifest", "train_vlm", **vlm)
            _write_benchmark(root, arm, vmc[arm], 9 * shift)
        _write_analysis(root, arms, list(probe[arms[0]]))
        listed = {
            field: ",".join(str(root / stage / arm) for arm in (reversed(arms) if reverse_inputs else arms))
            for field, stage in (("evaluations", "evaluate"), ("vlms", "train_vlm"), ("benchmarks", "benchmark_vlm"))
        }
        for purpose in PURPOSES:
            counts = {"inputs": 410, "samples": 400, "unused": 0, "rejected": 10, "reasons": {"decode": 10}}
            data = {"counts": counts, "summary": {"purpose": purpose}, "cost": {"seconds": 1}}
            commit(LocalFolder(root / "build_shards" / purpose), "ShardsManifest", "build_shards", **data)
        listed["shards"] = ",".join(str(root / "build_shards" / purpose) for purpose in PURPOSES)
        checkpoints = ",".join(str(root / "pretrain" / arm) for arm in arms)
        fields = {"checkpoints": checkpoints, "analysis": str(root / "analyze_embeddings")} | listed
        return [f"--{field}={value}" for field, value in fields.items()]

    return write
