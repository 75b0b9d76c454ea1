"""The study's headline numbers as a small table for a terminal, from the report's results.json."""

from collections.abc import Mapping
from typing import Any

Score = Mapping[str, Any]  # mean, low, high


def scores_table(results: Mapping[str, Any]) -> str:
    """Returns the accuracies of every arm, with intervals: per factor of the probe, per group of the benchmark."""
    arms: Mapping[str, Mapping[str, Any]] = results["arms"]
    sections = (("linear probe", "probe"), ("multiple choice", "vmc"))
    rows = [row for title, part in sections for row in _section(title, {arm: arms[arm][part] for arm in arms})]
    rows.append(["  unparsed replies", *(f"{100 * arms[arm]['vmc_unparsed_rate']['mean']:5.1f}" for arm in arms)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(arms) + 1)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    num_runs = len(results["replicates"])
    runs = f"mean of {num_runs} runs, " if num_runs > 1 else ""
    return "\n".join([f"accuracy in %, {runs}{100 * results['confidence']:.0f} % intervals", *lines])


def _section(title: str, scores: Mapping[str, Mapping[str, Score]]) -> list[list[str]]:
    names = list(dict.fromkeys(name for of_arm in scores.values() for name in of_arm))
    rows = [[f"  {name}", *(_cell(of_arm.get(name)) for of_arm in scores.values())] for name in names]
    return [[title, *scores], *rows]


def _cell(score: Score | None) -> str:
    if score is None or score["mean"] is None:
        return "-"
    accuracy, low, high = (100 * score[key] for key in ("mean", "low", "high"))
    return f"{accuracy:5.1f} ({low:.1f} to {high:.1f})"
