"""Finds what one encoder sees and the other does not: pairs of pictures, and numbers per factor.

features of all encoders -> pictures that differ -> pairs -> sheets -> numbers per factor -> RSA -> agreement

Similarities are raw cosines of CLS features, not centred, as the paper's; rank-based numbers and quantile thresholds
don't depend on how far an encoder's features lie from the origin.
"""

from typing import Any

import numpy as np

from components.analyze_embeddings import references, sheets, statistics
from components.analyze_embeddings.encoders import Encoders, read_encoders
from components.analyze_embeddings.params import Params
from components.analyze_embeddings.pictures import is_first
from components.analyze_embeddings.references import Look
from components.core.data.shard_samples import read_chosen
from components.core.evaluation import pairs
from components.core.evaluation.pair_tiles import num_distinct_pairs
from components.core.evaluation.pairs import Direction, MinedPairs, Thresholds
from components.runtime.errors import BadInput, Preempted
from components.runtime.stage import Outcome, Stage

SCHEMA = 2
MIN_PICTURES = 3
MINED_PAIRS = 500  # of each direction, for the shares that agree: their intervals are at most 0.09 wide
SUBSET_PICTURES = 1000  # for numbers that need all pairs in memory: half a million of them here
PROJECTED_PICTURES = 1000
ANALYSIS_NAME, PROJECTION_NAME = "analysis.json", "projection.json"


def run(params: Params, stage: Stage) -> Outcome:
    """Writes a PNG per direction, `pairs.json`, `projection.json` and `analysis.json`."""
    encoders = read_encoders(stage, params.max_pictures, params.seed)
    is_first_N = is_first(stage, encoders.ids_N, encoders.first())
    encoders, num_duplicates = encoders.keep(is_first_N), int((~is_first_N).sum())
    if len(encoders.ids_N) < MIN_PICTURES:
        raise BadInput(
            f"--features: {len(encoders.ids_N)} different test pictures are left, pairs need at least {MIN_PICTURES}: "
            "build a larger test split, or raise --max_pictures."
        )
    thresholds = pairs.thresholds(encoders.first(), params.pair_quantile, params.seed)
    mined = _mine(params, stage, encoders, thresholds)
    shown = {direction: found.pairs_M2[: params.num_pairs] for direction, found in mined.items()}
    subset = _subset(encoders, params.seed)
    on_sheets = {picture for pairs_M2 in shown.values() for picture in encoders.ids_N[pairs_M2].ravel().tolist()}
    in_subset = set(subset.ids_N.tolist())
    samples, looks = {}, []
    for sample in read_chosen(stage.folder("shards"), stage.inputs["shards"], on_sheets | in_subset):
        if sample.id in on_sheets:
            samples[sample.id] = sample
        if sample.id in in_subset:
            looks.append(references.look(sample))
    files = sheets.write_pairs(stage.out, encoders, shown, samples)
    analysis = {
        "schema": SCHEMA,
        "arms": encoders.arms,
        "replicates": encoders.replicates,
        "num_pictures": len(encoders.ids_N),
        "num_duplicates": num_duplicates,
        "num_unusable": encoders.num_unusable,
        "similarity": "raw cosine of CLS features",
        "quantile": params.pair_quantile,
        "thresholds": _describe_thresholds(thresholds),
        "max_pairs": max(MINED_PAIRS, params.num_pairs),
        "directions": [
            statistics.describe_direction(direction, found, encoders.labels, thresholds.scales)
            for direction, found in mined.items()
        ],
        **_numbers(params, stage, encoders, subset, looks),
        "projection": PROJECTION_NAME,
    }
    drawn = np.sort(np.random.default_rng(params.seed).permutation(len(encoders.ids_N))[:PROJECTED_PICTURES])
    stage.out.write_json(PROJECTION_NAME, statistics.describe_projection(encoders.keep(drawn)))
    stage.out.write_json(ANALYSIS_NAME, analysis)
    return _outcome(stage, encoders, analysis, [*files, PROJECTION_NAME, ANALYSIS_NAME])


def _mine(params: Params, stage: Stage, encoders: Encoders, thresholds: Thresholds) -> dict[Direction, MinedPairs]:
    """Returns the pairs of every direction between the arms' first replicates."""
    with stage.progress(num_distinct_pairs(len(encoders.ids_N)), "pair") as bar:

        def after_tile(num_pairs: int) -> None:
            bar.advance(num_pairs)
            _go_on(stage)

        fixed = {
            direction: [(above, below) for above, below, _ in found]
            for direction, found in statistics.FIXED_THRESHOLDS.items()
        }
        num_pairs = max(MINED_PAIRS, params.num_pairs)
        mined = pairs.mine(encoders.first(), thresholds.scales, num_pairs, fixed=fixed, after_tile=after_tile)
    for (alike, unlike), found in mined.items():
        stage.log("pairs_mined", alike=alike, unlike=unlike, candidates=found.num_candidates, kept=len(found.pairs_M2))
    return mined


def _subset(encoders: Encoders, seed: int) -> Encoders:
    """Returns at most `SUBSET_PICTURES` of the pictures.

    Where at least half of the pictures have the labels that the references need, those are drawn from.
    """
    n = len(encoders.ids_N)
    is_drawn_N = np.ones(n, bool)
    for factor in references.labelled_factors(list(encoders.labels)):
        is_labelled_N = is_drawn_N & (encoders.labels[factor] >= 0)
        if 2 * is_labelled_N.sum() >= n:
            is_drawn_N = is_labelled_N
    return encoders.keep(np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(is_drawn_N))[:SUBSET_PICTURES]))


def _numbers(params: Params, stage: Stage, encoders: Encoders, subset: Encoders, looks: list[Look]) -> dict[str, Any]:
    """Returns the numbers that no pairs are mined for."""
    compared = references.compared(looks, subset.labels, encoders.classes)
    _go_on(stage)
    factors = statistics.describe_factors(encoders, params.seed)
    _go_on(stage)
    rsa = {
        "references": [{"name": name, "about": about} for name, about in compared.about.items()],
        "left_out": [{"name": name, "why": why} for name, why in compared.left_out.items()],
        "num_pictures": len(subset.ids_N),
        "confidence": statistics.CONFIDENCE,
        "arms": statistics.describe_rsa(subset, compared.similarities, params.seed),
    }
    _go_on(stage)
    agreement = statistics.describe_agreement(subset, params.seed)
    _go_on(stage)
    effective_rank = statistics.describe_effective_rank(encoders)
    return {"factors": factors, "rsa": rsa, "agreement": agreement, "effective_rank": effective_rank}


def _describe_thresholds(thresholds: Thresholds) -> dict[str, Any]:
    errors = {arm: scale.error for arm, scale in thresholds.scales.items()}
    about = {"num_pairs": thresholds.num_pairs, "is_exact": thresholds.is_exact}
    return about | {"error": statistics.rounded(errors)}


def _outcome(stage: Stage, encoders: Encoders, analysis: dict[str, Any], files: list[str]) -> Outcome:
    shards = stage.inputs["shards"]
    counts = {name: analysis[f"num_{name}"] for name in ("pictures", "duplicates", "unusable")}
    return Outcome(
        kind="AnalysisManifest",
        files=files,
        counts=counts | {f"pairs_{d['alike']}_not_{d['unlike']}": d["num_pairs"] for d in analysis["directions"]},
        summary={
            "arms": encoders.arms,
            "replicates": encoders.replicates,
            "shards": {"digest": shards.digest, "counts": shards.counts},
        },
        metrics={f"effective_rank_{arm}": float(np.mean(ranks)) for arm, ranks in analysis["effective_rank"].items()},
    )


def _go_on(stage: Stage) -> None:
    if stage.stopping():
        raise Preempted("nothing is kept of a pass over the pairs; the next run starts over")
