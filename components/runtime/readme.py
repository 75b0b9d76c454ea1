"""Writes each stage's parameter table into its README: `python -m components.runtime.readme`."""

import importlib
from pathlib import Path

from components.runtime.params import StageParams, table

COMPONENTS = Path(__file__).parents[1]
MARKER = "<!-- parameters -->\n"


def stages() -> list[str]:
    """Returns the names of all stages, sorted."""
    return sorted(path.parent.name for path in COMPONENTS.glob("*/params.py") if path.parent.name != "runtime")


def params_of(stage: str) -> type[StageParams]:
    """Returns the parameters' class of a stage."""
    return importlib.import_module(f"components.{stage}.params").Params


def with_table(readme: str, params: type[StageParams]) -> str:
    """Returns the README with its table as it should be: all that follows the marker."""
    head, marker, _ = readme.partition(MARKER)
    if not marker:
        raise ValueError(f"the README of {params.stage_name()} has no line '{MARKER.strip()}': add it at the end.")
    return f"{head}{marker}\n{table(params)}"


def main() -> None:
    """Rewrites the tables of all stages."""
    for stage in stages():
        path = COMPONENTS / stage / "README.md"
        path.write_text(with_table(path.read_text(), params_of(stage)))
        print(f"wrote the parameters of {stage}")


if __name__ == "__main__":
    main()
