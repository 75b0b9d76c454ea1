"""Writes the chart's table of values and its schema's descriptions from the comments in values.yaml.

python -m charts.readme
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from components.launch.gang import POOL_KEYS

CHART = Path(__file__).parent / "ceteris"
MARKER = "<!-- values -->\n"
SIGN = "# -- "


@dataclasses.dataclass(frozen=True)
class Value:
    """A value of the chart: where it stands, what is said of it, and its default."""

    path: tuple[str, ...]
    text: str
    default: Any


def values_of(source: str) -> Iterator[Value]:
    """Yields the values that a comment with `# --` stands above, in order."""
    tree = yaml.safe_load(source)
    outer: list[tuple[int, str]] = []
    said: list[str] = []
    for line in source.splitlines():
        bare = line.strip()
        if bare.startswith(SIGN):
            said = [bare.removeprefix(SIGN)]
        elif bare.startswith("#"):
            said = [*said, bare.removeprefix("# ")] if said else said
        elif bare and not bare.startswith("- "):
            depth = len(line) - len(line.lstrip())
            outer = [(d, name) for d, name in outer if d < depth] + [(depth, bare.partition(":")[0])]
            path = tuple(name for _, name in outer)
            if said:
                yield Value(path, " ".join(said), _at(tree, path))
            said = []


def undocumented(tree: Any, known: set[tuple[str, ...]], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields the values of a tree that neither have a comment nor belong to one that has."""
    if path in known:
        return
    if isinstance(tree, dict) and tree:
        for name, inner in tree.items():
            yield from undocumented(inner, known, (*path, name))
    else:
        yield ".".join(path)


def with_table(readme: str, source: str) -> str:
    """Returns the README with its table as it should be: all that follows the marker."""
    head, marker, _ = readme.partition(MARKER)
    if not marker:
        raise ValueError(f"the chart's README has no line '{MARKER.strip()}': add it at the end.")
    rows = [f"| `{'.'.join(v.path)}` | `{_shown(v.default)}` | {v.text} |" for v in values_of(source)]
    return "\n".join([f"{head}{marker}", "| value | default | what it is |", "|---|---|---|", *rows, ""])


def with_descriptions(schema: str, source: str) -> str:
    """Returns the schema with the comments as descriptions, and the node pools' fields as the launcher has them."""
    tree = json.loads(schema)
    for value in values_of(source):
        inner = tree
        for name in value.path:
            inner = inner["properties"][name]
        inner["description"] = value.text
    for pool in tree["properties"]["pools"]["properties"].values():
        for name, field in pool["properties"].items():
            text = POOL_KEYS[name].metadata["help"]
            field["description"] = text[:1].upper() + text[1:]
    return json.dumps(tree, indent=2) + "\n"


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _shown(value: Any) -> str:
    return json.dumps(value).replace("|", "\\|")


def main() -> None:
    """Rewrites the table and the descriptions."""
    source = (CHART / "values.yaml").read_text()
    for name, write in (("README.md", with_table), ("values.schema.json", with_descriptions)):
        path = CHART / name
        path.write_text(write(path.read_text(), source))
        print(f"wrote {path.relative_to(CHART.parents[1])}")


if __name__ == "__main__":
    main()
