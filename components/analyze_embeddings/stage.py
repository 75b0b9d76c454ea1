"""Finds what one encoder sees and the other does not: pairs of pictures, and numbers per factor.

Similarities are raw cosines of CLS features, not centred, as the paper's; rank-based numbers and quantile thresholds
don't depend on how far an encoder's features lie from the origin.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from components.analyze_embeddings import grid, statistics
from components.analyze_embeddings.features import TestFeatures, read_features
from components.analyze_embeddings.params import Params
from components.core.data.shard_samples import Sample, read_samples
from components.core.evaluation import pairs, similarity
from components.core.evaluation.pairs import MinedPairs
from components.runtime.errors import BadInput
from components.runtime.stage import Outcome, Stage

SCHEMA = 1


def run(params: Params, stage: Stage) -> Outcome:
    """Writes a PNG per direction, `pairs.json` and `analysis.json`."""
    features = read_features(stage.input_lists["features"], stage.folders("features"))
    _check_shards(stage)
    chosen_N = np.random.default_rng(params.seed).permutation(len(features.ids_N))[: params.max_pictures]
    features = features.keep(np.sort(chosen_N))
    features, num_duplicates = _without_duplicates(features, stage)
    if len(features.ids_N) < 3:
        raise BadInput(
            f"--features: {len(features.ids_N)} different test pictures are left, pairs need at least 3: "
            "build a larger test split, or raise --max_pictures."
        )
    cosines = {arm: similarity.cosine_similarities(cls_ND) for arm, cls_ND in features.cls.items()}
    mined = pairs.mine_directions(cosines, params.pair_quantile)
    files = _write_pairs(params, stage, features, cosines, mined)
    effective_rank = {arm: similarity.effective_rank(cls_ND) for arm, cls_ND in features.cls.items()}
    analysis = {
        "schema": SCHEMA,
        "arms": list(cosines),
        "num_pictures": len(features.ids_N),
        "num_duplicates": num_duplicates,
        "num_unusable": features.num_unusable,
        "similarity": "raw cosine of CLS features",
        "quantile": params.pair_quantile,
        "directions": [
            statistics.describe_direction(direction, found, features.labels, cosines)
            for direction, found in mined.items()
        ],
        "factors": statistics.describe_factors(features, cosines),
        "agreement": statistics.describe_agreement(features, cosines, params.seed),
        "effective_rank": statistics.rounded(effective_rank),
    }
    stage.out.write_json("analysis.json", analysis)
    shards = stage.inputs["shards"]
    return Outcome(
        kind="AnalysisManifest",
        files=[*files, "pairs.json", "analysis.json"],
        counts={"pictures": len(features.ids_N), "duplicates": num_duplicates, "unusable": features.num_unusable}
        | {f"pairs_{a}_not_{b}": len(found.pairs_M2) for (a, b), found in mined.items()},
        summary={"arms": list(cosines), "shards": {"digest": shards.digest, "counts": shards.counts}},
        metrics={f"effective_rank_{arm}": value for arm, value in effective_rank.items()},
    )


def _check_shards(stage: Stage) -> None:
    shards = stage.inputs["shards"].digest
    for manifest in stage.input_lists["features"]:
        if manifest.inputs["shards"] != shards:
            raise BadInput(
                f"--shards holds other shards than those that the features of {manifest.summary['arm']} were made "
                "from: give the shards that extract_features read."
            )


def _without_duplicates(features: TestFeatures, stage: Stage) -> tuple[TestFeatures, int]:
    """Leaves out every picture whose pixels equal those of an earlier one."""
    wanted = set(features.ids_N.tolist())
    seen: set[bytes] = set()
    first: set[int] = set()
    for sample in _samples(stage, wanted):
        shape = str(sample.image.size).encode()
        content = hashlib.sha256(shape + sample.image.tobytes()).digest()
        if content not in seen:
            first.add(sample.id)
        seen.add(content)
    if not first:
        raise BadInput("--shards holds none of the test pictures of --features: give the shards they were made from.")
    is_first_N = np.array([number in first for number in features.ids_N.tolist()])
    return features.keep(is_first_N), int((~is_first_N).sum())


def _write_pairs(
    params: Params,
    stage: Stage,
    features: TestFeatures,
    cosines: dict[str, np.ndarray],
    mined: dict[tuple[str, str], MinedPairs],
) -> list[str]:
    """Writes the sheets and `pairs.json`; returns the names of the sheets."""
    shown = {direction: found.pairs_M2[: params.num_pairs] for direction, found in mined.items()}
    wanted = {int(features.ids_N[row]) for pairs_M2 in shown.values() for row in pairs_M2.ravel()}
    samples = {sample.id: sample for sample in _samples(stage, wanted)}
    names = {f: c for m in stage.input_lists["features"] for f, c in m.summary["factors"].items()}
    files, directions = [], []
    for (alike, unlike), pairs_M2 in shown.items():
        entries: list[dict[str, Any]] = []
        pictures: list[tuple[Image.Image, Image.Image, str]] = []
        for index, rows in enumerate(pairs_M2.tolist()):
            first, second = (samples[int(features.ids_N[row])] for row in rows)
            values = {arm: round(float(cosines_NN[tuple(rows)]), 4) for arm, cosines_NN in cosines.items()}
            described = [_describe(s, b, names) for s, b in zip((first, second), grid.boxes(index), strict=True)]
            entries.append({"pictures": described, "similarity": values})
            pictures.append((first.image, second.image, f"{alike} {values[alike]:.2f}   {unlike} {values[unlike]:.2f}"))
        name = f"pairs_{alike}_not_{unlike}.png"
        title = f"Alike to {alike}, unlike to {unlike}"
        stage.out.write(name, grid.draw_grid(title, pictures))
        files.append(name)
        directions.append({"alike": alike, "unlike": unlike, "file": name, "pairs": entries})
        stage.log(
            "pairs_mined", alike=alike, unlike=unlike, found=len(mined[alike, unlike].pairs_M2), shown=len(entries)
        )
    stage.out.write_json("pairs.json", {"schema": SCHEMA, "tile_px": grid.TILE_PX, "directions": directions})
    return files


def _describe(sample: Sample, box: grid.Box, names: dict[str, list[str]]) -> dict[str, Any]:
    labels = {factor: names[factor][label] for factor, label in sample.labels.items() if factor in names and label >= 0}
    return {"id": sample.id, "caption": sample.caption, "labels": labels, "box": list(box)}


def _samples(stage: Stage, wanted: set[int]) -> Iterator[Sample]:
    for sample in read_samples(stage.folder("shards"), stage.inputs["shards"]):
        if sample.id in wanted:
            yield sample
