"""Another study beside this one: what each arm gained or lost from there to here."""

from components.report.drawings.figures import Mark, Row, Scale, dot_plot
from components.report.findings.compare import Compared
from components.report.page.content import Cell, Column, Figures, Prose, Section, Table
from components.report.sections.accuracies import METHODS
from components.report.study import Study
from components.report.wording import arm_name, capital, joined, level, range_of, short_hash, signed_points, span

NONE = Cell("\u2013", tone="empty")
KINDS = METHODS | {"vmc": "questions by group", "vmc_sets": "questions by set"}
DRAWN = ("probe", "vmc")


def beside_section(study: Study, compared: Compared) -> Section:
    """Returns the differences of all arms that both studies have; where they share none, it says so."""
    arms = [arm for arm in study.arms if compared.differences.get(arm.name)]
    if not arms:
        return Section("beside", "Beside another study", [Prose(_prose(compared))])
    numbers = {arm.name: index for index, arm in enumerate(study.arms)}
    columns = [Column("test", is_number=False), Column("of", is_number=False), Column("n")]
    columns += [Column(arm_name(arm.name), "here minus there, points") for arm in arms]
    drawings, cells, sizes = [], [], []
    for kind, what in KINDS.items():
        names = list(dict.fromkeys(name for arm in arms for name in compared.differences[arm.name].get(kind, {})))
        rows = []
        for name in names:
            of = [(arm, compared.differences[arm.name].get(kind, {}).get(name)) for arm in arms]
            found = [(arm, d) for arm, d in of if d is not None]
            marks = [
                Mark(arm_name(arm.name), numbers[arm.name], d.difference, d.low, d.high, d.per_run, d.n)
                for arm, d in found
            ]
            rows.append(Row(name, marks))
            sizes += [d.n for _, d in found]
            line = [Cell(name), Cell(what), Cell(range_of([d.n for _, d in found]))]
            for arm, d in of:
                tone = arm.name if d is not None and d.sign else ""
                line.append(Cell(signed_points(d.difference), span(d.low, d.high), tone) if d else NONE)
            cells.append(line)
        if rows and kind in DRAWN:
            scale = Scale("here minus there, points", signed_points, holds=[0.0], unit="points")
            drawings.append(dot_plot(f"Difference to {compared.title}: {what}", capital(what), rows, scale))
    caption = f"What each arm gained from \u201c{compared.title}\u201d to this study, n = {range_of(sizes)}."
    reading = "Right of zero: better here. The bar is the interval of the difference."
    return Section(
        "beside",
        "Beside another study",
        [
            Prose(_prose(compared)),
            Figures(drawings, caption, reading, [arm.name for arm in arms], is_filtered=True),
            Table(
                f"Differences to \u201c{compared.title}\u201d with {level(study.confidence)} intervals; in colour "
                "where they exclude zero.",
                columns,
                cells,
                is_filtered=True,
            ),
        ],
    )


def _prose(compared: Compared) -> str:
    """Returns what is laid beside this study, and what the intervals cover."""
    items = "over the same items"
    if not compared.is_paired:
        names = sorted({name for _, name in compared.unpaired})
        items += f", except for {joined(names)}, where the other study had other ones and the errors of both add up"
    covered = "the choice of items and the seeds" if compared.covers_seeds else "the choice of items, not the seeds"
    absent = [f"{_written(arms)} only {where}" for arms, where in _absent(compared) if arms]
    arms = f" Arms: {'; '.join(absent)}." if absent else ""
    return (
        f"\u201c{compared.title}\u201d ({compared.uri}, digest {short_hash(compared.digest)}) "
        f"is laid beside this study, {items}. "
        f"Intervals cover {covered}.{arms}"
    )


def _absent(compared: Compared) -> list[tuple[list[str], str]]:
    return [(compared.only_here, "here"), (compared.only_there, "there")]


def _written(arms: list[str]) -> str:
    return joined([arm_name(arm) for arm in arms])
