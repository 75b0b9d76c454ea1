"""The parts that a report is made of; the page and the Markdown are two renderings of the same parts."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it says.
        note: Said smaller, beneath it.
        tone: `lead` for what stands out, `empty` for what isn't known, `code` for hashes.
    """

    text: str
    note: str = ""
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table; `group` is the heading over neighbours that share it."""

    name: str
    group: str = ""
    is_number: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under columns; the first cell of a row is its heading."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    kind: str = "table"

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Returns the headings over neighbouring columns, with their width; empty where there is none."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group and column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(name for name, _ in spans) else []


@dataclasses.dataclass(frozen=True)
class Prose:
    """A paragraph; `tone` is `note` for small print."""

    text: str
    tone: str = ""
    kind: str = "prose"


@dataclasses.dataclass(frozen=True)
class Points:
    """A list of sentences, each with a heading of a few words."""

    items: Sequence[tuple[str, str]]
    kind: str = "points"


@dataclasses.dataclass(frozen=True)
class Figures:
    """Drawings side by side: SVG text that `figures` made, with one caption."""

    drawings: Sequence[str]
    caption: str
    arms: Sequence[str] = ()
    kind: str = "figures"


@dataclasses.dataclass(frozen=True)
class PicturePair:
    """Two pictures as data URIs, what they show, and how alike each arm finds them."""

    sources: tuple[str, str]
    alts: tuple[str, str]
    similarities: Sequence[tuple[str, str]]
    note: str


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Mined pairs of one direction."""

    heading: str
    caption: str
    pairs: Sequence[PicturePair]
    kind: str = "gallery"


Part = Table | Prose | Points | Figures | Gallery


@dataclasses.dataclass(frozen=True)
class Section:
    """One section of the report."""

    name: str
    heading: str
    parts: Sequence[Part]
