"""The report as one self-contained HTML page, and as Markdown."""

from collections.abc import Sequence
from pathlib import Path

import jinja2

from components.report.content import Cell, Figures, Gallery, Points, Prose, Section, Table
from components.report.study import Study
from components.report.wording import arm_name

TEMPLATE = "page.html.j2"


def render_page(
    study: Study,
    title: str,
    verdict: Sequence[str],
    facts: Sequence[tuple[str, str]],
    lead: Figures,
    parts: Sequence[Section],
) -> str:
    """Returns the HTML; all text is escaped except the drawings, which escape their own."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(TEMPLATE)
    arms = {arm.name: (index, arm_name(arm.name)) for index, arm in enumerate(study.arms)}
    return template.render(title=title, verdict=verdict, facts=facts, lead=lead, sections=parts, arms=arms)


def render_markdown(
    title: str, verdict: Sequence[str], facts: Sequence[tuple[str, str]], parts: Sequence[Section]
) -> str:
    """Returns the same content without pictures and drawings."""
    lines = [f"# {title}", "", f"**{' '.join(verdict)}**", ""]
    lines += [f"- {name}: {value}" for name, value in facts]
    for section in parts:
        lines += ["", f"## {section.heading}"]
        for part in section.parts:
            match part:
                case Table():
                    lines += ["", *_markdown_table(part)]
                case Prose():
                    lines += ["", part.text]
                case Points():
                    lines += ["", *(f"- **{heading}** {text}" for heading, text in part.items)]
                case Gallery():
                    lines += ["", f"{part.heading}: {part.caption}"]
                case Figures():
                    continue  # their numbers stand in the tables
    return "\n".join(lines) + "\n"


def _markdown_table(table: Table) -> list[str]:
    names = [f"{c.group}: {c.name}" if c.group else c.name for c in table.columns]
    lines = [_markdown_row(names), _markdown_row(["--:" if c.is_number else "---" for c in table.columns])]
    lines += [_markdown_row([_markdown_cell(cell) for cell in row]) for row in table.rows]
    return [table.caption, "", *lines]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = f"`{cell.text}`" if cell.tone == "code" else cell.text
    shown = f"{text} ({cell.note})" if cell.note and text else text or cell.note
    return shown.replace("|", "\\|").replace("\n", " ")
