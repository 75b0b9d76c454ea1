"""The parts that a report is made of; the page and the Markdown are two renderings of the same parts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it says.
        note: Said smaller, beside it.
        tone: `lead` for what stands out, `empty` for what isn't known, `code` for hashes, or an arm's name for its
            colour.
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
    """Rows under columns; the first cell of a row is its heading.

    Attributes:
        caption: What it shows, and where n is the same for all, n.
        is_filtered: Whether a reader may filter the rows by typing; for the long ones.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    is_filtered: bool = False
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
    """A paragraph; `tone` is `note` for small print. `link` is the text and address of where it leads."""

    text: str
    tone: str = ""
    link: tuple[str, str] = ("", "")
    kind: str = "prose"


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str
    kind: str = "heading"


@dataclasses.dataclass(frozen=True)
class Points:
    """A list of sentences, each with a heading of a few words."""

    items: Sequence[tuple[str, str]]
    kind: str = "points"


@dataclasses.dataclass(frozen=True)
class Figures:
    """Drawings side by side under one caption.

    Attributes:
        drawings: SVG text that `figures` and its neighbours made.
        caption: What they show, and n.
        reading: How to read them, in a line.
        arms: Arms that the key names.
        is_filtered: Whether a reader may pick out rows by typing.
        is_flowing: Whether drawings of unequal height follow each other down two columns; else they stand in rows.
    """

    drawings: Sequence[str]
    caption: str
    reading: str
    arms: Sequence[str] = ()
    is_filtered: bool = False
    is_flowing: bool = False
    kind: str = "figures"


@dataclasses.dataclass(frozen=True)
class Scatter:
    """Pictures as points, one drawing for each arm.

    Attributes:
        drawings: Arm and SVG text, coloured by the first factor.
        classes: The classes of the first factor that have a colour of their own, most frequent first.
        factor: The first factor.
        data: What the page's script needs to show another factor, and the label of a point.
    """

    drawings: Sequence[tuple[str, str]]
    classes: Sequence[str]
    factor: str
    data: Mapping[str, Any]
    caption: str
    reading: str
    kind: str = "scatter"


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


Part = Table | Prose | Heading | Points | Figures | Scatter | Gallery


@dataclasses.dataclass(frozen=True)
class Section:
    """One section of the report."""

    name: str
    heading: str
    parts: Sequence[Part]
