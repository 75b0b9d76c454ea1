"""How the trainings went, per sample and per FLOP, and what they cost."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from components.report.drawings.curves import Axes, Line, curves, mean_line, smoothed
from components.report.page.content import Cell, Column, Figures, Part, Section, Table
from components.report.sections.accuracies import METHODS
from components.report.study import Arm, Run, Study
from components.report.wording import arm_name, count, in_one_unit, joined, mean

NONE = Cell("\u2013", tone="empty")
PROBE = "probe/"
VIEWS = ("samples seen", "training FLOP")
THOUSANDS = ((1e9, "billion "), (1e6, "million "), (1e3, "thousand "), (1.0, ""))
SECONDS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
PREFIXES = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def curves_section(study: Study) -> Section:
    """Returns both views of every curve: by samples seen, and by the FLOP that they took."""
    names = list(dict.fromkeys(n for arm in study.arms for run in arm.runs for n in run.curve["values"]))
    probes = [name for name in names if name.startswith(PROBE)]
    parts: list[Part] = []
    if probes:
        drawings = [drawing for name in probes for drawing in _views(study, study.arms, _probe_name(name), name)]
        caption = (
            "Accuracy while training, on a small labelled set: each curve by samples seen, and "
            f"again by the training FLOP of the encoder. {_runs(study, 'One training of each arm.')}"
        )
        reading = "Equal samples are not equal compute: what leads by samples may trail by FLOP."
        parts.append(Figures(drawings, caption, reading, [arm.name for arm in study.arms]))
    drawings = [drawing for arm in study.arms for drawing in _views(study, [arm], f"{arm_name(arm.name)} loss", "loss")]
    caption = (
        "Training loss by samples seen, and again by the training FLOP of the encoder, on the same horizontal axes for "
        f"all arms. {_runs(study, 'Thin: as logged; strong: running mean.')}"
    )
    reading = "Losses of different objectives don't share a scale: read the shape, not the height."
    return Section("curves", "How training went", [*parts, Figures(drawings, caption, reading)])


def cost_section(study: Study, gpu_hour_price: float) -> Section:
    """Returns what each arm took: all its trainings, and what was made of them."""
    spent = {arm.name: _spent(arm) for arm in study.arms}
    fields: list[tuple[str, str, Callable[[dict[str, float]], float], Any]] = [
        ("FLOP per sample", "pretraining", lambda of: of["flops_per_sample"], PREFIXES),
        ("FLOP", "pretraining", lambda of: of["flops"], PREFIXES),
        ("samples/s", "pretraining", lambda of: of["samples_per_s"], ((1.0, ""),)),
        ("time", "pretraining", lambda of: of["pretrain"], SECONDS),
        ("time", "evaluate", lambda of: of["evaluate"], SECONDS),
        ("time", "train_vlm", lambda of: of["train_vlm"], SECONDS),
        ("time", "benchmark_vlm", lambda of: of["benchmark_vlm"], SECONDS),
        ("GPU-hours", "all of it", lambda of: of["gpu_hours"], ((1.0, ""),)),
        ("CPU-hours", "all of it", lambda of: of["cpu_hours"], ((1.0, ""),)),
    ]
    if gpu_hour_price:
        fields.append(("price", "all of it", lambda of: of["gpu_hours"] * gpu_hour_price, ((1.0, ""),)))
    columns = [Column("arm", is_number=False), Column("trained on", is_number=False)]
    rows = [[Cell(arm_name(arm.name), tone=arm.name), Cell(_devices(arm))] for arm in study.arms]
    for name, group, pick, units in fields:
        unit, texts = in_one_unit([pick(of) for of in spent.values()], units)
        named = f"{unit}{name}" if name.startswith("FLOP") else f"{name}, {unit}" if unit else name
        columns.append(Column(named, group))
        for cells, text, of in zip(rows, texts, spent.values(), strict=True):
            cells.append(Cell(text) if pick(of) else NONE)
    times = (
        f"summed over the {len(study.replicates)} trainings of an arm"
        if len(study.replicates) > 1
        else "in one training"
    )
    caption = (
        f"What each arm took, {times}; FLOP per sample and samples/s are of one. Times differ from run to run. "
        "build_shards, extract_features and analyze_embeddings are not counted."
    )
    caption += f" A GPU-hour at {gpu_hour_price:g}." if gpu_hour_price else ""
    return Section("costs", "What it cost", [Table(caption, columns, rows)])


def _views(study: Study, arms: Sequence[Arm], heading: str, name: str) -> list[str]:
    """Returns a drawing for each view; the horizontal axes of a view end alike for all arms."""
    number = {arm.name: index for index, arm in enumerate(study.arms)}
    is_share = name.startswith(PROBE)
    drawings = []
    for view in VIEWS:
        end = max(run.curve["samples_seen"][-1] * _per_sample(run, view) for arm in study.arms for run in arm.runs)
        size, prefix = next(unit for unit in (THOUSANDS if view == VIEWS[0] else PREFIXES) if end >= 2 * unit[0])
        lines = []
        for arm in arms:
            raw = [_points(run.curve, name, _per_sample(run, view) / size, is_share) for run in arm.runs]
            smooth = raw if is_share else [smoothed(points) for points in raw]
            thin = [of for of in smooth if of] if len(raw) > 1 else [] if is_share else raw
            lines.append(Line(arm_name(arm.name), number[arm.name], thin, mean_line(smooth)))
        counted = f"{prefix}{view}" if view == VIEWS[0] else f"training {prefix}FLOP"
        axes = Axes(counted, " %" if is_share else "", end / size, digits=1 if is_share else 3)
        drawings.append(curves(f"{heading} by {view}", heading, lines, axes))
    return drawings


def _probe_name(name: str) -> str:
    """Returns how a probe of pretrain is called: knn_word is k-NN, word."""
    method, _, factor = name.removeprefix(PROBE).rpartition("_")
    return f"{METHODS.get(method, method)}, {factor}: accuracy, %"


def _points(curve: dict[str, Any], name: str, per_sample: float, is_share: bool) -> list[tuple[float, float]]:
    """Returns the finite values of a curve; where it was not measured it holds None."""
    values = curve["values"].get(name, [])
    pairs = zip(curve["samples_seen"], values, strict=False)
    scale = 100 if is_share else 1
    return [(x * per_sample, scale * y) for x, y in pairs if y is not None and math.isfinite(y)]


def _per_sample(run: Run, view: str) -> float:
    return 1.0 if view == VIEWS[0] else run.checkpoint.summary["train_flops_per_sample"]


def _runs(study: Study, one: str) -> str:
    if len(study.replicates) > 1:
        return f"Thin: each of the {len(study.replicates)} seeds; strong: their mean."
    return one


def _spent(arm: Arm) -> dict[str, float]:
    """Returns sums over an arm's runs, in seconds, hours and FLOP."""
    summaries = [run.checkpoint.summary for run in arm.runs]
    costs = {
        "pretrain": [run.checkpoint.cost for run in arm.runs],
        "evaluate": [manifest.cost for run in arm.runs for manifest in run.evaluations],
        "train_vlm": [run.vlm.cost for run in arm.runs],
        "benchmark_vlm": [run.benchmark.cost for run in arm.runs],
    }
    every = [cost for of in costs.values() for cost in of]
    return {stage: sum(cost.get("seconds", 0.0) for cost in of) for stage, of in costs.items()} | {
        "flops_per_sample": summaries[0]["train_flops_per_sample"],
        "flops": sum(of["train_flops_per_sample"] * of["num_samples_seen"] for of in summaries),
        "samples_per_s": mean([cost.get("samples_per_s", 0.0) for cost in costs["pretrain"]]),
        "gpu_hours": sum(_gpu_seconds(cost) for cost in every) / 3600,
        "cpu_hours": sum(cost.get("cpu_seconds", 0.0) for cost in every) / 3600,
    }


def _gpu_seconds(cost: dict[str, Any]) -> float:
    is_gpu = not str(cost.get("device", "CPU")).lower().startswith("cpu")  # else the GPU's name
    return cost.get("seconds", 0.0) * cost.get("ranks", 1) if is_gpu else 0.0


def _devices(arm: Arm) -> str:
    named = {
        f"{count(c.get('ranks', 1))} \u00d7 {c.get('device', 'unknown')}" for c in (r.checkpoint.cost for r in arm.runs)
    }
    return joined(sorted(name.removeprefix("1 \u00d7 ") for name in named))
