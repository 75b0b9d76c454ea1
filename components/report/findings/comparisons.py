"""Differences between the first arm and another, replicate by replicate and item by item."""

import dataclasses

from components.core.evaluation.seeds import Difference, paired_difference
from components.report.findings.outcomes import KINDS, TOTAL
from components.report.study import Study


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The first arm minus another, over the same pictures and questions; by kind and name."""

    first: str
    other: str
    differences: dict[str, dict[str, Difference]]


def compare(study: Study) -> list[Comparison]:
    """Returns the comparison of the first arm to each other one, for each test that both were given."""
    first = study.first.name
    return [
        Comparison(
            first=first,
            other=other.name,
            differences={
                kind: {
                    name: paired_difference(tested.right[first], tested.right[other.name], study.confidence)
                    for name, tested in study.tests.get(kind, {}).items()
                    if {first, other.name} <= tested.right.keys()
                }
                for kind in (*KINDS, TOTAL[0])
            },
        )
        for other in study.others
    ]
