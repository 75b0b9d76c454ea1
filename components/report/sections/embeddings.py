"""What each encoder finds alike: mined pairs, the factors behind similarity, and how far the encoders agree."""

from collections.abc import Mapping, Sequence
from typing import Any

from components.report.drawings.figures import Mark, Row, Scale, dot_plot
from components.report.page.content import Cell, Column, Figures, Heading, Part, Prose, Section, Table
from components.report.sections.pictures import pairs_parts
from components.report.sections.projection import projection
from components.report.study import Study
from components.report.wording import arm_name, capital, count, joined, level, mean, number, percent

NONE = Cell("\u2013", tone="empty")
BY_FACTOR = {  # key of analysis.json: heading, axis, per cent or plain
    "separation": ("Separation of classes", "standard deviations", False),
    "retrieval_at_1": ("Retrieval: the nearest is of the class", "recall at 1, %", True),
    "mean_average_precision": ("Retrieval: mean average precision", "mean average precision, %", True),
}
MEASURES = {
    "cka": "linear CKA",
    "cka_debiased": "linear CKA, without its bias",
    "rsa": "rank correlation (RSA)",
    "mutual_knn": "mutual {}-NN",
}
DRAWN = ("cka", "rsa", "mutual_knn")
CHANCES = {"retrieval_at_1": "chance_at_1", "mean_average_precision": "chance_average_precision"}


def embeddings_section(study: Study) -> Section:
    """Returns the section; where analyze_embeddings left a part out, it says so and shows the others."""
    found = study.analysis
    parts: list[Part] = [*pairs_parts(study), *_factors(study), *_rsa(study), *_agreement(study), *_map(study)]
    if not parts:
        parts.append(Prose("This study has no analysis of its embeddings."))
    elif found.get("num_duplicates") or found.get("num_unusable"):
        left_out = f"{count(found['num_duplicates'])} repeated and {count(found['num_unusable'])} unusable"
        parts.append(Prose(f"Left out of all of this: {left_out} pictures.", "note"))
    return Section("embeddings", "Alike to one, not to the other", parts)


def _factors(study: Study) -> list[Part]:
    """Returns how alike pictures of one class are, and how often the nearest picture is of the same class."""
    found: Mapping[str, Mapping[str, Any]] = study.analysis.get("factors", {})
    if not found:
        return []
    drawings, columns = [], [Column("factor", is_number=False)]
    rows = [[Cell(factor)] for factor in found]
    for key, (heading, axis, is_share) in BY_FACTOR.items():
        if not any(key in of for of_arm in found.values() for of in of_arm.values()):
            continue
        write = percent if is_share else _two_digits
        plotted = []
        for factor, of_arm in found.items():
            marks = [_plain(study, i, of_arm[a.name][key]) for i, a in enumerate(study.arms) if a.name in of_arm]
            chances = [of[CHANCES[key]] for of in of_arm.values() if CHANCES.get(key) in of]
            plotted.append(Row(factor, marks, mean(chances) if chances else None))
        if key != "mean_average_precision":
            drawings.append(dot_plot(f"{heading} by factor", heading, plotted, Scale(axis, write, holds=[0.0])))
        columns += [Column(arm_name(arm.name), axis) for arm in study.arms]
        for cells, of_arm in zip(rows, found.values(), strict=True):
            cells += [Cell(write(of_arm[a.name][key])) if key in of_arm.get(a.name, {}) else NONE for a in study.arms]
    caption = (
        f"What similarity follows, n = {count(study.analysis['num_pictures'])} pictures. Separation: by how many "
        "standard deviations of all similarities two pictures of one class are more alike than two of different ones. "
        "Retrieval: how often the most similar picture has the same class; dashes mark chance."
    )
    arms = [arm.name for arm in study.arms]
    return [
        Heading("Which factors similarity follows"),
        Figures(drawings, caption, "Further right: the encoder orders pictures more by that factor.", arms),
        Table("Similarity and retrieval by factor, means over the replicates.", columns, rows),
    ]


def _rsa(study: Study) -> list[Part]:
    """Returns what of each encoder's similarities other similarities explain, each with the others held fixed."""
    facts = study.analysis.get("rsa") or {}
    if not facts.get("references") or not facts.get("arms"):
        return []
    rows, cells = [], []
    for reference in facts["references"]:
        label = reference["name"].replace("_", " ")
        marks, line = [], [Cell(label, reference["about"])]
        for index, arm in enumerate(study.arms):
            of = facts["arms"].get(arm.name, {}).get(reference["name"])
            if of is None:
                line += [NONE, NONE]
                continue
            low, high, seeds = of["partial_low"], of["partial_high"], of["per_replicate"]
            marks.append(Mark(arm_name(arm.name), index, of["partial"], low, high, seeds))
            span = f"{_two_digits(low)} to {_two_digits(high)}"
            line += [Cell(_two_digits(of["rsa"])), Cell(_two_digits(of["partial"]), span)]
        rows.append(Row(label, marks))
        cells.append(line)
    columns = [Column("similarity", is_number=False)]
    columns += [Column(name, arm_name(arm.name)) for arm in study.arms for name in ("alone", "partial")]
    title = "Partial rank correlation of each encoder's similarities with other similarities"
    drawing = dot_plot(
        title, "Partial RSA", rows, Scale("rank correlation, the others held fixed", _two_digits, holds=[0.0])
    )
    caption = (
        "What each encoder's similarities go with: the rank correlation with one similarity of the pictures, the "
        f"others held fixed, with {level(facts['confidence'])} intervals over the pictures, "
        f"n = {count(facts.get('num_pictures', study.analysis['num_pictures']))} pictures."
    )
    left_out = [f"{of['name'].replace('_', ' ')} ({of['why']})" for of in facts.get("left_out", [])]
    notes = [Prose(f"Left out of the comparison: {joined(left_out)}.", "note")] if left_out else []
    return [
        Heading("What similarity goes with"),
        Figures([drawing], caption, "At zero, that similarity explains nothing more.", [a.name for a in study.arms]),
        Table("Rank correlations, alone and with the other similarities held fixed.", columns, cells),
        *notes,
    ]


def _agreement(study: Study) -> list[Part]:
    """Returns how alike the encoders are as a whole, beside shuffled pictures and other seeds of one arm."""
    facts, ranks = study.analysis.get("agreement", []), study.analysis.get("effective_rank", {})
    if not facts:
        return []
    columns = [Column("encoders", is_number=False), Column("measure", is_number=False), Column("value")]
    columns += [Column("mean", "shuffled pictures"), Column("highest", "shuffled pictures"), Column("p")]
    cells, drawings = [], []
    for key, name in MEASURES.items():
        if any(key not in of for of in facts):
            continue
        measure, rows = name.format(facts[0]["k"]), []
        for of in facts:
            value = of[key]
            mark = Mark(_who(of["arms"]), -1, value["value"], value["value"], value["value"])
            rows.append(Row(_who(of["arms"]), [mark], band=(min(0.0, value["chance"]), value["chance_high"])))
            numbers = [Cell(number(value[field], 3)) for field in ("value", "chance", "chance_high", "p")]
            cells.append([Cell(_who(of["arms"])), Cell(measure), *numbers])
        if key in DRAWN:
            drawings.append(
                dot_plot(
                    f"Agreement of encoders: {measure}", capital(measure), rows, Scale("", _two_digits, holds=[0.0])
                )
            )
    plotted = [
        Row(arm_name(arm.name), [_plain(study, index, mean(ranks[arm.name]), ranks[arm.name])])
        for index, arm in enumerate(study.arms)
        if arm.name in ranks
    ]
    if plotted:
        scale = Scale("directions", number, holds=[0.0])
        drawings.append(dot_plot("Effective rank of each encoder's features", "Effective rank", plotted, scale))
        for row in plotted:
            cells.append([Cell(row.label), Cell("effective rank"), Cell(number(row.marks[0].value)), NONE, NONE, NONE])
    has_ceiling = any(of["arms"][0] == of["arms"][1] for of in facts)
    ceiling = "; rows of one arm compare its seeds, the most that two trainings can agree" if has_ceiling else ""
    return [
        Heading("How far the encoders agree"),
        Figures(
            drawings,
            f"Agreement of encoders, n = {count(facts[0]['rsa_pictures'])} pictures; how many directions each uses.",
            f"The grey bar at zero is the most that shuffled pictures give{ceiling}.",
        ),
        Table("Agreement beside what shuffled pictures give.", columns, cells),
    ]


def _map(study: Study) -> list[Part]:
    similar: Mapping[str, Mapping[str, Any]] = study.analysis.get("factors", {})

    def separation(factor: str) -> float:
        return max((of["separation"] for of in similar.get(factor, {}).values()), default=0.0)

    factors = sorted(study.projection.get("labels", {}), key=separation, reverse=True)
    scatter = projection(study.projection, factors)
    return [Heading("All pictures at once"), scatter] if scatter else []


def _plain(study: Study, index: int, value: float, seeds: Sequence[float] = ()) -> Mark:
    return Mark(arm_name(study.arms[index].name), index, value, value, value, seeds)


def _who(arms: Sequence[str]) -> str:
    first, second = (arm_name(arm) for arm in arms)
    return f"seeds of {first}" if first == second else f"{first} and {second}"


def _two_digits(value: float) -> str:
    return number(value, 2)
