"""Dot plots: values with intervals and a tick for each seed, row by row; and differences about zero."""

import dataclasses
from collections.abc import Callable, Sequence

from components.report.drawings.svg import (
    AXIS_PX,
    WIDTH,
    Format,
    band,
    mark,
    path,
    shortened,
    svg,
    symbol,
    text,
    ticks,
    trimmed,
    x_axis,
)
from components.report.wording import count, joined, signed_points, span

LABEL_PX = 118
LABEL_LETTERS = 19  # as many as fit into LABEL_PX
VALUE_PX = 40
TOP_PX = 24  # room for a heading
LINE_PX = 15
GAP_PX = 9  # between rows

Position = Callable[[float], float]


@dataclasses.dataclass(frozen=True)
class Mark:
    """A value of one arm.

    Attributes:
        name: The arm, as it is written.
        arm: Its number, for colour and symbol; -1 for what belongs to no arm.
        value: The mean over the replicates.
        low, high: Its interval; both equal to the value where there is none.
        seeds: The value of each replicate; drawn where there are several.
        n: Pictures or questions; 0 where that is not a number of items.
        is_open: Drawn hollow: somebody else's number.
    """

    name: str
    arm: int
    value: float
    low: float
    high: float
    seeds: Sequence[float] = ()
    n: int = 0
    is_open: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """What the arms reached on one thing; `chance` and what lies between the ends of `band` is what luck gives."""

    label: str
    marks: Sequence[Mark]
    chance: float | None = None
    band: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Scale:
    """A horizontal axis: its name (empty where the heading says it), how numbers are written, values it must hold."""

    name: str
    write: Format
    holds: Sequence[float] = ()
    unit: str = ""


def dot_plot(title: str, heading: str, rows: Sequence[Row], scale: Scale) -> str:
    """Returns values as dots with intervals, one line for each arm under a common row label."""
    left, right = LABEL_PX + 8.0, WIDTH - VALUE_PX - 6.0
    low, high = ends(rows, scale.holds)
    room = 0.02 * (high - low) or 0.05
    low, high = low - room, high + room

    def at(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    y = float(TOP_PX)
    drawn: list[str] = []
    for row in rows:
        height = LINE_PX * len(row.marks)
        parts = [text(LABEL_PX, y + height / 2 + 4, shortened(row.label, LABEL_LETTERS), "", "end")]
        if row.band:
            parts.append(band(at(row.band[0]), y - 2, max(at(row.band[1]) - at(row.band[0]), 2.0), height + 4, "luck"))
        if row.chance is not None:
            parts.append(path(f"M{at(row.chance):.1f} {y - 3:.1f}v{height + 6:.1f}", "chance"))
        for index, one in enumerate(row.marks):
            parts.append(_dot(row, one, scale, y + LINE_PX * (index + 0.5), at))
        drawn.append(f'<g class="row">{"".join(parts)}</g>')
        y += height + GAP_PX
    places = [(at(value), trimmed(scale.write(value))) for value in ticks(low, high)]
    grid = x_axis(places, TOP_PX - 6, y - 3, scale.name, (left + right) / 2, zero=at(0.0))
    return svg(title, y + AXIS_PX - 14 * (not scale.name), [text(0, 11, heading, "strong"), *grid, *drawn])


def ends(rows: Sequence[Row], holds: Sequence[float] = ()) -> tuple[float, float]:
    """Returns the least and the largest of all that is drawn in these rows; give it to drawings that share an axis."""
    found = [end for row in rows for one in row.marks for end in (one.low, one.high, *one.seeds)]
    found += [row.chance for row in rows if row.chance is not None]
    found += [end for row in rows if row.band for end in row.band]
    return min([*found, *holds]), max([*found, *holds])


def differences(
    title: str, heading: str, marks: Sequence[Mark], reach: float, leaders: Sequence[tuple[str, int]]
) -> str:
    """Returns paired differences as dots with intervals about zero, the largest on top.

    Args:
        title: What a reader who can't see the drawing is told.
        heading: What the marks have in common.
        marks: The differences; names are what was compared.
        reach: Largest difference that has room, either way.
        leaders: Who is ahead right and left of zero, each with its number.
    """
    left, right = LABEL_PX + 8.0, WIDTH - VALUE_PX - 6.0
    zero, scale = (left + right) / 2, (right - left) / 2 / (reach * 1.04)
    top = y = 44.0
    (ahead, first), (behind, other) = leaders
    parts = [
        text(0, 11, heading, "strong"),
        text(zero + 7, 32, f"{ahead} ahead \u2192", f"side a{first}"),
        text(zero - 7, 32, f"\u2190 {behind} ahead", f"side a{other}", "end"),
    ]
    for one in sorted(marks, key=lambda one: -one.value):
        middle = y + 10
        sign = (one.low > 0) - (one.high < 0)
        arm = {1: first, -1: other, 0: first if one.value >= 0 else other}[sign]
        hint = f"{one.name}: {signed_points(one.value)} points, interval {span(one.low, one.high)}, n = {count(one.n)}"
        x = zero + scale * one.value
        line = f"M{zero + scale * one.low:.1f} {middle:.1f}H{zero + scale * one.high:.1f}"
        inner = [
            band(0, y - 1, WIDTH, 22),
            text(LABEL_PX, middle + 4, shortened(one.name, LABEL_LETTERS), "", "end"),
            path(line, "interval"),
            *_seeds(one.seeds, middle, lambda value: zero + scale * value),
            symbol(arm, x, middle, 4.6, "dot" if sign else "dot open"),
            text(WIDTH, middle + 4, signed_points(one.value), "value", "end"),
        ]
        seen = f"; seeds {joined([signed_points(v) for v in one.seeds])}" if len(one.seeds) > 1 else ""
        parts.append(f'<g class="row">{mark(hint + seen, inner, f"a{arm}" if sign else "even")}</g>')
        y += 22
    places = [(zero + scale * v, trimmed(signed_points(v))) for v in ticks(-reach * 1.04, reach * 1.04)]
    grid = x_axis(places, top - 4, y + 2, "difference, points", zero, zero=zero)
    return svg(title, y + 2 + AXIS_PX, [*grid, *parts])


def _dot(row: Row, one: Mark, scale: Scale, y: float, at: Position) -> str:
    """Returns the line of one arm within a row."""
    write, unit = scale.write, f" {scale.unit}" if scale.unit else ""
    hint = f"{one.name}, {row.label}: {write(one.value)}{unit}"
    hint += f", interval {write(one.low)} to {write(one.high)}" if one.low < one.high else ""
    hint += f", n = {count(one.n)}" if one.n else ""
    hint += f"; seeds {joined([write(value) for value in one.seeds])}" if len(one.seeds) > 1 else ""
    parts = [band(LABEL_PX, y - LINE_PX / 2, WIDTH - LABEL_PX, LINE_PX)]
    if one.low < one.high:
        parts.append(path(f"M{at(one.low):.1f} {y:.1f}H{at(one.high):.1f}", "interval"))
    parts += _seeds(one.seeds, y, at)
    parts.append(symbol(max(one.arm, 0), at(one.value), y, 3.9, "dot open" if one.is_open else "dot"))
    parts.append(text(WIDTH, y + 3.8, write(one.value), "value", "end"))
    return mark(hint, parts, f"a{one.arm}" if one.arm >= 0 else "neutral")


def _seeds(values: Sequence[float], y: float, at: Position) -> list[str]:
    """Returns a tick above the line for each replicate; none where there is only one."""
    if len(values) < 2:
        return []
    return [path("".join(f"M{at(value):.1f} {y - 6.5:.1f}v5" for value in values), "seed")]
