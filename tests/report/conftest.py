"""A study as the other stages leave it, small, with accuracies that the test chooses."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from components.analyze_embeddings import grid
from components.core.evaluation.intervals import wilson
from components.runtime.manifest import Manifest, describe_file, write_manifest
from components.runtime.storage import LocalFolder

Accuracies = Mapping[str, Mapping[str, float | Sequence[float]]]  # arm, factor or group; one value, or one per run
NUM_PICTURES, NUM_QUESTIONS, NUM_CLASSES = 400, 200, 10
PURPOSES = ("pretrain", "probe", "instruct", "benchmark")
HASHES = {"trunk_init": "a" * 64, "manifest": "b" * 64, "sample_order": "c" * 64, "schedule": "d" * 64}
LANGUAGE_ARMS = ("clip", "siglip", "clip_lm", "slip")
SHARDS, BENCHMARK = "6" * 64, "e" * 64


def commit(folder: LocalFolder, kind: str, stage: str, **parts: Any) -> Manifest:
    """Writes the manifest of what lies in `folder`."""
    empty: dict[str, Any] = {name: {} for name in ("params", "inputs", "counts", "summary", "cost")}
    files = {name: describe_file(folder, name) for name in folder.names() if name != "manifest.json"}
    manifest = Manifest(kind=kind, stage=stage, files=files, code={"commit": "f" * 40, "image": ""}, **empty | parts)
    write_manifest(folder, manifest)
    return manifest


def encoder_name(arm: str, replicate: int) -> str:
    """Returns the folder of one training."""
    return f"{arm}_{replicate}" if replicate else arm


def _of_run(accuracy: float | Sequence[float], run: int) -> float:
    return accuracy[run] if isinstance(accuracy, Sequence) else accuracy


def _right(accuracy: float, n: int, shift: int) -> np.ndarray:
    """Returns which of n items are right: exactly that share, at places that `shift` moves."""
    return np.roll(np.arange(n) < round(accuracy * n), shift)


def _score(is_right: np.ndarray, chance: float = 0.1) -> dict[str, Any]:
    low, high = wilson(int(is_right.sum()), len(is_right))
    return {"accuracy": float(is_right.mean()), "low": low, "high": high, "n": len(is_right), "chance": chance}


def write_pretrain(root: Path, arm: str, replicate: int, parity: Mapping[str, Any]) -> None:
    """Writes what pretrain leaves of one training."""
    folder = LocalFolder(root / "pretrain" / encoder_name(arm, replicate))
    losses = [3.0, 2.0, len(arm) + 0.1 * replicate]
    folder.write_json("curve.json", {"steps": [1, 2, 3], "samples_seen": [64, 128, 192], "values": {"loss": losses}})
    shape = {"image_size_px": 48, "patch_size_px": 8, "width": 96, "depth": 4, "num_heads": 4}
    about = {"arm": arm, "replicate": replicate}
    summary = about | {"architecture": shape, "parity": dict(parity), "train_flops_per_sample": 1e8}
    commit(
        folder,
        "CheckpointManifest",
        "pretrain",
        params=about | {"seed": 7},
        summary=summary | {"num_samples_seen": 192},
        cost={"seconds": 12.5, "cpu_seconds": 20.0, "samples_per_s": 100.0, "device": "cpu"},
    )


def write_evaluate(
    folder: LocalFolder, arm: str, replicate: int, accuracies: Mapping[str, float], shift: int, num_left_out: int = 0
) -> None:
    """Writes what evaluate leaves of one training on one labelled set, without the first pictures."""
    labels = np.arange(NUM_PICTURES) % NUM_CLASSES
    kept = slice(num_left_out, None)
    kinds = ["probe", "logistic", "knn", *(["zero_shot"] if arm in LANGUAGE_ARMS else [])]
    scores: dict[str, Any] = {"arm": arm, "replicate": replicate, "zero_shot": {}, "few_shot": {}}
    tensors: dict[str, np.ndarray] = {}
    for factor, accuracy in accuracies.items():
        tensors |= {f"labels/{factor}": labels[kept], f"ids/{factor}": np.arange(NUM_PICTURES)[kept]}
        for number, kind in enumerate(kinds):
            is_right = _right(accuracy, NUM_PICTURES, shift + number)[kept]
            tensors[f"{kind}/{factor}"] = np.where(is_right, labels[kept], (labels[kept] + 1) % NUM_CLASSES)
            score = _score(is_right)
            scores.setdefault(kind, {})[factor] = {"10": score, "20": score} if kind == "knn" else score
        shots = {"accuracy": accuracy / 2, "low": accuracy / 4, "high": accuracy, "sd": 0.02, "n": 400, "chance": 0.1}
        scores["few_shot"][factor] = {"1": shots, "5": shots | {"accuracy": accuracy}}
    folder.write("predictions.safetensors", safetensors.numpy.save(tensors))
    folder.write_json("scores.json", scores)
    summary = {"arm": arm, "replicate": replicate, "protocol": "frozen CLS after the last norm", "shards": SHARDS}
    commit(
        folder,
        "EvaluationManifest",
        "evaluate",
        params={"confidence": 0.95},
        summary=summary | {"leaked": {"num_test": NUM_PICTURES, "num_in_train": 3}},
        cost={"seconds": 1},
    )


def write_vlm(root: Path, arm: str, replicate: int) -> None:
    """Writes the manifest that train_vlm leaves of one training."""
    folder = LocalFolder(root / "train_vlm" / encoder_name(arm, replicate))
    about = {"arm": arm, "replicate": replicate, "parity": {"data": "9" * 64}}
    commit(folder, "VlmManifest", "train_vlm", inputs={"shards": "9" * 64}, summary=about, cost={"seconds": 1})


def write_benchmark(root: Path, arm: str, replicate: int, accuracies: Mapping[str, float], shift: int) -> None:
    """Writes what benchmark_vlm leaves of one training."""
    folder = LocalFolder(root / "benchmark_vlm" / encoder_name(arm, replicate))
    about = {"arm": arm, "replicate": replicate}
    right = {group: _right(accuracy, NUM_QUESTIONS, shift) for group, accuracy in accuracies.items()}
    answers = [
        {"category": f"Set of {group}", "group": group, "answer": "A", "is_correct": bool(is_right)}
        for group, of in right.items()
        for is_right in of
    ]
    lines = (json.dumps(answer | {"index": str(index), "is_parsed": True}) for index, answer in enumerate(answers))
    folder.write("answers.jsonl", "\n".join(lines).encode())
    groups = {group: _score(is_right, 0.25) for group, is_right in right.items()}
    scores = about | {
        "groups": groups,
        "sets": {f"Set of {group}": score | {"group": group} for group, score in groups.items()},
        "micro": _score(np.concatenate(list(right.values())), 0.25),
        "macro": float(np.mean([score["accuracy"] for score in groups.values()])),
        "unparsed_rate": 0.0,
    }
    folder.write_json("scores.json", scores)
    made = {"params": {"confidence": 0.95}, "summary": about | {"questions": BENCHMARK}}
    commit(folder, "BenchmarkScores", "benchmark_vlm", **made, cost={"seconds": 1})


def _write_analysis(root: Path, arms: list[str], replicates: list[int], factors: list[str]) -> None:
    folder = LocalFolder(root / "analyze_embeddings")
    directions = _write_pairs(folder, arms, factors)
    values = {"value": 0.5, "chance": 0.1, "chance_high": 0.2, "p": 0.01}
    agreement = {"num_encoder_pairs": len(replicates), "k": 10, "rsa_pictures": 100}
    measures = {"rsa": values, "cka": values, "mutual_knn": values}
    classes = {"intra": 0.5, "inter": 0.2, "ratio": 2.5, "separation": 1.0}
    classes |= {"retrieval_at_1": 0.6, "mean_average_precision": 0.4}
    partial = {"rsa": 0.4, "partial": 0.3, "partial_low": 0.2, "partial_high": 0.4}
    rsa = partial | {"per_replicate": [0.3] * len(replicates)}
    references = [("colour_histogram", "colours of the pictures"), ("style", "style"), ("text", "text in the pictures")]
    same = [[arm, arm] for arm in arms] if len(replicates) > 1 else []
    analysis = {
        "schema": 2,
        "arms": arms,
        "replicates": replicates,
        "num_pictures": NUM_PICTURES,
        "num_duplicates": 0,
        "num_unusable": 0,
        "similarity": "raw cosine of CLS features",
        "quantile": 0.99,
        "thresholds": {"num_pairs": NUM_PICTURES * (NUM_PICTURES - 1) // 2, "is_exact": True},
        "directions": directions,
        "factors": {factor: dict.fromkeys(arms, classes) for factor in factors},
        "rsa": {
            "confidence": 0.95,
            "references": [{"name": name, "about": about} for name, about in references],
            "arms": {arm: {name: rsa for name, _ in references} for arm in arms},
        },
        "agreement": [agreement | measures | {"arms": pair} for pair in [arms[:2], *same]],
        "effective_rank": {arm: [10.0 + replicate for replicate in replicates] for arm in arms},
        "projection": "projection.json",
    }
    folder.write_json("analysis.json", analysis)
    places = np.random.default_rng(0).normal(size=(len(arms), 2, 60)).round(3)
    projection = {
        "schema": 1,
        "method": "principal components",
        "arms": {arm: {"x": xy[0].tolist(), "y": xy[1].tolist()} for arm, xy in zip(arms, places, strict=True)},
        "labels": {factor: [i % 3 - (i % 7 == 0) for i in range(60)] for factor in factors},
        "classes": {factor: ["first", "second", "third"] for factor in factors},
        "ids": list(range(60)),
    }
    folder.write_json("projection.json", projection)
    commit(folder, "AnalysisManifest", "analyze_embeddings", summary={"arms": arms})


def _write_pairs(folder: LocalFolder, arms: list[str], factors: list[str]) -> list[dict[str, Any]]:
    """Writes the sheets and `pairs.json`, and returns what the analysis says of the directions."""
    from PIL import Image

    agreeing = {"share": 0.5, "low": 0.2, "high": 0.8, "base_rate": 0.1, "n": 10}
    directions, sheets = [], []
    for alike in arms:
        for unlike in (arm for arm in arms if arm != alike):
            name = f"pairs_{alike}_not_{unlike}.png"
            red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
            folder.write(name, grid.draw_grid(name, [(red, blue, "")]))
            pictures = [
                {"id": i, "caption": "<b>a caption</b>", "labels": {factors[0]: "x"}, "box": list(box)}
                for i, box in enumerate(grid.boxes(0))
            ]
            similarity = {arm: 0.9 if arm == alike else 0.1 for arm in arms}
            shown = {"pictures": pictures, "similarity": similarity}
            sheets.append({"alike": alike, "unlike": unlike, "file": name, "pairs": [shown]})
            facts = {"alike": alike, "unlike": unlike, "num_candidates": 3, "num_pairs": 1, "above": 0.8, "below": 0.2}
            fixed = [{"above": 0.7, "below": 0.5, "num_pairs": 2, "source": "the authors' code"}]
            directions.append(facts | {"factors": dict.fromkeys(factors, agreeing), "fixed": fixed})
    folder.write_json("pairs.json", {"schema": 1, "tile_px": grid.TILE_PX, "directions": sheets})
    return directions


@pytest.fixture
def write_schedule(tmp_path: Path) -> Callable[..., None]:
    """Returns a function that gives one training of the written study another schedule's hash."""

    def write(arm: str, schedule: str, replicate: int = 0) -> None:
        write_pretrain(tmp_path / "study", arm, replicate, HASHES | {"schedule": schedule})

    return write


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., list[str]]:
    """Returns a function that writes a study and returns the command line of its report.

    `probe` and `vmc` hold an accuracy per arm and factor or group, or one for each of `num_replicates` runs; `sets`
    names the factors of each evaluation where there are several, `first_replicate` the first run's number, and
    `num_left_out` of the first arm's pictures are missing in the first arm's first run.
    """

    def write(
        probe: Accuracies,
        vmc: Accuracies,
        name: str = "study",
        reverse_inputs: bool = False,
        num_replicates: int = 1,
        first_replicate: int = 0,
        sets: Mapping[str, Sequence[str]] | None = None,
        num_left_out: int = 0,
    ) -> list[str]:
        root, arms = tmp_path / name, list(probe)
        replicates = list(range(first_replicate, first_replicate + num_replicates))
        sets = sets or {"": list(probe[arms[0]])}
        encoders = [(arm, run) for run in range(num_replicates) for arm in arms]
        for arm, run in encoders:
            number, shift = replicates[run], 9 * arms.index(arm) + 4 * run
            write_pretrain(root, arm, number, HASHES | {"crops": f"those of {arm}"})
            for part, factors in sets.items():
                found = {factor: _of_run(probe[arm][factor], run) for factor in factors}
                folder = LocalFolder(root / "evaluate" / part / encoder_name(arm, number))
                left_out = num_left_out if (arm, run) == encoders[0] else 0
                write_evaluate(folder, arm, number, found, shift, left_out)
            write_vlm(root, arm, number)
            asked = {group: _of_run(accuracy, run) for group, accuracy in vmc[arm].items()}
            write_benchmark(root, arm, number, asked, shift)
        _write_analysis(root, arms, replicates, list(probe[arms[0]]))
        names = [encoder_name(arm, replicates[run]) for arm, run in encoders]
        shuffled = names[::-1] if reverse_inputs else names
        folders = {
            "checkpoints": [root / "pretrain" / encoder for encoder in names],
            "evaluations": [root / "evaluate" / part / encoder for part in sets for encoder in shuffled],
            "vlms": [root / "train_vlm" / encoder for encoder in shuffled],
            "benchmarks": [root / "benchmark_vlm" / encoder for encoder in shuffled],
            "analysis": [root / "analyze_embeddings"],
            "shards": [root / "build_shards" / purpose for purpose in PURPOSES],
        }
        for purpose in PURPOSES:
            counts = {"inputs": 410, "samples": 400, "unused": 0, "rejected": 10, "reasons": {"decode": 10}}
            data = {"counts": counts, "summary": {"purpose": purpose}, "cost": {"seconds": 1}}
            commit(LocalFolder(root / "build_shards" / purpose), "ShardsManifest", "build_shards", **data)
        return [f"--{field}={','.join(map(str, of))}" for field, of in folders.items()]

    return write
