"""Which of the inputs become samples: a pure function of all rows in the source's order.

Each rule keeps the first input in the source's order and drops what comes later, so that a decision never depends on
inputs behind it. That makes the cut at `num_samples` the same however many items were read beyond it.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray

from components.core.data.near_duplicates import NearDuplicates

DUPLICATES = ("duplicate", "duplicate_key", "near_duplicate")
EXCLUDED = "in_evaluation"
UNUSED = "unused"  # good, but of the other split
SPLITS = {"pretrain": ("train",), "instruct": ("train",), "probe": ("train", "test"), "benchmark": ("test",)}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What decides; see build_shards' parameters.

    Attributes:
        is_published: The rows are a published set's: equal pictures stay, and its test split is whole.
        excluded_sha256: Hashes of pixels that belong to an evaluation, 16 bytes each.
        excluded_dhash: Their perceptual hashes.
    """

    purpose: str
    num_samples: int
    test_fraction: float
    seed: int
    unique_keys: bool
    near_duplicate_bits: int
    is_published: bool = False
    excluded_sha256: frozenset[bytes] = frozenset()
    excluded_dhash: tuple[int, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What was decided of the first rows of the source.

    Attributes:
        rows: The rows looked at, with their item's number: all up to the last sample that is needed.
        reasons: Per row why it is left out; empty: it is a sample.
        is_test: Per row whether it belongs to the test split.
    """

    rows: pyarrow.Table
    reasons: NDArray[numpy.object_]
    is_test: NDArray[numpy.bool_]

    @functools.cached_property
    def kept(self) -> NDArray[numpy.int64]:
        """The numbers of the rows that are samples."""
        return numpy.flatnonzero(self.reasons == "")


def decide(rows: pyarrow.Table, rules: Rules) -> Decision:
    """Applies the rules to the rows, which begin with the source's first one."""
    reasons = numpy.array(rows["reason"].cast(pyarrow.string()).to_pylist(), dtype=object)
    hashes = rows["sha256"].to_pylist()
    is_test = _is_test(rows, hashes, rules)
    if not rules.is_published:
        _drop_equal(reasons, rows, rules)
    may_be_excluded = ~is_test if rules.is_published else numpy.ones(len(reasons), dtype=bool)
    if rules.excluded_sha256:
        is_excluded = numpy.array([sha256 in rules.excluded_sha256 for sha256 in hashes], dtype=bool)
        reasons[(reasons == "") & is_excluded & may_be_excluded] = EXCLUDED
    if rules.near_duplicate_bits:
        _drop_near(reasons, rows["dhash"].to_pylist(), rules, may_be_excluded)
    allowed = SPLITS[rules.purpose]
    is_other = numpy.where(is_test, "test" not in allowed, "train" not in allowed)
    reasons[(reasons == "") & is_other] = UNUSED
    kept = numpy.flatnonzero(reasons == "")
    end = int(kept[rules.num_samples - 1]) + 1 if len(kept) >= rules.num_samples else len(reasons)
    return Decision(rows.slice(0, end), reasons[:end], is_test[:end])


def repeats(decision: Decision) -> dict[str, int]:
    """Returns how many samples have the pixels of another one before them in their split, or of one to train on."""
    numbers = _numbers(decision.rows["sha256"])[decision.kept]
    is_test = decision.is_test[decision.kept]
    train, test = numbers[~is_test], numbers[is_test]
    return {
        "train": len(train) - len(numpy.unique(train)),
        "test": len(test) - len(numpy.unique(test)),
        "test_in_train": int(numpy.isin(test, train).sum()),
    }


def _numbers(column: pyarrow.ChunkedArray) -> NDArray[numpy.int64]:
    """Returns a number for each value of a column, equal for equal values."""
    return column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(numpy.int64)


def _drop_equal(reasons: NDArray[numpy.object_], rows: pyarrow.Table, rules: Rules) -> None:
    if rules.unique_keys:
        is_keyed = numpy.array(pyarrow.compute.not_equal(rows["key"], "").to_pylist(), dtype=bool)
        _drop_later(reasons, _numbers(rows["key"]), "duplicate_key", is_keyed)
    _drop_later(reasons, _numbers(rows["sha256"]), "duplicate", numpy.ones(len(reasons), dtype=bool))


def _drop_later(
    reasons: NDArray[numpy.object_], values: NDArray[numpy.int64], reason: str, applies: NDArray[numpy.bool_]
) -> None:
    candidates = numpy.flatnonzero((reasons == "") & applies)
    _, first = numpy.unique(values[candidates], return_index=True)
    is_later = numpy.ones(len(candidates), dtype=bool)
    is_later[first] = False
    reasons[candidates[is_later]] = reason


def _drop_near(
    reasons: NDArray[numpy.object_], dhashes: Sequence[int], rules: Rules, may_be_excluded: NDArray[numpy.bool_]
) -> None:
    excluded = NearDuplicates(rules.near_duplicate_bits - 1)
    for dhash in rules.excluded_dhash:
        excluded.add(dhash)
    seen = NearDuplicates(rules.near_duplicate_bits - 1)
    for number in numpy.flatnonzero(reasons == "").tolist():
        if may_be_excluded[number] and excluded.has_near(dhashes[number]):
            reasons[number] = EXCLUDED
        elif rules.is_published:
            continue
        elif seen.has_near(dhashes[number]):
            reasons[number] = "near_duplicate"
        else:
            seen.add(dhashes[number])


def _is_test(rows: pyarrow.Table, hashes: Sequence[bytes], rules: Rules) -> NDArray[numpy.bool_]:
    """Returns per row whether it is of the test split: as the source says, else by its pixels and the seed."""
    splits = numpy.array(rows["split"].cast(pyarrow.string()).to_pylist(), dtype=object)
    is_test = splits == "test"
    for number in numpy.flatnonzero(splits == "").tolist():
        digest = hashlib.sha256(f"{rules.seed} {hashes[number].hex()}".encode()).hexdigest()
        is_test[number] = int(digest[:12], 16) / 16**12 < rules.test_fraction
    return is_test
