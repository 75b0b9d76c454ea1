"""The report's tables."""

from collections.abc import Sequence
from typing import Any

from components.report.comparisons import Comparison
from components.report.content import Cell, Column, Table
from components.report.paper_values import PAPER_SETTINGS, UNKNOWN, PaperValue
from components.report.parity import Parity
from components.report.study import Arm, Study
from components.report.wording import (
    arm_name,
    compact,
    count,
    duration,
    level,
    number,
    percent,
    short_hash,
    signed_points,
    span,
)

NONE = Cell("\u2013", tone="empty")
PREFERRED_K = ("20", "10")  # DINO's protocol reports 20


def key_table(study: Study, comparisons: Sequence[Comparison]) -> Table:
    """Returns accuracies on frozen features per factor, and the paired differences of the probe."""
    columns = [Column("factor", is_number=False), Column("n"), Column("chance")]
    for arm in study.arms:
        name = arm_name(arm.name)
        columns += [Column("linear probe", name), Column(f"{_k(study)}-NN", name), Column("zero-shot", name)]
    columns += [Column(f"{arm_name(c.first)} \u2212 {arm_name(c.other)}", "probe, paired") for c in comparisons]
    rows = []
    for factor in study.factors:
        probe = study.first.scores["probe"][factor]
        cells = [Cell(factor), Cell(count(probe["n"])), Cell(percent(probe["chance"]))]
        for arm in study.arms:
            knn = arm.scores["knn"].get(factor, {}).get(_k(study))
            cells += [
                _score(arm.scores["probe"][factor], tone="lead"),
                _score(knn),
                _score(arm.scores["zero_shot"].get(factor)),
            ]
        cells += [_difference(c, c.probe[factor]) for c in comparisons]
        rows.append(cells)
    caption = (
        f"Accuracy on frozen CLS features, in %, with {level(study.confidence)} Wilson intervals; differences are "
        "paired over the same pictures, in points."
    )
    return Table(caption, columns, rows)


def benchmark_table(study: Study, comparisons: Sequence[Comparison]) -> Table:
    """Returns the language model's accuracies per group and set."""
    columns = [Column("questions", is_number=False), Column("n"), Column("chance")]
    columns += [Column(arm_name(arm.name), "accuracy") for arm in study.arms]
    columns += [Column(f"{arm_name(c.first)} \u2212 {arm_name(c.other)}", "paired") for c in comparisons]
    rows = []
    for kind, names, found in (("groups", study.groups, "vmc"), ("sets", study.sets, "vmc_sets")):
        for name in names:
            facts = study.first.benchmark_scores[kind][name]
            note = f"set of {facts['group']}" if kind == "sets" else "group"
            cells = [Cell(name, note), Cell(count(facts["n"])), Cell(percent(facts["chance"]))]
            cells += [_score(arm.benchmark_scores[kind][name], tone="lead" * (kind == "groups")) for arm in study.arms]
            differences = [getattr(c, found) for c in comparisons]
            cells += [
                _difference(c, d[name]) if name in d else NONE for c, d in zip(comparisons, differences, strict=True)
            ]
            rows.append(cells)
    scores = [arm.benchmark_scores for arm in study.arms]
    blanks = [NONE] * len(comparisons)
    micro = scores[0]["micro"]
    rows += [
        [
            Cell("all", "mean over questions"),
            Cell(count(micro["n"])),
            NONE,
            *(_score(s["micro"]) for s in scores),
            *blanks,
        ],
        [Cell("all", "mean over sets"), NONE, NONE, *(Cell(percent(s["macro"])) for s in scores), *blanks],
        [
            Cell("unparsed", "share of replies"),
            NONE,
            NONE,
            *(Cell(percent(s["unparsed_rate"])) for s in scores),
            *blanks,
        ],
    ]
    return Table("Multiple choice, in %; a reply that names no option counts as wrong.", columns, rows)


def embedding_table(study: Study) -> Table:
    """Returns what mined pairs share, per factor and direction, beside all pairs."""
    directions = [d for d in study.analysis["directions"] if study.first.name in (d["alike"], d["unlike"])]
    columns = [Column("factor", is_number=False), Column("all pairs", "share that agree")]
    columns += [
        Column(f"alike to {arm_name(d['alike'])}, not {arm_name(d['unlike'])}", "share that agree") for d in directions
    ]
    columns += [Column(arm_name(arm.name), "separation") for arm in study.arms]
    rows = []
    for factor, of_arm in study.analysis["factors"].items():
        found = [d["factors"].get(factor) for d in directions]
        base = next((f["base_rate"] for f in found if f), None)
        cells = [Cell(factor), NONE if base is None else Cell(percent(base))]
        for share in found:
            tone = "lead" if share and not share["low"] <= share["base_rate"] <= share["high"] else ""
            note = f"{span(share['low'], share['high'])}" if share else ""
            cells.append(Cell(percent(share["share"]), note, tone) if share else NONE)
        for arm in study.arms:
            values = of_arm.get(arm.name) or {}
            note = f"cosine {number(values['intra'], 2)} : {number(values['inter'], 2)}" if values else ""
            cells.append(Cell(number(values["separation"], 2), note) if values else NONE)
        rows.append(cells)
    caption = (
        "Left: how often two pictures of a mined pair have the same factor, in %; bold where the interval excludes the "
        "share among all pairs. Right: how much more alike two pictures of one class are than two of different "
        "classes, in standard deviations of the encoder's similarities, over the mean cosines within and "
        "between classes."
    )
    return Table(caption, columns, rows)


def agreement_table(study: Study) -> Table:
    """Returns how alike the arms are as a whole, and how many directions each uses."""
    columns = [Column("encoders", is_number=False), Column("measure", is_number=False)]
    columns += [Column("value"), Column("unrelated", "shuffled pictures"), Column("highest", "shuffled pictures")]
    rows = []
    for found in study.analysis["agreement"]:
        measures = {"linear CKA": "cka", "rank correlation (RSA)": "rsa", f"mutual {found['k']}-NN": "mutual_knn"}
        for label, key in measures.items():
            value = found[key]
            cells = [Cell(number(value[name], 3)) for name in ("value", "chance", "chance_high")]
            rows.append([Cell(" and ".join(arm_name(a) for a in found["arms"])), Cell(label), *cells])
    for arm, rank in study.analysis["effective_rank"].items():
        rows.append([Cell(arm_name(arm)), Cell("effective rank"), Cell(number(rank)), NONE, NONE])
    return Table("How alike the encoders see the same pictures, beside what shuffled pictures give.", columns, rows)


def parity_table(study: Study, parity: Parity) -> Table:
    """Returns the hashes that must be the same for all arms."""
    what = {
        "trunk_init": "initial weights of the trunk",
        "manifest": "training pictures",
        "sample_order": "order of the samples",
        "schedule": "learning-rate schedule",
        "vlm_data": "the language model's training data",
        "benchmark": "benchmark questions",
    }
    columns = [Column("what", is_number=False), Column("", is_number=False)]
    columns += [Column(arm_name(arm.name), "sha256", is_number=False) for arm in study.arms]
    rows = []
    for name, of in (parity.hashes | parity.downstream).items():
        is_equal = "" not in of.values() and len(set(of.values())) == 1
        hashes = [Cell(short_hash(h), tone="code") if h else Cell("not recorded", tone="empty") for h in of.values()]
        rows.append(
            [Cell(what[name]), Cell("equal" if is_equal else "different", tone="" if is_equal else "lead"), *hashes]
        )
    return Table("What is the same for every arm.", columns, rows)


def differs_table(study: Study, parity: Parity) -> Table:
    """Returns every value that is not the same for all arms."""
    columns = [Column("value", is_number=False), *(Column(arm_name(arm.name)) for arm in study.arms)]
    names = [arm.name for arm in study.arms]
    rows = [[Cell(d.name, tone="code"), *(Cell(_plain(d.values[arm])) for arm in names)] for d in parity.differs]
    return Table("What differs between the arms: all of it.", columns, rows)


def paper_table(study: Study, values: Sequence[PaperValue], caption: str) -> Table:
    """Returns the paper's values beside ours; ours only where the same thing was measured."""
    by_name = {arm.name: arm for arm in study.arms}
    columns = [Column("measurement", is_number=False), Column("CLIP", "paper"), Column("DINO", "paper")]
    columns += [Column("difference", "paper"), Column("known from", "paper", is_number=False)]
    columns += [Column("CLIP", "here"), Column("DINO", "here"), Column("difference", "here")]
    rows = []
    for value in values:
        texts = (value.clip, value.dino, value.difference)
        published = [Cell(text) if text else Cell(UNKNOWN, tone="empty") for text in texts]
        ours = [_ours(by_name[arm], value) if arm in by_name else None for arm in ("clip", "dino")]
        cells = [Cell(percent(o)) if o is not None else NONE for o in ours]
        difference = signed_points(ours[0] - ours[1]) if ours[0] is not None and ours[1] is not None else ""
        note = "other questions: direction only" if difference and value.group else ""
        rows.append([Cell(value.name), *published, Cell(value.mark) if value.mark else NONE, *cells])
        rows[-1].append(Cell(difference, note) if difference else NONE)
    return Table(caption, columns, rows)


def settings_table(study: Study) -> Table:
    """Returns the paper's recipe beside this study's."""
    params, shape = study.first.checkpoint.params, study.first.checkpoint.summary["architecture"]
    ours = {
        "encoder": f"ViT of width {shape['width']} and depth {shape['depth']}, "
        f"patch {shape['patch_size_px']} px, {shape['image_size_px']} px",
        "training data": "see the data section",
        "length": f"{count(study.first.checkpoint.summary['num_samples_seen'])} samples seen",
        "optimiser": f"AdamW, learning rate {params.get('learning_rate', '')}, cosine",
        "batch, weight decay, warm-up": f"batch {params.get('batch_size', '')}, "
        f"warm-up {params.get('warmup_steps', '')} steps",
    }
    columns = [Column("setting", is_number=False), Column("paper", is_number=False)]
    columns += [Column("known from", is_number=False), Column("here", is_number=False)]
    rows = [
        [
            Cell(name),
            Cell(value) if value else Cell(UNKNOWN, tone="empty"),
            Cell(mark) if mark else NONE,
            Cell(ours[name]) if name in ours else Cell("see provenance", tone="empty"),
        ]
        for name, value, mark in PAPER_SETTINGS
    ]
    return Table("The recipe.", columns, rows)


def cost_table(study: Study, gpu_hour_price: float) -> Table:
    """Returns what each arm took."""
    columns = [Column("arm", is_number=False), Column("device", is_number=False), Column("samples/s", "pretraining")]
    columns += [Column(name, "pretraining") for name in ("time", "FLOP per sample", "FLOP in total")]
    columns += [Column(name, "time") for name in ("evaluate", "train_vlm", "benchmark_vlm")]
    columns += [Column("GPU-hours", "all stages"), Column("CPU-hours", "all stages")]
    columns += [Column("price", "all stages")] if gpu_hour_price else []
    rows = []
    for arm in study.arms:
        cost, summary = arm.checkpoint.cost, arm.checkpoint.summary
        flops = summary["train_flops_per_sample"]
        later = [m.cost for m in (arm.evaluation, arm.vlm, arm.benchmark)]
        gpu_hours = sum(_gpu_seconds(c) for c in (cost, *later)) / 3600
        rows.append(
            [
                Cell(arm_name(arm.name)),
                Cell(str(cost.get("device", "unknown"))),
                Cell(number(cost["samples_per_s"])) if "samples_per_s" in cost else NONE,
                Cell(duration(cost["seconds"])),
                Cell(compact(flops)),
                Cell(compact(flops * summary["num_samples_seen"])),
                *(Cell(duration(c["seconds"])) for c in later),
                Cell(number(gpu_hours, 2)),
                Cell(number(sum(c.get("cpu_seconds", 0) for c in (cost, *later)) / 3600, 2)),
            ]
        )
        if gpu_hour_price:
            rows[-1].append(Cell(number(gpu_hours * gpu_hour_price, 2)))
    return Table("What each arm took; times are of this run and differ from run to run.", columns, rows)


def _gpu_seconds(cost: dict[str, Any]) -> float:
    is_gpu = not str(cost.get("device", "CPU")).lower().startswith("cpu")  # else the GPU's name
    return cost["seconds"] * cost.get("world_size", 1) if is_gpu else 0.0


def _k(study: Study) -> str:
    offered = [set(of) for arm in study.arms for of in arm.scores["knn"].values()]
    shared = set.intersection(*offered) if offered else set()
    return next((k for k in PREFERRED_K if k in shared), min(shared, key=int, default="k"))


def _score(score: dict[str, Any] | None, tone: str = "") -> Cell:
    if not score:
        return NONE
    return Cell(percent(score["accuracy"]), span(score["low"], score["high"]) if "low" in score else "", tone)


def _difference(comparison: Comparison, found: Any) -> Cell:
    tone = {1: "first", -1: "other", 0: ""}[found.sign]
    return Cell(signed_points(found.difference), span(found.low, found.high), tone)


def _ours(arm: Arm, value: PaperValue) -> float | None:
    places = (
        (arm.scores["probe"], value.factor),
        (arm.benchmark_scores["groups"], value.group),
        (arm.benchmark_scores["sets"], value.data_set),
    )
    return next((of[name]["accuracy"] for of, name in places if name and name in of), None)


def _plain(value: Any) -> str:
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and value >= 10_000):
        return f"{value:,.6g}" if abs(value) < 1e7 else compact(value)
    return str(value)
