"""Accuracies as drawings and tables: of probes on frozen features, and of the language model that reads them."""

from collections.abc import Sequence

from components.core.evaluation.seeds import Difference
from components.report.drawings.figures import Mark, Row, Scale, differences, dot_plot, ends
from components.report.findings.comparisons import Comparison
from components.report.findings.outcomes import neighbours
from components.report.page.content import Cell, Column, Figures, Part, Section, Table
from components.report.sections.few_shot import few_shot_parts
from components.report.study import Accuracy, Study
from components.report.wording import (
    arm_name,
    between,
    capital,
    count,
    joined,
    level,
    mean,
    percent,
    range_of,
    signed_points,
    span,
)

NONE = Cell("\u2013", tone="empty")
METHODS = {"probe": "linear probe", "logistic": "logistic regression", "knn": "k-NN", "zero_shot": "zero-shot"}
TICKS = (
    "The symbol is the mean over the seeds, the bar its {} interval, each tick above it one seed; dashes mark chance."
)
DOT = "The symbol is the accuracy, the bar its {} interval; dashes mark chance."


def lead_figures(study: Study, comparisons: Sequence[Comparison]) -> Figures:
    """Returns the paired differences, two drawings for each comparison to the first arm."""
    numbers = {arm.name: index for index, arm in enumerate(study.arms)}
    drawings = []
    found = [d for c in comparisons for kind in ("probe", "vmc") for d in c.differences[kind].values()]
    reach = max([0.02, *(abs(end) for d in found for end in (d.low, d.high, *d.per_run))])
    for comparison in comparisons:
        leaders = [(arm_name(name), numbers[name]) for name in (comparison.first, comparison.other)]
        for kind, heading in (("probe", "Linear probe, by factor"), ("vmc", "Language model, by group")):
            marks = [
                Mark(name, -1, d.difference, d.low, d.high, d.per_run, d.n)
                for name, d in comparison.differences[kind].items()
            ]
            title = f"{heading}: {leaders[0][0]} minus {leaders[1][0]}, in points"
            drawings.append(differences(title, heading, marks, reach, leaders))
    pictures, questions = (
        range_of([d.n for c in comparisons for d in c.differences[k].values()]) for k in ("probe", "vmc")
    )
    seeds = "; a tick is one seed" if len(study.replicates) > 1 else ""
    return Figures(
        drawings,
        f"Who is ahead, and by how much: differences in points over the same pictures and questions, with "
        f"{level(study.confidence)} intervals. n = {pictures} pictures for a factor and {questions} questions for a "
        "group. Each interval stands for itself; none is widened for their number.",
        f"A filled symbol is a lead, a hollow grey one a difference whose interval includes zero{seeds}.",
    )


def probe_section(study: Study, comparisons: Sequence[Comparison]) -> Section:
    """Returns what can be read from frozen features, factor by factor."""
    kinds = [kind for kind in METHODS if study.names(kind)]
    rows = {_method(study, kind): _rows(study, kind, study.names(kind)) for kind in kinds}
    scale = _shared_scale([row for of in rows.values() for row in of])
    drawings = [
        dot_plot(
            f"Accuracy of the {method} by factor", method if method == METHODS["knn"] else capital(method), of, scale
        )
        for method, of in rows.items()
    ]
    n = range_of([found.n for kind in kinds for found in _all(study, kind)])
    caption = f"Accuracy on frozen CLS features by factor, n = {n} test pictures. {_covered(study)}"
    parts: list[Part] = [
        Figures(drawings, caption, _reading(study), [arm.name for arm in study.arms], is_filtered=True),
        _probe_table(study, comparisons, kinds),
    ]
    return Section("probe", "What each encoder keeps", [*parts, *few_shot_parts(study)])


def benchmark_section(study: Study, comparisons: Sequence[Comparison]) -> Section:
    """Returns what a language model can tell of what each encoder sees, by group and by set of questions."""
    rows = {"all groups": _rows(study, "vmc", study.groups)}
    group_of = _groups(study)
    for group in study.groups:
        rows[f"sets of {group}"] = _rows(study, "vmc_sets", [s for s in study.sets if group_of[s] == group])
    rows = {heading: of for heading, of in rows.items() if of}
    scale = _shared_scale([row for of in rows.values() for row in of])
    drawings = [
        dot_plot(f"Accuracy of the language model: {heading}", capital(heading), of, scale)
        for heading, of in rows.items()
    ]
    n = range_of([found.n for found in _all(study, "vmc_sets")])
    caption = f"Accuracy of the language model that reads each encoder. n = {n} questions in a set. {_covered(study)}"
    arms = [arm.name for arm in study.arms]
    figures = Figures(drawings, caption, _reading(study), arms, is_filtered=True, is_flowing=True)
    return Section("benchmark", "Before a language model", [figures, _benchmark_table(study, comparisons)])


def seeds_part(study: Study) -> list[Part]:
    """Returns each seed's accuracy by itself; nothing where there is one seed only."""
    if len(study.replicates) < 2:
        return []
    columns = [Column("test", is_number=False), Column("of", is_number=False), Column("arm", is_number=False)]
    columns += [Column(f"replicate {number}", "accuracy, %") for number in study.replicates]
    columns += [Column("mean", "over replicates"), Column("std", "over replicates")]
    rows = []
    for kind, what in (METHODS | {"vmc": "questions, group", "vmc_sets": "questions, set"}).items():
        for name in study.names(kind):
            for arm in study.arms:
                found = study.accuracy(arm.name, kind, name)
                if found is not None:
                    values = [Cell(percent(value)) for value in (*found.per_run, found.mean, found.sd)]
                    rows.append([Cell(name), Cell(what), Cell(arm_name(arm.name), tone=arm.name), *values])
    table = Table("Every seed by itself.", columns, rows, is_filtered=True)
    return [table]


def difference_cell(found: Difference | None, first: str, other: str) -> Cell:
    """Returns a difference with its interval, in the colour of whoever leads."""
    if found is None:
        return NONE
    tone = {1: first, -1: other, 0: ""}[found.sign]
    return Cell(signed_points(found.difference), span(found.low, found.high), tone)


def score_cell(found: Accuracy | None) -> Cell:
    """Returns an accuracy with its interval."""
    return NONE if found is None else Cell(percent(found.mean), between(found.low, found.high))


def _probe_table(study: Study, comparisons: Sequence[Comparison], kinds: Sequence[str]) -> Table:
    columns = [Column("factor", is_number=False), Column("read by", is_number=False)]
    columns += [Column(arm_name(arm.name), "accuracy, %") for arm in study.arms]
    columns += [*(_difference_column(c) for c in comparisons), Column("chance"), Column("n")]
    rows = []
    for name in dict.fromkeys(name for kind in kinds for name in study.names(kind)):
        for kind in kinds:
            scores = [study.accuracy(arm.name, kind, name) for arm in study.arms]
            known = next((found for found in scores if found is not None), None)
            if known is not None:
                cells = [Cell(name), Cell(_method(study, kind)), *(score_cell(found) for found in scores)]
                cells += [difference_cell(c.differences[kind].get(name), c.first, c.other) for c in comparisons]
                rows.append([*cells, Cell(percent(known.chance)), Cell(count(known.n))])
    caption = (
        f"Accuracy on frozen CLS features with {level(study.confidence)} intervals; differences are paired over the "
        "same pictures. In colour where the interval excludes zero."
    )
    return Table(caption, columns, rows, is_filtered=True)


def _benchmark_table(study: Study, comparisons: Sequence[Comparison]) -> Table:
    columns = [Column("questions", is_number=False), Column("group", is_number=False)]
    columns += [Column(arm_name(arm.name), "accuracy, %") for arm in study.arms]
    columns += [*(_difference_column(c) for c in comparisons), Column("chance"), Column("n")]
    group_of = _groups(study)
    wanted = [("vmc", name, "all of it") for name in study.groups]
    wanted += [("vmc_sets", name, group_of[name]) for name in study.sets]
    wanted.append(("vmc_micro", "all", "mean over questions"))
    rows = []
    for kind, name, group in wanted:
        scores = [study.accuracy(arm.name, kind, name) for arm in study.arms]
        known = next(found for found in scores if found is not None)
        cells = [Cell(name), Cell(group), *(score_cell(found) for found in scores)]
        cells += [difference_cell(c.differences.get(kind, {}).get(name), c.first, c.other) for c in comparisons]
        rows.append([*cells, Cell(percent(known.chance)), Cell(count(known.n))])
    for key, name, what in (("macro", "all", "mean over sets"), ("unparsed_rate", "unparsed", "share of replies")):
        means = [mean([run.benchmark_scores[key] for run in arm.runs]) for arm in study.arms]
        cells = [Cell(name), Cell(what), *(Cell(percent(value)) for value in means)]
        rows.append([*cells, *[NONE] * len(comparisons), NONE, NONE])
    caption = (
        f"Multiple choice with {level(study.confidence)} intervals; differences are paired over the same questions. A "
        "reply that names no option counts as wrong."
    )
    return Table(caption, columns, rows, is_filtered=True)


def _rows(study: Study, kind: str, names: Sequence[str]) -> list[Row]:
    rows = []
    for name in names:
        found = [(index, study.accuracy(arm.name, kind, name)) for index, arm in enumerate(study.arms)]
        marks = [
            Mark(arm_name(study.arms[index].name), index, of.mean, of.low, of.high, of.per_run, of.n)
            for index, of in found
            if of is not None
        ]
        chance = next((of.chance for _, of in found if of is not None), None)
        rows.append(Row(name, marks, chance))
    return rows


def _groups(study: Study) -> dict[str, str]:
    return {name: of["group"] for name, of in study.first.runs[0].benchmark_scores["sets"].items()}


def _shared_scale(rows: Sequence[Row]) -> Scale:
    """Returns an axis for drawings that are compared."""
    return Scale("accuracy, %", percent, holds=ends(rows), unit="%")


def _all(study: Study, kind: str) -> list[Accuracy]:
    found = [study.accuracy(arm.name, kind, name) for name in study.names(kind) for arm in study.arms]
    return [of for of in found if of is not None]


def _method(study: Study, kind: str) -> str:
    """Returns how a kind of test is called; k-NN with its k where that is the same for all factors."""
    if kind != "knn":
        return METHODS[kind]
    used = {neighbours(of) for arm in study.arms for run in arm.runs for of in run.scores["knn"].values()}
    return f"{used.pop()}-NN" if len(used) == 1 else METHODS[kind]


def _difference_column(comparison: Comparison) -> Column:
    return Column(f"{arm_name(comparison.first)} \u2212 {arm_name(comparison.other)}", "difference, points")


def _reading(study: Study) -> str:
    return (TICKS if len(study.replicates) > 1 else DOT).format(level(study.confidence))


def _covered(study: Study) -> str:
    if len(study.replicates) > 1:
        return f"Intervals cover both the choice of items and the {len(study.replicates)} seeds."
    seeds = joined(
        [
            str(n)
            for n in sorted({run.checkpoint.params["seed"] + run.replicate for arm in study.arms for run in arm.runs})
        ]
    )
    return f"Intervals cover the choice of items; there is one training of each arm, seed {seeds}."
