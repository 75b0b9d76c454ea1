"""A page that shows what is in a set of shards: counts, reasons, captions, a few of the pictures."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

NUM_SHOWN = 24
STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse } td { padding: .2rem 1rem .2rem 0 } td + td { text-align: right }
ul { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)) }
ul { list-style: none; padding: 0 }
img { width: 100%; image-rendering: pixelated } figure { margin: 0 } figcaption { font-size: .8rem }
"""


class Shown(Protocol):
    """The part of an example that the card shows."""

    @property
    def png(self) -> bytes: ...

    @property
    def caption(self) -> str: ...


def data_card(purpose: str, counts: Mapping[str, Any], examples: Sequence[Shown]) -> str:
    """Returns the card as one self-contained HTML page.

    Args:
        purpose: What the data are for.
        counts: `samples`, `rejected` and, by reason, `reasons`.
        examples: The samples, of which evenly spaced ones are shown.
    """
    rows = [("samples", counts["samples"]), ("rejected", counts["rejected"])]
    rows += [(f"rejected: {reason}", count) for reason, count in counts["reasons"].items()]
    table = "".join(f"<tr><td>{html.escape(name)}</td><td>{count:,}</td></tr>" for name, count in rows)
    shown = examples[:: max(1, len(examples) // NUM_SHOWN)][:NUM_SHOWN]
    figures = "".join(_figure(example) for example in shown)
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Data card: {purpose}</title><style>{STYLE}</style><h1>Data card: {purpose}</h1>"
        f"<table>{table}</table><h2>{len(shown)} of the pictures</h2><ul>{figures}</ul></html>\n"
    )


def _figure(example: Shown) -> str:
    caption = html.escape(example.caption)
    picture = base64.b64encode(example.png).decode()
    return (
        f"<li><figure><img alt='{caption}' src='data:image/png;base64,{picture}'>"
        f"<figcaption>{caption}</figcaption></figure></li>"
    )
