"""What all drawings are made of: letters, axes, the arms' symbols, and marks that say their value.

A drawing is WIDTH units wide, so that its letters stay legible on a phone. Colours are classes of the page's style:
`a0`, `a1` ... for the arms, so that drawings follow the light and dark schemes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

WIDTH = 420
AXIS_PX = 34  # beneath a plot: ticks and what they count

Format = Callable[[float], str]


def svg(title: str, height: float, parts: Sequence[str]) -> str:
    """Returns a whole drawing; `title` is what a reader who can't see it is told."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">' + "".join(parts) + "</svg>"
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "") -> str:
    """Returns letters whose base line is at y; `anchor` is empty (start), `middle` or `end`."""
    anchored = f' text-anchor="{anchor}"' if anchor else ""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{anchored}{named}>{escape(words)}</text>'


def path(d: str, kind: str) -> str:
    """Returns a path of a class."""
    return f'<path class="{kind}" d="{d}"/>'


def mark(hint: str, parts: Sequence[str], kind: str = "") -> str:
    """Returns parts that say `hint` when pointed at, or reached with the arrow keys."""
    return f'<g class="{f"mark {kind}".strip()}"><title>{escape(hint)}</title>{"".join(parts)}</g>'


def band(x: float, y: float, width: float, height: float, kind: str = "hit") -> str:
    """Returns a rectangle; of class `hit` it is invisible and takes the pointer."""
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}"/>'


def symbol(arm: int, x: float, y: float, size: float, kind: str = "dot") -> str:
    """Returns the symbol of an arm about a point: shapes tell arms apart where colours can't."""
    s = size
    match arm % 6:
        case 0:
            return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{s:.1f}"/>'
        case 1:
            s *= 0.9
            d = f"m{-s:.1f} {-s:.1f}h{2 * s:.1f}v{2 * s:.1f}h{-2 * s:.1f}z"
        case 2:
            s *= 1.25
            d = f"m0 {-s:.1f}l{s:.1f} {s:.1f}l{-s:.1f} {s:.1f}l{-s:.1f} {-s:.1f}z"
        case 3:
            s *= 1.2
            d = f"m0 {-s:.1f}l{s:.1f} {1.75 * s:.1f}h{-2 * s:.1f}z"
        case 4:
            s *= 1.2
            d = f"m0 {s:.1f}l{s:.1f} {-1.75 * s:.1f}h{-2 * s:.1f}z"
        case _:
            d = f"m{-s:.1f} {-0.4 * s:.1f}h{0.6 * s:.1f}v{-0.6 * s:.1f}h{0.8 * s:.1f}v{0.6 * s:.1f}h{0.6 * s:.1f}"
            d += f"v{0.8 * s:.1f}h{-0.6 * s:.1f}v{0.6 * s:.1f}h{-0.8 * s:.1f}v{-0.6 * s:.1f}h{-0.6 * s:.1f}z"
    return path(f"M{x:.1f} {y:.1f}{d}", kind)


def x_axis(
    places: Sequence[tuple[float, str]], top: float, bottom: float, name: str, middle: float, zero: float | None = None
) -> Iterator[str]:
    """Yields vertical grid lines with their labels beneath, and the axis' name; the line at `zero` is stronger."""
    for x, label in places:
        is_zero = zero is not None and abs(x - zero) < 0.05
        yield path(f"M{x:.1f} {top:.1f}V{bottom:.1f}", "zero" if is_zero else "grid")
        yield text(x, bottom + 13, label, "tick", "middle")
    if name:
        yield text(middle, bottom + 28, name, "axis", "middle")


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Returns round numbers within low and high, evenly apart: the fewest that are `wanted` or more."""
    power = 10.0 ** math.ceil(math.log10(high - low))
    places: list[float] = []
    for step in (m * power / 10**e for e in (0, 1, 2) for m in (1.0, 0.5, 0.2)):
        places = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        if len(places) >= wanted:
            break
    return places


def trimmed(number: str) -> str:
    """Returns a written number without the zeros at its end that say nothing on an axis."""
    return number.rstrip("0").rstrip(".") if "." in number else number


def shortened(label: str, letters: int) -> str:
    """Returns the label as it fits; the whole one stands in the mark's hint."""
    return label if len(label) <= letters else f"{label[: letters - 1]}\u2026"
