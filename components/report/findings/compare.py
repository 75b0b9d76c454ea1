"""Another study beside this one: every arm that both have, this study's minus the other's."""

import dataclasses
from typing import Any

import numpy as np

from components.core.evaluation.seeds import Difference, unpaired_difference
from components.report.findings.outcomes import FILE, SCHEMA, Tested, read_outcomes
from components.report.study import Study
from components.runtime.errors import BadInput
from components.runtime.manifest import Manifest
from components.runtime.stage import Stage
from components.runtime.storage import Folder

FIELD = "compare"


@dataclasses.dataclass(frozen=True)
class Compared:
    """This study minus another.

    Attributes:
        title: The other report's headline.
        uri: Where it lies.
        digest: Of its manifest.
        differences: Per arm that both have, by kind and name; the runs are unpaired, for the studies' seeds are others.
        unpaired: The kinds and names of which the items are unpaired as well, because the other study was tested on
            other ones.
        only_here: Arms that the other study lacks.
        only_there: Arms that this study lacks.
    """

    title: str
    uri: str
    digest: str
    differences: dict[str, dict[str, dict[str, Difference]]]
    unpaired: list[tuple[str, str]]
    only_here: list[str]
    only_there: list[str]

    @property
    def is_paired(self) -> bool:
        """Returns whether both studies were tested on the same items throughout."""
        return not self.unpaired

    @property
    def covers_seeds(self) -> bool:
        """Returns whether the intervals say how far other seeds would move the differences."""
        found = [d for of_arm in self.differences.values() for of_kind in of_arm.values() for d in of_kind.values()]
        return bool(found) and all(difference.covers_seeds for difference in found)


def compare_to(study: Study, stage: Stage) -> Compared | None:
    """Returns this study beside the one of `--compare`, or None where none is given.

    Raises:
        BadInput: The address holds no report, or one of another version.
    """
    if FIELD not in stage.inputs:
        return None
    folder, manifest = stage.folder(FIELD), stage.inputs[FIELD]
    theirs = _results(folder, manifest)
    others = read_outcomes(folder, theirs["items"], list(theirs["arms"]))
    arms = [arm.name for arm in study.arms]
    differences: dict[str, dict[str, dict[str, Difference]]] = {arm: {} for arm in arms if arm in theirs["arms"]}
    unpaired = []
    for kind, of_kind in study.tests.items():
        for name, here in of_kind.items():
            there = others.get(kind, {}).get(name)
            if there is None:
                continue
            shared = [arm for arm in differences if arm in here.right and arm in there.right]
            is_paired = _has_same_items(here, there)
            for arm in shared:
                found = _difference(here, there, arm, is_paired, study.confidence)
                differences[arm].setdefault(kind, {})[name] = found
            if shared and not is_paired:
                unpaired.append((kind, name))
    return Compared(
        title=manifest.params["title"],
        uri=folder.uri,
        digest=manifest.digest,
        differences=differences,
        unpaired=unpaired,
        only_here=[arm for arm in arms if arm not in theirs["arms"]],
        only_there=[arm for arm in theirs["arms"] if arm not in arms],
    )


def _results(folder: Folder, manifest: Manifest) -> dict[str, Any]:
    if manifest.stage != "report":
        raise BadInput(
            f"--{FIELD}={folder.uri} was written by {manifest.stage}: give the folder of another study's report."
        )
    results = folder.read_json("results.json")
    if results.get("schema") != SCHEMA or FILE not in manifest.files:
        raise BadInput(
            f"--{FIELD}={folder.uri} holds results of schema {results.get('schema')}, this version compares "
            f"{SCHEMA}: write that report again with this version of Ceteris."
        )
    return results


def _has_same_items(here: Tested, there: Tested) -> bool:
    is_same_data = here.data == there.data != ""
    return is_same_data and len(np.intersect1d(here.ids_N, there.ids_N)) > 0


def _difference(here: Tested, there: Tested, arm: str, is_paired: bool, confidence: float) -> Difference:
    first_SN, second_TM = here.right[arm], there.right[arm]
    if is_paired:  # ids are ascending, and so are the places that intersect1d returns
        _, at_here, at_there = np.intersect1d(here.ids_N, there.ids_N, return_indices=True)
        first_SN, second_TM = first_SN[:, at_here], second_TM[:, at_there]
    return unpaired_difference(first_SN, second_TM, is_paired, confidence)
