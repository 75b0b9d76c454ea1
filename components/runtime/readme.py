"""Writes each stage's parameters and the table of metrics into READMEs: `python -m components.runtime.readme`."""

import importlib
from pathlib import Path

from components.runtime import metric_table
from components.runtime.params import StageParams, table

COMPONENTS = Path(__file__).parents[1]
MARKER = "<!-- parameters -->\n"
METRICS_MARKER = "<!-- metrics -->\n"
METRICS_README = COMPONENTS / "runtime" / "README.md"


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


def with_metrics(readme: str) -> str:
    """Returns the README with the table of metrics as it should be: all that follows its marker."""
    head, marker, _ = readme.partition(METRICS_MARKER)
    assert marker, f"no line '{METRICS_MARKER.strip()}'"
    return f"{head}{marker}\n{metric_table.markdown()}"


def main() -> None:
    """Rewrites the tables of all stages, and the one of the metrics."""
    for stage in stages():
        path = COMPONENTS / stage / "README.md"
        path.write_text(with_table(path.read_text(), params_of(stage)))
        print(f"wrote the parameters of {stage}")
    METRICS_README.write_text(with_metrics(METRICS_README.read_text()))
    print("wrote the metrics")


if __name__ == "__main__":
    main()
