"""Curves: how a value went with the samples seen, or with the training FLOP that they took."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from components.report.drawings.svg import AXIS_PX, WIDTH, mark, path, svg, symbol, text, ticks, trimmed
from components.report.wording import number

PLOT_PX = 118
TOP_PX, LEFT_PX, RIGHT_PX = 26.0, 40.0, 10.0
MAX_POINTS = 200  # drawn of a line
MAX_HINTS = 24  # values of a line that can be pointed at
SMOOTHING = 25  # a running mean is this part of its curve long

Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Line:
    """One arm's curve.

    Attributes:
        name: The arm, as it is written.
        arm: Its number, for colour and symbol.
        runs: A thin line each: the replicates, or the values as they were logged.
        mean: The line that counts.
    """

    name: str
    arm: int
    runs: Sequence[Points]
    mean: Points


@dataclasses.dataclass(frozen=True)
class Axes:
    """What both axes count; `end` is the last x that has room; `is_log` for numbers of examples."""

    x: str
    y: str
    end: float
    digits: int = 2
    is_log: bool = False


def curves(title: str, heading: str, lines: Sequence[Line], axes: Axes) -> str:
    """Returns the arms' curves over one pair of axes."""
    lines = [line for line in lines if line.mean]
    if not lines:
        return svg(title, 50, [text(0, 11, heading, "strong"), text(0, 34, "No finite value was logged.", "axis")])
    values = [y for line in lines for points in (line.mean, *line.runs) for _, y in points]
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - room, high + room
    start = min(x for line in lines for x, _ in line.mean) if axes.is_log else 0.0
    bottom, right = TOP_PX + PLOT_PX, WIDTH - RIGHT_PX

    def across(x: float) -> float:
        if axes.is_log:
            share = math.log(x / start) / math.log(axes.end / start) if axes.end > start else 0.0
        else:
            share = x / axes.end
        return LEFT_PX + (right - LEFT_PX) * share

    def up(y: float) -> float:
        return bottom - PLOT_PX * (y - low) / (high - low)

    parts = [text(0, 11, heading, "strong")]
    for y in ticks(low, high, 3):
        parts += [path(f"M{LEFT_PX:.0f} {up(y):.1f}H{right:.0f}", "grid")]
        parts += [text(LEFT_PX - 6, up(y) + 3.5, trimmed(number(y, 3)), "tick", "end")]
    parts.append(path(f"M{LEFT_PX:.0f} {bottom:.0f}H{right:.0f}", "zero"))
    marked = sorted({x for line in lines for x, _ in line.mean}) if axes.is_log else ticks(0, axes.end)
    parts += [text(across(x), bottom + 14, trimmed(number(x, 3)), "tick", "middle") for x in marked]
    parts.append(text((LEFT_PX + right) / 2, bottom + 29, axes.x, "axis", "middle"))
    for line in lines:
        thin = [path(_drawn(points, across, up), "run") for points in line.runs]
        parts.append(f'<g class="a{line.arm}">{"".join(thin)}{path(_drawn(line.mean, across, up), "line")}</g>')
    for line in lines:
        hints = _hinted(line.mean)
        for x, y in hints:
            hint = f"{line.name}, {heading} at {trimmed(number(x, 2))} {axes.x}: {number(y, axes.digits)}{axes.y}"
            is_last = (x, y) == hints[-1]
            parts.append(_point(line, hint, across(x), up(y), is_shown=is_last or axes.is_log))
    return svg(title, bottom + AXIS_PX, parts)


def smoothed(points: Points) -> list[tuple[float, float]]:
    """Returns the running mean of a curve, over its finite values."""
    finite = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
    half = max(1, len(finite) // SMOOTHING) // 2
    sums = list(itertools.accumulate((y for _, y in finite), initial=0.0))
    smooth = []
    for i, (x, _) in enumerate(finite):
        start, end = max(0, i - half), min(len(finite), i + half + 1)
        smooth.append((x, (sums[end] - sums[start]) / (end - start)))
    return smooth


def mean_line(runs: Sequence[Points]) -> list[tuple[float, float]]:
    """Returns the mean of several curves where all of them have a value."""
    by_x = [dict(points) for points in runs]
    shared = [x for x, _ in runs[0] if all(x in of for of in by_x)] if runs else []
    return [(x, sum(of[x] for of in by_x) / len(by_x)) for x in shared]


def _point(line: Line, hint: str, x: float, y: float, is_shown: bool) -> str:
    kind = "dot" if is_shown else "dot spot"
    return mark(
        hint,
        [f'<circle class="hit" cx="{x:.1f}" cy="{y:.1f}" r="8"/>', symbol(line.arm, x, y, 3.6, kind)],
        f"a{line.arm}",
    )


def _drawn(points: Points, across: object, up: object) -> str:
    assert callable(across) and callable(up)
    stride = math.ceil(len(points) / MAX_POINTS)
    kept = [*points[:-1:stride], points[-1]] if stride > 1 else points
    return "M" + "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in kept)


def _hinted(points: Points) -> list[tuple[float, float]]:
    stride = math.ceil(len(points) / MAX_HINTS)
    return [*points[:-1:stride], points[-1]]
