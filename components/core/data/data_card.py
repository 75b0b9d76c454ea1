"""A page that shows what is in a set of shards: counts, reasons, sizes, captions, a few of the pictures."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

NUM_SHOWN = 24
NUM_BARS = 16
MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg"}
STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse } td { padding: .2rem 1rem .2rem 0 } td + td { text-align: right }
ul { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)) }
ul { list-style: none; padding: 0 }
img { width: 100%; image-rendering: pixelated } figure { margin: 0 } figcaption { font-size: .8rem }
.bars { display: flex; align-items: flex-end; gap: 2px; height: 8rem; max-width: 40rem }
.bars div { flex: 1; background: #4477aa; min-height: 1px }
.axis { display: flex; justify-content: space-between; max-width: 40rem; font-size: .8rem }
"""


@dataclass(frozen=True)
class Shown:
    """A sample as the card shows it."""

    picture: bytes
    extension: str
    caption: str


def data_card(
    purpose: str, counts: Mapping[str, Any], shown: Sequence[Shown], sizes: Mapping[str, NDArray[Any]]
) -> str:
    """Returns the card as one self-contained HTML page.

    Args:
        purpose: What the data are for.
        counts: `inputs`, `samples`, `rejected`, `duplicates`, `unused` and, by reason, `reasons`.
        shown: Samples to show as pictures.
        sizes: Numbers to show as histograms, one per sample, by what they are.
    """
    rows = [(name, counts[name]) for name in ("inputs", "samples", "rejected", "duplicates", "unused")]
    rows += [(f"left out: {reason}", count) for reason, count in counts["reasons"].items()]
    table = "".join(f"<tr><td>{html.escape(name)}</td><td>{count:,}</td></tr>" for name, count in rows)
    histograms = "".join(_histogram(name, values) for name, values in sizes.items() if len(values))
    figures = "".join(_figure(example) for example in shown)
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Data card: {purpose}</title><style>{STYLE}</style><h1>Data card: {purpose}</h1>"
        f"<table>{table}</table>{histograms}<h2>{len(shown)} of the pictures</h2><ul>{figures}</ul></html>\n"
    )


def _histogram(name: str, values: NDArray[Any]) -> str:
    low, high = int(values.min()), int(values.max())
    counts, edges = numpy.histogram(values, bins=min(NUM_BARS, high - low + 1), range=(low, high + 1))
    bars = "".join(
        f"<div style='height:{100 * count / counts.max():.1f}%' title='{edge:.0f} and more: {count:,}'></div>"
        for count, edge in zip(counts.tolist(), edges.tolist(), strict=False)
    )
    middle = int(numpy.median(values))
    return (
        f"<h2>{html.escape(name[:1].upper() + name[1:])}</h2><div class='bars'>{bars}</div>"
        f"<div class='axis'><span>{low:,}</span><span>median {middle:,}</span><span>{high:,}</span></div>"
    )


def _figure(example: Shown) -> str:
    caption = html.escape(example.caption)
    picture = base64.b64encode(example.picture).decode()
    return (
        f"<li><figure><img alt='{caption}' src='data:{MEDIA_TYPES[example.extension]};base64,{picture}'>"
        f"<figcaption>{caption}</figcaption></figure></li>"
    )
