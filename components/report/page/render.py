"""The report as one self-contained HTML page, and as Markdown."""

import base64
import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from components.report.drawings.svg import symbol
from components.report.page.content import Cell, Figures, Gallery, Heading, Part, Points, Prose, Scatter, Section, Table
from components.report.study import Study
from components.report.wording import arm_name

HERE = Path(__file__).parent
TEMPLATE, STYLE, SCRIPT = "page.html.j2", "page.css", "page.js"
APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)")


@dataclasses.dataclass(frozen=True)
class Label:
    """What a figure or table is called, and its anchor; both empty for other parts."""

    words: str = ""
    id: str = ""


@dataclasses.dataclass(frozen=True)
class ArmStyle:
    """How an arm appears: its number (for the colour), its symbol, and how its name is written."""

    number: int
    symbol: Markup
    written: str


Labelled = Sequence[tuple[Label, Part]]


def render_page(
    study: Study,
    title: str,
    verdict: Sequence[str],
    facts: Sequence[tuple[str, str]],
    lead: Figures,
    parts: Sequence[Section],
) -> str:
    """Returns the HTML; all text is escaped except the drawings, which escape their own.

    The page's own policy lets a browser load nothing, and run no script or style but the page's, by their hashes.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_typographic,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((HERE / name).read_text() for name in (STYLE, SCRIPT))
    return environment.get_template(TEMPLATE).render(
        title=title,
        verdict=verdict,
        facts=facts,
        lead=lead,
        lead_label=Label("Figure 1", "figure-1"),
        sections=_labelled(parts),
        arms={
            arm.name: ArmStyle(number, Markup(symbol(number, 0, 0, 4.6)), arm_name(arm.name))
            for number, arm in enumerate(study.arms)
        },
        style=Markup(style),
        script=Markup(script),
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
    )


def render_markdown(
    title: str, verdict: Sequence[str], facts: Sequence[tuple[str, str]], parts: Sequence[Section]
) -> str:
    """Returns the same content without pictures and drawings, whose numbers stand in the tables."""
    lines = [f"# {title}", "", f"**{' '.join(verdict)}**", ""]
    lines += [f"- {name}: {value}" for name, value in facts]
    for section, labelled in _labelled(parts):
        lines += ["", f"## {section.heading}"]
        for label, part in labelled:
            match part:
                case Table():
                    lines += ["", f"{label.words}. {part.caption}", "", *_markdown_table(part)]
                case Prose():
                    text, address = part.link
                    lines += ["", f"{part.text} [{text}]({address})" if address else part.text]
                case Heading():
                    lines += ["", f"### {part.text}"]
                case Points():
                    lines += ["", *(f"- **{heading}** {text}" for heading, text in part.items)]
                case Gallery():
                    lines += ["", f"{part.heading}: {part.caption}"]
                case Figures() | Scatter():
                    lines += ["", f"{label.words} (on the page). {part.caption}"]
    return "\n".join(lines) + "\n"


def _labelled(sections: Sequence[Section]) -> list[tuple[Section, Labelled]]:
    """Returns all parts with their labels; figures and tables are counted from section to section, after figure 1."""
    num_figures, num_tables = 1, 0
    labelled: list[tuple[Section, Labelled]] = []
    for section in sections:
        found: list[tuple[Label, Part]] = []
        for part in section.parts:
            label = Label()
            if isinstance(part, Table):
                num_tables += 1
                label = Label(f"Table {num_tables}", f"table-{num_tables}")
            elif isinstance(part, Figures | Scatter):
                num_figures += 1
                label = Label(f"Figure {num_figures}", f"figure-{num_figures}")
            found.append((label, part))
        labelled.append((section, found))
    return labelled


def _typographic(value: Any) -> Any:
    """Returns plain text with the apostrophes of print; markup as it is."""
    return APOSTROPHE.sub("\u2019", value) if type(value) is str else value


def _policy_hash(content: str) -> str:
    """Returns the hash by which a content security policy names an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _markdown_table(table: Table) -> list[str]:
    names = [f"{c.group}: {c.name}" if c.group else c.name for c in table.columns]
    lines = [_markdown_row(names), _markdown_row(["--:" if c.is_number else "---" for c in table.columns])]
    return lines + [_markdown_row([_markdown_cell(cell) for cell in row]) for row in table.rows]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = f"`{cell.text}`" if cell.tone == "code" else cell.text
    shown = f"{text} ({cell.note})" if cell.note and text else text or cell.note
    return shown.replace("|", "\\|").replace("\n", " ")
