"""The paper's known values beside ours, and its recipe beside this study's."""

from collections.abc import Sequence

from components.core.evaluation.seeds import Difference
from components.report.drawings.figures import Mark, Row, Scale, dot_plot
from components.report.findings.comparisons import Comparison
from components.report.findings.paper_values import MARKS, PAPER_SETTINGS, PAPER_VALUES, UNKNOWN, PaperValue
from components.report.page.content import Cell, Column, Figures, Part, Prose, Section, Table
from components.report.study import Accuracy, Study
from components.report.wording import arm_name, between, count, joined, number, percent, signed_points, span

NONE = Cell("\u2013", tone="empty")
BLANK = Cell(UNKNOWN, tone="empty")
PAIR = ("clip", "dino")


def paper_section(study: Study, comparisons: Sequence[Comparison]) -> Section:
    """Returns the paper's values and settings, each beside ours where the same was measured."""
    seen = count(study.first.runs[0].checkpoint.summary["num_samples_seen"])
    prose = (
        "The paper's arms saw 200 million samples of web pictures, and were tested on ImageNet and VMCBench; here each "
        f"saw {seen}. Where the pictures and questions here are not the paper's, what can be compared is the direction "
        "of a difference, not its size."
    )
    table = _table(study, comparisons)
    parts: list[Part] = [Prose(prose), _figure(study, comparisons), table, _settings_table(study)]
    return Section("paper", "Beside the paper", parts)


def _figure(study: Study, comparisons: Sequence[Comparison]) -> Figures:
    """Returns differences, and the accuracies behind them, of all that the paper or this study has a number for."""
    differences, accuracies = [], []
    for value in PAPER_VALUES:
        name = value.name.removesuffix(", linear probe").removeprefix("VMCBench ")
        marks = [] if value.difference is None else [_stated("paper", -1, value.difference)]
        if (found := _difference(value, comparisons)) is not None:
            marks.append(Mark("here", -1, found.difference, found.low, found.high, found.per_run, found.n))
        differences += [Row(name, marks)] if marks else []
        marks = []
        for arm, stated in zip(PAIR, (value.clip, value.dino), strict=True):
            number_of_arm = _number(study, arm)
            marks += [] if stated is None else [_stated(f"{arm_name(arm)} of the paper", number_of_arm, stated)]
            if (ours := _ours(study, value, arm)) is not None:
                written = f"{arm_name(arm)} here"
                marks.append(Mark(written, number_of_arm, ours.mean, ours.low, ours.high, ours.per_run, ours.n))
        accuracies += [Row(name, marks)] if marks else []
    points = Scale("CLIP minus DINO, points", signed_points, holds=[0.0], unit="points")
    drawings = [
        dot_plot("Differences of CLIP and DINO, in the paper and here", "CLIP \u2212 DINO", differences, points),
        dot_plot("Accuracies in the paper and here", "Accuracy", accuracies, Scale("accuracy, %", percent, unit="%")),
    ]
    caption = "What the paper states and what this study found, where either has a number; n as in the table below."
    reading = "Hollow: the paper's number, without an interval. Filled: ours, with interval and seeds."
    return Figures(drawings, caption, reading, [arm for arm in PAIR if _number(study, arm) >= 0])


def _table(study: Study, comparisons: Sequence[Comparison]) -> Table:
    columns = [Column("measurement", is_number=False), Column("CLIP", "paper"), Column("DINO", "paper")]
    columns += [Column("difference", "paper"), Column("mark", "paper", is_number=False)]
    columns += [Column("CLIP", "here"), Column("DINO", "here"), Column("difference", "here"), Column("n", "here")]
    rows = []
    for value in PAPER_VALUES:
        stated = [Cell(number(v)) if v is not None else BLANK for v in (value.clip, value.dino)]
        points = Cell(signed_points(value.difference / 100)) if value.difference is not None else BLANK
        stated.append(Cell(value.words) if value.words else points)
        ours = [_ours(study, value, arm) for arm in PAIR]
        cells = [Cell(value.name), *stated, Cell(value.mark) if value.mark else NONE]
        cells += [Cell(percent(of.mean), between(of.low, of.high)) if of is not None else NONE for of in ours]
        found = _difference(value, comparisons)
        cells.append(Cell(signed_points(found.difference), span(found.low, found.high)) if found else NONE)
        n = next((count(of.n) for of in ours if of is not None), "")
        rows.append([*cells, Cell(n) if n else NONE])
    marks = joined([f"{mark}: {meaning}" for mark, meaning in MARKS.items()])
    caption = f"Accuracies in %, differences in points, CLIP minus DINO. How the paper's values are known: {marks}."
    return Table(caption, columns, rows)


def _settings_table(study: Study) -> Table:
    checkpoint = study.first.runs[0].checkpoint
    params, shape = checkpoint.params, checkpoint.summary["architecture"]
    ours = {
        "encoder": f"ViT of width {shape['width']} and depth {shape['depth']}, "
        f"patch {shape['patch_size_px']} px, {shape['image_size_px']} px",
        "training data": "see the data section",
        "length": f"{count(checkpoint.summary['num_samples_seen'])} samples seen",
        "optimiser": f"AdamW, learning rate {params.get('learning_rate', 'unknown')}, cosine",
        "batch, weight decay, warm-up": f"batch {params.get('batch_size', 'unknown')}, "
        f"warm-up {params.get('warmup_steps', 'unknown')} steps",
    }
    columns = [Column("setting", is_number=False), Column("paper", is_number=False)]
    columns += [Column("mark", is_number=False), Column(f"here, {arm_name(study.first.name)}", is_number=False)]
    rows = [
        [
            Cell(name),
            Cell(value) if value else BLANK,
            Cell(mark) if mark else NONE,
            Cell(ours[name]) if name in ours else Cell("see provenance", tone="empty"),
        ]
        for name, value, mark in PAPER_SETTINGS
    ]
    return Table("The recipe.", columns, rows)


def _ours(study: Study, value: PaperValue, arm: str) -> Accuracy | None:
    """Returns what this study has of the same measurement; None where it has none."""
    is_here = bool(value.kind) and _number(study, arm) >= 0
    return study.accuracy(arm, value.kind, value.ours) if is_here else None


def _difference(value: PaperValue, comparisons: Sequence[Comparison]) -> Difference | None:
    """Returns CLIP minus DINO; None where they were not compared in this."""
    for comparison in comparisons:
        if {comparison.first, comparison.other} == set(PAIR):
            found = comparison.differences.get(value.kind, {}).get(value.ours)
            if found is None or comparison.first == PAIR[0]:
                return found
            per_run = [-one for one in found.per_run]
            return Difference(-found.difference, -found.high, -found.low, found.n, found.num_runs, found.p, per_run)
    return None


def _stated(name: str, arm: int, points: float) -> Mark:
    share = points / 100
    return Mark(name, arm, share, share, share, is_open=True)


def _number(study: Study, arm: str) -> int:
    """Returns the arm's number, -1 where the study lacks it."""
    names = [of.name for of in study.arms]
    return names.index(arm) if arm in names else -1
