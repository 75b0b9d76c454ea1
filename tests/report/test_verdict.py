"""The verdict's words follow from the intervals."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components.core.evaluation.intervals import PairedDifference
from components.report.comparisons import Comparison
from components.report.verdict import expected_sign, verdict


def _found(difference: float, half: float = 0.03) -> PairedDifference:
    return PairedDifference(difference, difference - half, difference + half, 500, 0.01)


def _verdict(probe: dict[str, float], vmc: dict[str, float], first: str = "clip", other: str = "dino") -> list[str]:
    arms = [SimpleNamespace(name=name, checkpoint=SimpleNamespace(params={"seed": 3})) for name in (first, other)]
    right: Any = {factor: np.ones(500, bool) for factor in probe}
    lead = SimpleNamespace(**vars(arms[0]), is_right=right, answers=[{}] * 900)
    study: Any = SimpleNamespace(arms=arms, first=lead, confidence=0.95)
    of = [{name: _found(value) for name, value in values.items()} for values in (probe, vmc)]
    return verdict(study, [Comparison(first, other, of[0], of[1], {})])


def test_a_lead_is_named_with_its_interval_and_the_papers_direction() -> None:
    text, elsewhere = _verdict({"word": 0.312, "object": 0.01, "colour": -0.2}, {"ocr": 0.1, "general": 0.0})
    assert "CLIP is ahead of DINO by 31.2 points in the linear probe of word (95\u202f% interval 28.2 to 34.2)" in text
    assert "by 10.0 points in the ocr questions (7.0 to 13.0), which is the paper's direction (CLIP ahead)." in text
    assert elsewhere.startswith("On object, no difference shows (\u22122.0 to 4.0 points); ")
    assert "DINO leads on colour (20.0)" in elsewhere and "neither arm leads on general" in elsewhere
    assert elsewhere.endswith("(n = 500 pictures and 900 questions, seed 3).")


def test_no_difference_is_said_to_be_none() -> None:
    text, _ = _verdict({"word": 0.01}, {"ocr": -0.02})
    assert text == (
        "On text, no difference between CLIP and DINO shows in the linear probe of word (95\u202f% interval "
        "\u22122.0 to 4.0 points) and in the ocr questions (\u22125.0 to 1.0 points), so the paper's direction (CLIP "
        "ahead) is not found."
    )


@pytest.mark.parametrize(
    ("word", "ocr", "words"),
    [
        (-0.3, -0.1, "which contradicts the paper's direction (CLIP ahead)."),
        (-0.3, 0.1, "which contradicts the paper's direction (CLIP ahead) in part."),
        (0.3, 0.0, "which is the paper's direction (CLIP ahead) in part."),
    ],
)
def test_the_papers_direction_is_not_claimed_where_it_was_not_found(word: float, ocr: float, words: str) -> None:
    text, _ = _verdict({"word": word}, {"ocr": ocr})
    assert text.endswith(words)
    assert ("DINO is ahead of CLIP by 30.0 points" in text) == (word < 0)


def test_the_order_of_the_arms_changes_signs_and_not_the_meaning() -> None:
    there, _ = _verdict({"word": 0.3}, {})
    back, _ = _verdict({"word": -0.3}, {}, first="dino", other="clip")
    assert there == back


def test_the_paper_gives_no_direction_for_arms_of_one_kind() -> None:
    empty: dict[str, PairedDifference] = {}
    assert expected_sign(Comparison("clip", "siglip", empty, empty, empty)) == 0
    assert expected_sign(Comparison("dino", "clip_lm", empty, empty, empty)) == -1
    assert expected_sign(Comparison("clip", "mine", empty, empty, empty)) == 0


def test_without_text_the_claim_is_left_open() -> None:
    first, second = _verdict({"category": -0.1}, {"general": 0.0})
    lead = "DINO is ahead of CLIP by 10.0 points in the linear probe of category (95\u202f% interval 7.0 to 13.0)"
    assert first.startswith(lead)
    assert "no difference shows in the general questions" in first and "left open" in second


def test_every_verdict_is_two_sentences() -> None:
    for probe in ({"word": 0.3}, {"category": 0.3}, {"object": 0.0, "word": 0.0}):
        sentences = _verdict(probe, {})
        assert len(sentences) == 2 and all(s.endswith(".") and "  " not in s for s in sentences)
