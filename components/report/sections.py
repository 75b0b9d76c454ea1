"""The report's sections, in order."""

import json
from collections.abc import Sequence

from components.report import figures, tables
from components.report.comparisons import Comparison
from components.report.content import Cell, Column, Figures, Part, Points, Prose, Section, Table
from components.report.figures import Mark, Row
from components.report.paper_values import CONFOUNDS, MARKS, PAPER_VALUES, UNKNOWN
from components.report.parity import Parity
from components.report.pictures import galleries
from components.report.study import Study
from components.report.wording import arm_name, count, joined, level, short_hash


def sections(
    study: Study, comparisons: Sequence[Comparison], parity: Parity, gpu_hour_price: float, commit: str
) -> list[Section]:
    """Returns the whole report below its verdict."""
    return [
        _probe(study, comparisons),
        _pairs(study),
        _benchmark(study, comparisons),
        _curves(study),
        _parity(study, parity),
        _paper(study),
        Section("confounds", "What this can't tell apart", [Points(CONFOUNDS)]),
        Section("costs", "What it cost", [tables.cost_table(study, gpu_hour_price)]),
        _data(study),
        _provenance(study, commit),
    ]


def lead_figures(study: Study, comparisons: Sequence[Comparison]) -> Figures:
    """Returns the paired differences, one drawing for each comparison to the first arm."""
    drawings = []
    found = [d for c in comparisons for d in (*c.probe.values(), *c.vmc.values())]
    reach = max([0.02, *(abs(end) for d in found for end in (d.low, d.high))])
    for index, comparison in enumerate(comparisons, start=1):
        leaders = [(arm_name(comparison.first), 0), (arm_name(comparison.other), index)]
        blocks = [("Linear probe, by factor", comparison.probe), ("Language model, by group", comparison.vmc)]
        for heading, of in blocks:
            marks = [Mark(name, d.difference, d.low, d.high, d.n) for name, d in of.items()]
            title = f"{heading}: {leaders[0][0]} minus {leaders[1][0]}, in points"
            drawings.append(figures.differences(title, heading, marks, reach, leaders))
    caption = (
        f"Difference in points, with {level(study.confidence)} intervals for paired items (Newcombe 1998). "
        "A hollow dot: the interval includes zero. Each interval stands for itself; none is widened for their number."
    )
    return Figures(drawings, caption)


def _probe(study: Study, comparisons: Sequence[Comparison]) -> Section:
    rows = [Row(f, _marks(study, "probe", f), study.first.scores["probe"][f]["chance"]) for f in study.factors]
    caption = "Linear probe on frozen CLS features, accuracy in % by factor. Dashes mark chance."
    drawing = figures.bars("Linear probe accuracy by factor and arm", rows)
    return Section(
        "probe",
        "What each encoder keeps",
        [Figures([drawing], caption, [arm.name for arm in study.arms]), tables.key_table(study, comparisons)],
    )


def _pairs(study: Study) -> Section:
    facts = study.analysis
    prose = (
        f"Searched among {count(facts['num_pictures'])} different test pictures. A pair is alike above the "
        f"{facts['quantile']:g} quantile of an encoder's own cosines, and unlike below its {1 - facts['quantile']:.4g} "
        "quantile; cosines are of raw CLS features, and no picture occurs in two pairs of one direction."
    )
    fixed = [
        f"{arm_name(d['alike'])} > {d['fixed']['above']} and {arm_name(d['unlike'])} < {d['fixed']['below']}: "
        f"{count(d['fixed']['num_pairs'])}"
        for d in facts["directions"]
        if "fixed" in d
    ]
    parts: list[Part] = [
        Prose(prose),
        *galleries(study, [arm.name for arm in study.arms]),
        tables.embedding_table(study),
    ]
    if fixed:
        parts.append(
            Prose(f"Pairs within the paper's fixed thresholds, which do not carry over: {'; '.join(fixed)}.", "note")
        )
    return Section("pairs", "Alike to one, not to the other", [*parts, tables.agreement_table(study)])


def _benchmark(study: Study, comparisons: Sequence[Comparison]) -> Section:
    drawings = []
    for kind, names in (("groups", study.groups), ("sets", study.sets)):
        scores = study.first.benchmark_scores[kind]
        rows = [Row(name, _marks(study, kind, name), scores[name]["chance"]) for name in names]
        drawings.append(figures.bars(f"Benchmark accuracy of the language model, by {kind} and arm", rows))
    caption = "The language model that reads each encoder, accuracy in % by group and by set of questions."
    drawn = Figures(drawings, caption + " Dashes mark chance.", [arm.name for arm in study.arms])
    return Section("benchmark", "Before a language model", [drawn, tables.benchmark_table(study, comparisons)])


def _curves(study: Study) -> Section:
    drawings = [
        figures.curve(
            f"Training loss of {arm_name(arm.name)} by samples seen",
            f"{arm_name(arm.name)} loss",
            arm.curve["samples_seen"],
            arm.curve["values"]["loss"],
            index,
        )
        for index, arm in enumerate(study.arms)
    ]
    caption = (
        "Training loss by samples seen; faint: as logged, strong: running mean. Losses of different objectives don't "
        "share a scale."
    )
    return Section("curves", "How training went", [Figures(drawings, caption)])


def _parity(study: Study, parity: Parity) -> Section:
    names = joined([arm_name(arm.name) for arm in study.arms])
    verdict = (
        f"{names} share everything that is hashed below."
        if parity.is_equal
        else f"Not all that should be equal is: {names} do not share every hash below, so supervision is not all that "
        "differs."
    )
    parts: list[Part] = [Prose(verdict), tables.parity_table(study, parity)]
    if parity.differs:
        parts.append(tables.differs_table(study, parity))
    return Section("parity", "All else being equal", parts)


def _paper(study: Study) -> Section:
    marks = "; ".join(f"{mark}: {meaning}" for mark, meaning in MARKS.items())
    seen = count(study.first.checkpoint.summary["num_samples_seen"])
    prose = (
        "The paper's arms saw 200 million samples of web pictures, and were tested on ImageNet and VMCBench; here each "
        f"saw {seen}. The synthetic world or a folder of one's own pictures is not ImageNet, and its questions are not "
        "VMCBench's: what can be compared is the direction of a difference, not its size. "
        f"{marks}; an empty cell says \u201c{UNKNOWN}\u201d."
    )
    headline = [value for value in PAPER_VALUES if not value.data_set]
    by_set = [value for value in PAPER_VALUES if value.data_set]
    sets = tables.paper_table(study, by_set, "VMCBench, set by set, in %.")
    return Section(
        "paper",
        "Beside the paper",
        [
            Prose(prose),
            tables.paper_table(study, headline, "Accuracy in %, differences in points, CLIP minus DINO."),
            Table(sets.caption, sets.columns, sets.rows, kind="folded"),
            tables.settings_table(study),
        ],
    )


def _data(study: Study) -> Section:
    columns = [Column("data", is_number=False), Column("pictures"), Column("rejected")]
    columns += [Column("digest", is_number=False)]
    rows = []
    for manifest in study.data:
        reasons = ", ".join(f"{reason} {number}" for reason, number in manifest.counts["reasons"].items())
        rows.append(
            [
                Cell(manifest.summary["purpose"]),
                Cell(count(manifest.counts["samples"])),
                Cell(count(manifest.counts["rejected"]), reasons),
                Cell(short_hash(manifest.digest), tone="code"),
            ]
        )
    note = (
        "Each of these folders holds data_card.html with samples and counts, and rejects.jsonl with every refused "
        "picture."
    )
    return Section(
        "data", "The data", [Table("The frozen data sets that every arm reads.", columns, rows), Prose(note, "note")]
    )


def _provenance(study: Study, commit: str) -> Section:
    columns = [Column("result", is_number=False), Column("arm", is_number=False)]
    columns += [
        Column("digest", is_number=False),
        Column("commit", is_number=False),
        Column("parameters", is_number=False),
    ]
    made = [
        (manifest, arm_name(arm.name))
        for arm in study.arms
        for manifest in (arm.checkpoint, arm.evaluation, arm.vlm, arm.benchmark)
    ]
    made.append((study.analysis_manifest, "all"))
    rows = []
    for manifest, arm in made:
        code = Cell(short_hash(manifest.code.get("commit", "")) or "unknown", tone="code")
        params = json.dumps(manifest.params, sort_keys=True).strip("{}").replace('"', "")
        rows.append(
            [Cell(manifest.stage), Cell(arm), Cell(short_hash(manifest.digest), tone="code"), code, Cell("", params)]
        )
    text = f"This page was written by commit {short_hash(commit) or 'unknown'}."
    table = Table("Every result that this page is made from.", columns, rows, kind="folded")
    return Section("provenance", "Where it comes from", [Prose(text), table])


def _marks(study: Study, kind: str, name: str) -> list[Mark]:
    of = [(arm, arm.scores[kind] if kind == "probe" else arm.benchmark_scores[kind]) for arm in study.arms]
    return [
        Mark(arm_name(arm.name), s[name]["accuracy"], s[name]["low"], s[name]["high"], s[name]["n"]) for arm, s in of
    ]
