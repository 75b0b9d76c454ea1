"""The mined pairs: as pictures, cut from the sheets of analyze_embeddings, and what the two have in common."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from components.report.drawings.figures import Mark, Row, Scale, dot_plot
from components.report.page.content import Cell, Column, Figures, Gallery, Part, PicturePair, Prose, Table
from components.report.study import Study
from components.report.wording import arm_name, between, count, joined, level, number, percent

NONE = Cell("\u2013", tone="empty")
WEBP_QUALITY = 88


def pairs_parts(study: Study) -> list[Part]:
    """Returns the mined pairs, and what their pictures have in common; nothing where none were sought."""
    facts = study.analysis
    directions = [d for d in facts.get("directions", []) if study.first.name in (d["alike"], d["unlike"])]
    if not directions:
        return []
    threshold = facts.get("thresholds", {})
    sampled = "" if threshold.get("is_exact", True) else f" of {count(threshold['num_pairs'])} sampled pairs"
    fixed = [
        f"{arm_name(d['alike'])} above {of['above']} and {arm_name(d['unlike'])} below {of['below']}: "
        f"{count(of['num_pairs'])}"
        for d in directions
        for of in d.get("fixed", [])
    ]
    prose = (
        f"Searched among {count(facts['num_pictures'])} different test pictures. A pair is alike above the "
        f"{facts['quantile']:g} quantile{sampled} of an encoder's own similarities ({facts['similarity']}), and unlike "
        f"below its {1 - facts['quantile']:.4g} quantile; no picture occurs in two pairs of one direction."
    )
    parts: list[Part] = [Prose(prose), *_galleries(study, [arm.name for arm in study.arms])]
    if fixed:
        parts.append(
            Prose(f"Pairs within the paper's fixed thresholds, which do not carry over: {'; '.join(fixed)}.", "note")
        )
    return [*parts, *_shares(study, directions)]


def _shares(study: Study, directions: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Returns how often the pictures of a pair agree in a factor, beside what any two pictures do."""
    numbers = {arm.name: index for index, arm in enumerate(study.arms)}
    factors = list(dict.fromkeys(f for d in directions for f in d["factors"]))
    if not factors:
        return []
    drawings = []
    for other in study.others:
        pair = [d for d in directions if other.name in (d["alike"], d["unlike"])]
        rows = []
        for factor in factors:
            of = [(d, d["factors"][factor]) for d in pair if factor in d["factors"]]
            marks = [Mark(_direction(d), numbers[d["alike"]], s["share"], s["low"], s["high"], n=s["n"]) for d, s in of]
            if marks:
                rows.append(Row(factor, marks, of[0][1]["base_rate"]))
        heading = f"{arm_name(study.first.name)} and {arm_name(other.name)}"
        scale = Scale("pairs that share it, %", percent, unit="%")
        drawings.append(dot_plot(f"Share of mined pairs of {heading} that agree, by factor", heading, rows, scale))
    columns = [Column("factor", is_number=False), Column("any two pictures")]
    columns += [Column(_direction(d), "mined pairs") for d in directions]
    table_rows = []
    for factor in factors:
        shares = [d["factors"].get(factor) for d in directions]
        base = next(s["base_rate"] for s in shares if s)
        cells = [Cell(factor), Cell(percent(base))]
        for d, s in zip(directions, shares, strict=True):
            is_off = s and not s["low"] <= s["base_rate"] <= s["high"]
            cells.append(
                Cell(percent(s["share"]), between(s["low"], s["high"]), d["alike"] * bool(is_off)) if s else NONE
            )
        table_rows.append(cells)
    n = joined([f"{count(d['num_pairs'])} pairs {_direction(d)}" for d in directions])
    caption = f"What the pictures of a mined pair have in common: {n}, of the first replicate."
    reading = "In the colour of the encoder that finds the pairs alike; the dash is the share among any two pictures."
    arms = list(dict.fromkeys(d["alike"] for d in directions))
    table = Table(
        f"The same in %, with {level(study.confidence)} intervals; in colour where all pairs' share lies outside.",
        columns,
        table_rows,
    )
    return [Figures(drawings, caption, reading, arms), table]


def _galleries(study: Study, arms: Sequence[str]) -> list[Gallery]:
    """Returns a gallery for each direction between the first arm and the others."""
    facts = {(d["alike"], d["unlike"]): d for d in study.analysis["directions"]}
    found = []
    for direction in study.pairs["directions"]:
        alike, unlike = direction["alike"], direction["unlike"]
        if study.first.name not in (alike, unlike) or not {alike, unlike} <= set(arms):
            continue
        sheet = Image.open(io.BytesIO(study.sheets[direction["file"]]))
        of = facts[alike, unlike]
        limits = f"{arm_name(alike)} above {number(of['above'], 2)}, {arm_name(unlike)} below {number(of['below'], 2)}"
        total = of["num_pairs"]
        shown = f"{len(direction['pairs'])} of {count(total)}" if total != len(direction["pairs"]) else count(total)
        found_pairs = f"{shown} {'pair' if total == 1 else 'pairs'}" if total else "No pair lies within both thresholds"
        found.append(
            Gallery(
                heading=f"Alike to {arm_name(alike)}, not to {arm_name(unlike)}",
                caption=f"{found_pairs} ({limits}).",
                pairs=[_pair(sheet, pair, (alike, unlike)) for pair in direction["pairs"]],
            )
        )
    return found


def _direction(direction: Mapping[str, Any]) -> str:
    return f"alike to {arm_name(direction['alike'])}, not to {arm_name(direction['unlike'])}"


def _pair(sheet: Image.Image, pair: dict[str, Any], arms: tuple[str, str]) -> PicturePair:
    first, second = pair["pictures"]
    shared = [f for f, value in first["labels"].items() if second["labels"].get(f) == value]
    known = first["labels"].keys() & second["labels"].keys()
    return PicturePair(
        sources=(_data_uri(sheet, first["box"]), _data_uri(sheet, second["box"])),
        alts=(_alt(first), _alt(second)),
        similarities=[(arm, number(pair["similarity"][arm], 2)) for arm in arms],
        note=f"same {joined(shared)}" if shared else "nothing labelled in common" if known else "",
    )


def _alt(picture: dict[str, Any]) -> str:
    labels = ", ".join(f"{factor} {value}" for factor, value in picture["labels"].items())
    return "; ".join(part for part in (picture["caption"], labels) if part) or f"picture {picture['id']}"


def _data_uri(sheet: Image.Image, box: Sequence[int]) -> str:
    buffer = io.BytesIO()
    left, top, right, bottom = box
    sheet.crop((left, top, right, bottom)).save(buffer, format="WEBP", quality=WEBP_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
