"""The report's drawings, as small SVG text: bars with intervals, differences with intervals, curves.

Each is drawn 440 units wide, so that its letters stay legible on a phone; colours are the page's CSS variables
`--arm-0`, `--arm-1` ..., so that they follow the light and dark schemes. Every mark says its value when pointed at.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from html import escape

from components.report.wording import compact, percent, signed_points, span

WIDTH = 440
LABEL_WIDTH = 122
LABEL_LETTERS = 17  # as many as fit into LABEL_WIDTH
LINE_PX = 16
AXIS_PX = 26
MAX_POINTS = 240


@dataclasses.dataclass(frozen=True)
class Mark:
    """A value with its interval, and the arm whose colour it has."""

    name: str
    value: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class Row:
    """What the arms reached on one thing; marks in the order of the arms."""

    label: str
    marks: Sequence[Mark]
    chance: float


def bars(title: str, rows: Sequence[Row]) -> str:
    """Returns accuracies as bars from 0 to 100 % with interval whiskers and a tick at chance."""
    left, right = LABEL_WIDTH, WIDTH - 44
    parts: list[str] = []
    y = 10.0
    for row in rows:
        height = LINE_PX * len(row.marks)
        parts.append(_text(left - 10, y + height / 2 + 4.5, _label(row.label), anchor="end"))
        for index, mark in enumerate(row.marks):
            middle = y + LINE_PX * (index + 0.5)
            hint = f"{mark.name}, {row.label}: {percent(mark.value)} % ({span(mark.low, mark.high)}), n = {mark.n:,}"
            whisker = [left + (right - left) * x for x in (mark.low, mark.high)]
            end = left + (right - left) * mark.value
            parts.append(
                f"<g>{_hover(hint, middle - 8, 16)}"
                f'<rect x="{left}" y="{middle - 5:.1f}" width="{end - left:.1f}" height="10" rx="1.5" '
                f'fill="var(--arm-{index})"/>'
                f'<path class="whisker" d="M{whisker[0]:.1f} {middle:.1f}H{whisker[1]:.1f}"/>'
                f"{_text(WIDTH, middle + 4, percent(mark.value), anchor='end', kind='value')}</g>"
            )
        at = left + (right - left) * row.chance
        parts.append(f'<path class="chance" d="M{at:.1f} {y - 2:.1f}V{y + height + 2:.1f}"/>')
        y += height + 11
    grid = [_axis_line(left + (right - left) * x / 100, 4, y - 4, f"{x}", is_zero=x == 0) for x in (0, 25, 50, 75, 100)]
    return _svg(title, y + AXIS_PX, [*grid, *parts])


def differences(
    title: str, heading: str, marks: Sequence[Mark], reach: float, leaders: Sequence[tuple[str, int]]
) -> str:
    """Returns paired differences as dots with intervals about zero, the largest on top.

    Args:
        title: What a reader who can't see the drawing is told.
        heading: What the marks have in common.
        marks: The differences; names are what was compared.
        reach: Largest difference that has room, either way.
        leaders: Who is ahead right and left of zero, each with the number of its colour.
    """
    left, right = LABEL_WIDTH + 6, WIDTH - 52
    reach *= 1.06
    zero = (left + right) / 2
    scale = (right - left) / 2 / reach
    colours = [f"var(--arm-{number})" for _, number in leaders]
    texts = [f"var(--arm-{number}-text)" for _, number in leaders]
    parts = [
        _text(0, 12, heading, kind="strong"),
        _text(zero + 8, 34, f"{leaders[0][0]} ahead \u2192", kind="side", colour=texts[0]),
        _text(zero - 8, 34, f"\u2190 {leaders[1][0]} ahead", anchor="end", kind="side", colour=texts[1]),
    ]
    y = top = 44.0
    for mark in sorted(marks, key=lambda mark: -mark.value):
        middle = y + 11
        sign = (mark.low > 0) - (mark.high < 0)
        colour = {1: colours[0], -1: colours[1], 0: "var(--faint)"}[sign]
        hint = f"{mark.name}: {signed_points(mark.value)} points ({span(mark.low, mark.high)}), n = {mark.n:,}"
        low, high, x = (zero + scale * v for v in (mark.low, mark.high, mark.value))
        shape = "" if sign else 'fill-opacity="0.15" '
        parts.append(
            f"<g>{_hover(hint, y, 22)}"
            f"{_text(left - 16, middle + 4.5, _label(mark.name), anchor='end')}"
            f'<g stroke="{colour}"><path d="M{low:.1f} {middle:.1f}H{high:.1f}" stroke-width="2.5" '
            f'stroke-linecap="round"/><circle cx="{x:.1f}" cy="{middle:.1f}" r="5" fill="var(--paper)" stroke="none"/>'
            f'<circle cx="{x:.1f}" cy="{middle:.1f}" r="5" fill="{colour}" {shape}stroke-width="1.5"/></g>'
            f"{_text(WIDTH, middle + 4.5, signed_points(mark.value), anchor='end', kind='value')}</g>"
        )
        y += 23
    y += 4
    step = _round_step(reach * 100 / 2.2)
    ticks = range(-int(reach * 100 // step), int(reach * 100 // step) + 1)
    labels = {k: signed_points(k * step / 100).removesuffix(".0") for k in ticks}
    grid = [_axis_line(zero + scale * k * step / 100, top, y, label, is_zero=k == 0) for k, label in labels.items()]
    return _svg(title, y + AXIS_PX, [*grid, *parts])


def curve(title: str, label: str, samples: Sequence[float], values: Sequence[float], arm: int) -> str:
    """Returns one training curve: the points faintly, their running mean over them; `arm` picks the colour."""
    points = [(x, y) for x, y in zip(samples, values, strict=True) if y is not None and math.isfinite(y)]
    if not points:
        return _svg(title, 60, [_text(0, 30, f"{label}: no finite value was logged", kind="faint")])
    bottom, top, left, right = 196.0, 34.0, 46.0, WIDTH - 8.0
    floor, ceiling = min(y for _, y in points), max(y for _, y in points)
    step = _round_step(max(ceiling - floor, 1e-9) / 3)
    floor, ceiling = math.floor(floor / step) * step, math.ceil(ceiling / step) * step
    ceiling = ceiling if ceiling > floor else floor + step
    end = max(x for x, _ in points) or 1

    def place(point: tuple[float, float]) -> str:
        x, y = left + (right - left) * point[0] / end, bottom - (bottom - top) * (point[1] - floor) / (ceiling - floor)
        return f"{x:.1f} {y:.1f}"

    smooth = _running_mean(points, window=max(1, len(points) // 25))
    digits = max(0, math.ceil(-math.log10(step)))
    parts = [_text(0, 14, label, kind="strong", colour=f"var(--arm-{arm}-text)")]
    parts += [_text(right, 14, f"{smooth[-1][1]:.3g} at the end", anchor="end", kind="value")]
    for k in range(round((ceiling - floor) / step) + 1):
        y = bottom - (bottom - top) * k * step / (ceiling - floor)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        parts.append(_text(left - 8, y + 4, f"{floor + k * step:.{digits}f}", anchor="end", kind="tick"))
    for share in (0.0, 0.5, 1.0):
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[share]
        x = left + (right - left) * share
        parts.append(_text(x, bottom + 18, compact(end * share).strip() if share else "0", anchor=anchor, kind="tick"))
    parts.append(_text((left + right) / 2, bottom + 36, "samples seen", anchor="middle", kind="tick"))
    for line, style in (
        (_thinned(points), 'stroke-opacity="0.28" stroke-width="1"'),
        (_thinned(smooth), 'stroke-width="2.2"'),
    ):
        path = "M" + "L".join(place(p) for p in line)
        parts.append(f'<path d="{path}" fill="none" stroke="var(--arm-{arm})" stroke-linejoin="round" {style}/>')
    for x, y in _thinned(smooth)[:: max(1, len(smooth) // 40)]:
        at = place((x, y)).split()
        hint = escape(f"{compact(x)} samples: {y:.4g}")
        parts.append(f'<circle class="hit" cx="{at[0]}" cy="{at[1]}" r="7"><title>{hint}</title></circle>')
    return _svg(title, bottom + 42, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "", colour: str = "") -> str:
    style = f' style="fill:{colour}"' if colour else ""
    group = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{group}{style}>{escape(text)}</text>'


def _hover(hint: str, y: float, height: float) -> str:
    """Returns what makes a whole line say `hint` when it is pointed at."""
    return f'<title>{escape(hint)}</title><rect class="hit" x="0" y="{y:.1f}" width="{WIDTH}" height="{height}"/>'


def _label(text: str) -> str:
    return text if len(text) <= LABEL_LETTERS else f"{text[: LABEL_LETTERS - 1]}\u2026"


def _axis_line(x: float, top: float, bottom: float, label: str, *, is_zero: bool) -> str:
    line = "zero" if is_zero else "grid"
    drawn = f'<path class="{line}" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'
    return drawn + _text(x, bottom + 17, label, anchor="middle", kind="tick")


def _round_step(wanted: float) -> float:
    """Returns the 1, 2 or 5 times a power of ten nearest above `wanted`."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= wanted * 0.999)


def _running_mean(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    sums = list(itertools.accumulate((y for _, y in points), initial=0.0))
    smooth = []
    for i, (x, _) in enumerate(points):
        start, end = max(0, i - window // 2), min(len(points), i + window // 2 + 1)
        smooth.append((x, (sums[end] - sums[start]) / (end - start)))
    return smooth


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    stride = math.ceil(len(points) / MAX_POINTS)
    return [*points[:-1:stride], points[-1]] if stride > 1 else points
