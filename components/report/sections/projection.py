"""The pictures as points in two dimensions: a drawing for each arm, and what the page's script needs to recolour it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from components.report.drawings.svg import WIDTH, path, svg
from components.report.page.content import Scatter
from components.report.wording import arm_name, count

NUM_COLOURS = 8  # classes with a colour of their own; the others are grey
HEIGHT = 320
MARGIN = 8


def projection(found: Mapping[str, Any], factors: Sequence[str]) -> Scatter | None:
    """Returns the projection of every arm; None where there is none, or nothing to colour it by.

    Args:
        found: The content of projection.json.
        factors: Its factors, the first to be shown first.
    """
    if not found.get("arms") or not factors:
        return None
    labels: Mapping[str, Sequence[int]] = {name: found["labels"][name] for name in factors}
    factor = factors[0]
    places = {arm: _placed(of["x"], of["y"]) for arm, of in found["arms"].items()}
    shown = {name: most_frequent(values) for name, values in labels.items()}
    drawings = [(arm, _drawing(arm, points, labels[factor], shown[factor])) for arm, points in places.items()]
    data = {
        "arms": places,
        "labels": labels,
        "classes": found["classes"],
        "shown": shown,
    }
    number = len(next(iter(places.values())))
    return Scatter(
        drawings=drawings,
        classes=[found["classes"][factor][index] for index in shown[factor]],
        factor=factor,
        data=data,
        caption=f"{count(number)} test pictures as {found['method']} lays out each encoder's CLS features, of the "
        "first replicate. Axes have no unit, and drawings don't share them.",
        reading="Pictures that lie together are alike to that encoder; colours that lie together show a factor that it "
        "tells apart.",
    )


def most_frequent(labels: Sequence[int]) -> list[int]:
    """Returns the classes that have a colour, most frequent first; of equally frequent ones the lower first."""
    counts = Counter(label for label in labels if label >= 0)
    return sorted(counts, key=lambda label: (-counts[label], label))[:NUM_COLOURS]


def _placed(x: Sequence[float], y: Sequence[float]) -> list[list[int]]:
    """Returns the points within the drawing, with one scale for both axes."""
    low_x, low_y = min(x), min(y)
    extent = max((max(x) - low_x) / (WIDTH - 2 * MARGIN), (max(y) - low_y) / (HEIGHT - 2 * MARGIN)) or 1.0
    left = (WIDTH - (max(x) - low_x) / extent) / 2
    top = (HEIGHT - (max(y) - low_y) / extent) / 2
    return [[round(left + (a - low_x) / extent), round(top + (b - low_y) / extent)] for a, b in zip(x, y, strict=True)]


def _drawing(arm: str, points: Sequence[Sequence[int]], labels: Sequence[int], shown: Sequence[int]) -> str:
    """Returns one path for all points of a colour: a line of no length with round ends is a dot."""
    colour = {label: f"k{index}" for index, label in enumerate(shown)}
    dots: dict[str, list[str]] = {}
    for (x, y), label in zip(points, labels, strict=True):
        dots.setdefault(colour.get(label, "rest"), []).append(f"M{x} {y}h0")
    parts = [path("".join(of), f"points {kind}") for kind, of in sorted(dots.items(), reverse=True)]
    return svg(f"Projection of what {arm_name(arm)} sees, coloured by class", HEIGHT, parts)
