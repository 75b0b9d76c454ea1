# S runs, N items (pictures or questions).
"""Which items every run has right: read from predictions and answers, and lined up by the items' ids."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from components.runtime.errors import BadInput
from components.runtime.storage import Folder

PICTURE_KINDS = ("probe", "logistic", "knn", "zero_shot")
QUESTION_KINDS = {"vmc": "group", "vmc_sets": "category"}
KINDS = (*PICTURE_KINDS, *QUESTION_KINDS)
TOTAL = ("vmc_micro", "all")  # all questions together, the mean over questions
FILE = "outcomes.safetensors"
SCHEMA = 2  # of results.json, which says what the file holds
REPORTED_K = 20  # DINO's protocol reports 20 neighbours


@dataclasses.dataclass(frozen=True)
class Marked:
    """What one run made of one test: by item its id, what is true of it, and whether the run has it right."""

    ids_N: np.ndarray
    truth_N: np.ndarray
    is_right_N: np.ndarray
    chance: float
    data: str


@dataclasses.dataclass(frozen=True)
class Tested:
    """One test of all arms, over the items that all their runs have in common.

    Attributes:
        ids_N: int64 ids, ascending.
        right: Per arm, which items each run has right, bool [S, N].
        chance: Accuracy of guessing.
        data: Digest of the shards or of the benchmark.
        num_left_out: Items that some runs lack.
    """

    ids_N: np.ndarray
    right: dict[str, np.ndarray]
    chance: float
    data: str
    num_left_out: int


MarkedTests = dict[tuple[str, str], Marked]  # by kind and name
Tests = dict[str, dict[str, Tested]]  # by kind, then name


def neighbours(scores_of_factor: Mapping[str, Any]) -> str:
    """Returns which k stands for k-NN: 20, or the largest below where there are fewer training pictures."""
    usable = [k for k in scores_of_factor if int(k) <= REPORTED_K]
    return max(usable or scores_of_factor, key=int)


def marked_pictures(
    scores: Mapping[str, Any], predictions: Mapping[str, np.ndarray], data: str, whose: str
) -> MarkedTests:
    """Returns what a run made of every labelled picture, by kind of test and factor.

    Args:
        scores: The content of evaluate's scores.json.
        predictions: The tensors of its predictions.safetensors.
        data: Digest of the shards that were tested on.
        whose: The run, for messages.

    Raises:
        BadInput: The predictions don't give the stated accuracy.
    """
    found: MarkedTests = {}
    for kind in PICTURE_KINDS:
        for factor, of_factor in scores.get(kind, {}).items():
            stated = of_factor[neighbours(of_factor)] if kind == "knn" else of_factor
            labels = predictions[f"labels/{factor}"]
            is_right = predictions[f"{kind}/{factor}"] == labels
            if not len(is_right) or abs(is_right.mean() - stated["accuracy"]) > 1e-4:
                raise BadInput(
                    f"--evaluations: the {kind} predictions of {whose} for {factor} don't give its accuracy of "
                    f"{stated['accuracy']:.4f}: delete that folder and run evaluate again."
                )
            found[kind, factor] = Marked(predictions[f"ids/{factor}"], labels, is_right, stated["chance"], data)
    return found


def marked_questions(scores: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], data: str) -> MarkedTests:
    """Returns what a run made of every question, by group, by set and of all together."""
    ids = np.array([_question_id(answer["index"]) for answer in answers], np.int64)
    truth = np.array([ord(answer["answer"]) for answer in answers], np.int64)
    is_right = np.array([bool(answer["is_correct"]) for answer in answers])
    found = {TOTAL: Marked(ids, truth, is_right, scores["micro"]["chance"], data)}
    for kind, field in QUESTION_KINDS.items():
        of_item = np.array([answer[field] for answer in answers])
        for name, stated in scores["groups" if kind == "vmc" else "sets"].items():
            chosen = of_item == name
            found[kind, name] = Marked(ids[chosen], truth[chosen], is_right[chosen], stated["chance"], data)
    return found


def lined_up(runs: Mapping[str, Sequence[MarkedTests]]) -> Tests:
    """Returns every test of the arms that have it, over the items that all their runs share.

    Args:
        runs: Per arm, what each of its runs made of every test; all runs of an arm have the same tests.

    Raises:
        BadInput: Runs were tested on other data, disagree on what is true of an item, or share none.
    """
    tests: Tests = {}
    for kind, name in dict.fromkeys(test for of_arm in runs.values() for test in of_arm[0]):
        of = {arm: [run[kind, name] for run in of_arm] for arm, of_arm in runs.items() if (kind, name) in of_arm[0]}
        tests.setdefault(kind, {})[name] = _shared(of, f"{kind} of {name}")
    return tests


def write_outcomes(folder: Folder, tests: Tests) -> None:
    """Writes `<arm>/<kind>/<name>` uint8 [S, N] and `ids/<kind>/<name>` int64 [N]."""
    tensors: dict[str, np.ndarray] = {}
    for kind, of_kind in tests.items():
        for name, tested in of_kind.items():
            tensors[f"ids/{kind}/{name}"] = tested.ids_N
            tensors |= {f"{arm}/{kind}/{name}": right.astype(np.uint8) for arm, right in tested.right.items()}
    folder.write(FILE, safetensors.numpy.save(tensors))


def describe_outcomes(tests: Tests) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns what each test was made on, by kind and name, as results.json has it."""
    return {
        kind: {
            name: {
                "data": tested.data,
                "ids_sha256": hashlib.sha256(np.ascontiguousarray(tested.ids_N, np.int64).tobytes()).hexdigest(),
                "n": len(tested.ids_N),
                "num_left_out": tested.num_left_out,
                "chance": tested.chance,
            }
            for name, tested in of_kind.items()
        }
        for kind, of_kind in tests.items()
    }


def read_outcomes(folder: Folder, described: Mapping[str, Mapping[str, Any]], arms: Sequence[str]) -> Tests:
    """Returns what `write_outcomes` wrote, and `describe_outcomes` says of it."""
    tensors = safetensors.numpy.load(folder.read(FILE))
    return {
        kind: {
            name: Tested(
                ids_N=tensors[f"ids/{kind}/{name}"],
                right={
                    arm: tensors[f"{arm}/{kind}/{name}"].astype(bool)
                    for arm in arms
                    if f"{arm}/{kind}/{name}" in tensors
                },
                chance=facts["chance"],
                data=facts["data"],
                num_left_out=facts["num_left_out"],
            )
            for name, facts in of_kind.items()
        }
        for kind, of_kind in described.items()
    }


def _shared(of: Mapping[str, Sequence[Marked]], what: str) -> Tested:
    every = [marked for runs in of.values() for marked in runs]
    if len({marked.data for marked in every}) > 1:
        raise BadInput(
            f"The {what} of {', '.join(of)} is over different data: give results of evaluate and benchmark_vlm over "
            "the same shards and the same benchmark."
        )
    ids_N = every[0].ids_N
    for marked in every:
        if len(np.unique(marked.ids_N)) != len(marked.ids_N):
            raise BadInput(f"The {what} has an item twice: delete the folder that holds it and run its stage again.")
        ids_N = np.intersect1d(ids_N, marked.ids_N)
    if not len(ids_N):
        raise BadInput(f"The {what} of {', '.join(of)} has no item in common: test every encoder on the same items.")
    truth_N = _at(every[0], ids_N, every[0].truth_N)
    for marked in every[1:]:
        differs_N = _at(marked, ids_N, marked.truth_N) != truth_N
        if differs_N.any():
            raise BadInput(
                f"The {what} has different answers for item {ids_N[differs_N][0]}: "
                "test every encoder on the same items."
            )
    return Tested(
        ids_N=ids_N,
        right={arm: np.stack([_at(m, ids_N, m.is_right_N) for m in runs]) for arm, runs in of.items()},
        chance=every[0].chance,
        data=every[0].data,
        num_left_out=len(_union(marked.ids_N for marked in every)) - len(ids_N),
    )


def _at(marked: Marked, ids_N: np.ndarray, values_N: np.ndarray) -> np.ndarray:
    """Returns the values of these ids, which the run has all."""
    order = np.argsort(marked.ids_N)
    return values_N[order[np.searchsorted(marked.ids_N, ids_N, sorter=order)]]


def _union(ids: Iterable[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(list(ids)))


def _question_id(index: Any) -> int:
    """Returns a question's index; one that is no number gives 63 bits of its sha256."""
    text = str(index)
    if text.isdecimal() and len(text) < 19:
        return int(text)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
