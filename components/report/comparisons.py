"""Paired differences between the first arm and another: probe by factor, benchmark by group and by set."""

import dataclasses

import numpy as np

from components.core.evaluation.intervals import PairedDifference, paired_difference
from components.report.study import Arm, Study


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The first arm minus another, over the same pictures and questions."""

    first: str
    other: str
    probe: dict[str, PairedDifference]
    vmc: dict[str, PairedDifference]
    vmc_sets: dict[str, PairedDifference]


def compare(study: Study) -> list[Comparison]:
    """Returns the comparison of the first arm to each other one."""
    return [
        Comparison(
            first=study.first.name,
            other=other.name,
            probe={
                factor: paired_difference(study.first.is_right[factor], other.is_right[factor], study.confidence)
                for factor in study.factors
            },
            vmc=_answers(study, other, "group", study.groups),
            vmc_sets=_answers(study, other, "category", study.sets),
        )
        for other in study.others
    ]


def _answers(study: Study, other: Arm, key: str, names: list[str]) -> dict[str, PairedDifference]:
    of_item = np.array([answer[key] for answer in study.first.answers])
    first, second = (np.array([bool(a["is_correct"]) for a in arm.answers]) for arm in (study.first, other))
    chosen = {name: of_item == name for name in names}
    return {
        name: paired_difference(first[mask], second[mask], study.confidence)
        for name, mask in chosen.items()
        if mask.any()
    }
