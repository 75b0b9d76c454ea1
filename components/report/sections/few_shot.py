"""Accuracy of the linear probe by the number of examples of each class that it learns from."""

from typing import Any

from components.report.drawings.curves import Axes, Line, curves, mean_line
from components.report.page.content import Cell, Column, Figures, Heading, Part, Table
from components.report.study import Study
from components.report.wording import arm_name, capital, mean, percent

NONE = Cell("\u2013", tone="empty")
Scores = list[dict[str, dict[str, Any]]]  # per run: factor, number of examples


def few_shot_parts(study: Study) -> list[Part]:
    """Returns accuracy by the number of examples; nothing where evaluate drew none."""
    scores = [[run.scores.get("few_shot", {}) for run in arm.runs] for arm in study.arms]
    factors = [f for f in scores[0][0] if all(of.get(f) for runs in scores for of in runs)]
    if not factors:
        return []
    shots = sorted({int(k) for f in factors for runs in scores for of in runs for k in of[f]})
    drawings, rows = [], []
    for factor in factors:
        lines = [
            _line(arm_name(arm.name), number, runs, factor)
            for number, (arm, runs) in enumerate(zip(study.arms, scores, strict=True))
        ]
        axes = Axes("examples of a class", " %", float(shots[-1]), digits=1, is_log=True)
        drawings.append(curves(f"Accuracy for {factor} by the number of examples", capital(factor), lines, axes))
        rows += [
            [Cell(factor), Cell(line.name, tone=arm.name), *(_cell(runs, factor, str(k)) for k in shots)]
            for arm, runs, line in zip(study.arms, scores, lines, strict=True)
        ]
    columns = [Column("factor", is_number=False), Column("arm", is_number=False)]
    columns += [Column(str(k), "examples of a class") for k in shots]
    caption = "Accuracy in % of least squares from a few examples of each class, mean over draws"
    thin = "Thin: each seed; strong: their mean. " if len(study.replicates) > 1 else ""
    reading = f"{thin}Further left is harder."
    return [
        Heading("From a few examples"),
        Figures(drawings, f"{caption}{' and seeds' * bool(thin)}.", reading, [arm.name for arm in study.arms]),
        Table("The same in %, with the standard deviation over draws.", columns, rows, is_filtered=True),
    ]


def _line(name: str, number: int, runs: Scores, factor: str) -> Line:
    of_run = [sorted((float(k), 100 * score["accuracy"]) for k, score in of[factor].items()) for of in runs]
    return Line(name, number, of_run if len(of_run) > 1 else [], mean_line(of_run))


def _cell(runs: Scores, factor: str, shots: str) -> Cell:
    found = [of[factor][shots] for of in runs if shots in of[factor]]
    if not found:
        return NONE
    spread = mean([score.get("sd", 0.0) for score in found])
    return Cell(percent(mean([score["accuracy"] for score in found])), f"\u00b1 {percent(spread)}")
