"""Which inputs become samples."""

import collections
import hashlib
import itertools

import numpy
import pyarrow
import pytest

from components.build_shards.decide import Decision, Rules, decide
from components.build_shards.rows import SCHEMA, Row

RULES = {
    "purpose": "pretrain",
    "num_samples": 1000,
    "test_fraction": 0.25,
    "seed": 0,
    "unique_keys": True,
    "near_duplicate_bits": 0,
}


def picture(name: str, **facts: object) -> Row:
    return Row(name=name, **({"sha256": hashlib.sha256(name.encode()).digest()[:16]} | facts))


def decided(rows: list[Row], **rules: object) -> Decision:
    table = pyarrow.Table.from_pylist([row.__dict__ for row in rows], schema=SCHEMA)
    return decide(table, Rules(**(RULES | rules)))


def reasons(rows: list[Row], **rules: object) -> dict[str, str]:
    decision = decided(rows, purpose="probe", **rules)
    return dict(zip(decision.rows["name"].to_pylist(), decision.reasons.tolist(), strict=True))


SAME = {"sha256": b"s" * 16}


def test_the_first_of_equal_pictures_wins_and_a_rejected_one_does_not_count() -> None:
    rows = [picture("broken", reason="decode", **SAME), picture("b", **SAME), picture("a"), picture("c", **SAME)]
    assert reasons(rows) == {"broken": "decode", "b": "", "a": "", "c": "duplicate"}


def test_the_first_of_equal_keys_wins_unless_keys_start_anew() -> None:
    rows = [picture("1.tar/k", key="k"), picture("2.tar/k", key="k"), picture("without"), picture("without either")]
    assert reasons(rows)["2.tar/k"] == "duplicate_key"
    assert set(reasons(rows, unique_keys=False).values()) == {""}
    assert [reasons(rows)[name] for name in ("without", "without either")] == ["", ""]


def test_evaluation_pictures_are_left_out_by_pixels_and_by_looks() -> None:
    rows = [picture("same", **SAME), picture("alike", dhash=0b111), picture("other", dhash=0xFFFF)]
    found = reasons(rows, excluded_sha256=frozenset([b"s" * 16]), excluded_dhash=(0b011,), near_duplicate_bits=2)
    assert found == {"same": "in_evaluation", "alike": "in_evaluation", "other": ""}


def test_near_duplicates_differ_in_fewer_bits_than_asked() -> None:
    rows = [picture("a", dhash=0b0001), picture("b", dhash=0b0011), picture("c", dhash=0b1111)]
    assert reasons(rows) == {"a": "", "b": "", "c": ""}
    assert reasons(rows, near_duplicate_bits=2) == {"a": "", "b": "near_duplicate", "c": ""}


@pytest.mark.parametrize("purpose", ["pretrain", "probe", "benchmark"])
def test_every_input_is_accounted_for_and_the_cut_does_not_depend_on_what_follows(purpose: str) -> None:
    rng = numpy.random.default_rng(0)
    rows = [
        picture(
            f"{n:03d}",
            sha256=bytes([int(rng.integers(200))]) * 16,
            key=f"{rng.integers(300)}",
            reason="decode" if n % 11 == 0 else "",
            dhash=int(rng.integers(2**63)),
        )
        for n in range(300)
    ]
    whole = decided(rows, purpose=purpose, num_samples=20, near_duplicate_bits=4)
    assert sum(collections.Counter(whole.reasons.tolist()).values()) == len(whole.rows)
    assert len(whole.kept) == 20 and whole.kept[-1] == len(whole.rows) - 1
    for more in itertools.islice(range(len(whole.rows), 300), 0, None, 37):
        part = decided(rows[:more], purpose=purpose, num_samples=20, near_duplicate_bits=4)
        assert part.reasons.tolist() == whole.reasons.tolist()


def test_train_and_test_never_share_a_picture() -> None:
    rows = [picture(f"{n}") for n in range(400)]
    train, both, test = (decided(rows, purpose=p) for p in ("pretrain", "probe", "benchmark"))
    assert set(train.kept) | set(test.kept) == set(both.kept) == set(range(400))
    assert not set(train.kept) & set(test.kept)
    assert 60 < len(test.kept) < 140 and set(numpy.flatnonzero(both.is_test)) == set(test.kept)
