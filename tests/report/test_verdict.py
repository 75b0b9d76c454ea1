"""The verdict's words follow from the intervals."""

import re
from collections.abc import Mapping

import numpy as np
import pytest

from components.core.evaluation.seeds import Difference
from components.report.findings.comparisons import Comparison
from components.report.findings.verdict import expected_sign, verdict
from components.report.wording import arm_name

Numbers = Mapping[str, float]
NUM_PICTURES, NUM_QUESTIONS = 500, 300


def _found(difference: float, n: int, num_runs: int, half: float = 0.03) -> Difference:
    return Difference(difference, difference - half, difference + half, n, num_runs, 0.01, [difference] * num_runs)


def _comparison(probe: Numbers, vmc: Numbers, first: str = "clip", other: str = "dino", runs: int = 1) -> Comparison:
    kinds = {"probe": (probe, NUM_PICTURES), "vmc": (vmc, NUM_QUESTIONS)}
    of = {kind: {name: _found(v, n, runs) for name, v in values.items()} for kind, (values, n) in kinds.items()}
    return Comparison(first, other, of)


def _verdict(probe: Numbers, vmc: Numbers, first: str = "clip", other: str = "dino", runs: int = 1) -> list[str]:
    return verdict([_comparison(probe, vmc, first, other, runs)], 0.95)


def test_a_lead_is_named_with_its_interval_and_the_papers_direction() -> None:
    text, paper, elsewhere, covered = _verdict(
        {"word": 0.312, "object": 0.01, "colour": -0.2}, {"ocr": 0.1, "general": 0.0, "reasoning": 0.2}, runs=3
    )
    assert text == (
        "On text, CLIP is ahead of DINO by 31.2 points in the linear probe of word (95\u202f% interval 28.2 to 34.2) "
        "and by 10.0 points in the ocr questions (7.0 to 13.0)."
    )
    assert paper == "This is the paper's direction (CLIP ahead)."
    assert elsewhere == (
        "Elsewhere, no difference between CLIP and DINO shows in the linear probe of object (\u22122.0 to 4.0 points); "
        "in the other probes DINO leads on colour (20.0); in the other questions CLIP leads on reasoning (20.0) and "
        "neither on general."
    )
    assert covered == "The intervals are over 3 seeds, 500 pictures and 900 questions."


def test_one_run_of_each_is_said_to_leave_the_seeds_open() -> None:
    assert _verdict({"word": 0.3}, {"ocr": 0.1})[-1] == (
        "This compares these two runs: the intervals are over 500 pictures and 300 questions, and how far another seed "
        "alone would move the numbers is not known."
    )
    three = verdict([_comparison({"word": 0.3}, {}, other=other) for other in ("dino", "slip")], 0.95)
    assert three[-1].startswith("This compares these 3 runs, one of each arm: the intervals are over 500 pictures")


def test_no_difference_is_said_to_be_none() -> None:
    text, paper, _ = _verdict({"word": 0.01}, {"ocr": -0.02})
    assert text == (
        "On text, no difference between CLIP and DINO shows in the linear probe of word (95\u202f% interval "
        "\u22122.0 to 4.0 points) and in the ocr questions (\u22125.0 to 1.0 points)."
    )
    assert paper == "The paper's direction (CLIP ahead) is not found."


@pytest.mark.parametrize(
    ("word", "ocr", "words"),
    [
        (-0.3, -0.1, "This contradicts the paper's direction (CLIP ahead)."),
        (-0.3, 0.1, "This contradicts the paper's direction (CLIP ahead) in part."),
        (-0.3, 0.0, "This contradicts the paper's direction (CLIP ahead) in part."),
        (0.3, 0.0, "This is the paper's direction (CLIP ahead) in part."),
    ],
)
def test_the_papers_direction_is_not_claimed_where_it_was_not_found(word: float, ocr: float, words: str) -> None:
    text, paper, _ = _verdict({"word": word}, {"ocr": ocr})
    assert paper == words
    assert ("DINO is ahead of CLIP by 30.0 points" in text) == (word < 0)


def test_the_order_of_the_arms_changes_signs_and_not_the_meaning() -> None:
    there = _verdict({"word": 0.3, "object": -0.2}, {})
    back = _verdict({"word": -0.3, "object": 0.2}, {}, first="dino", other="clip")
    assert there == back


def test_the_paper_gives_no_direction_for_arms_of_one_kind() -> None:
    assert expected_sign(Comparison("clip", "siglip", {})) == 0
    assert expected_sign(Comparison("dino", "clip_lm", {})) == -1
    assert expected_sign(Comparison("clip", "mine", {})) == 0


def test_without_text_the_claim_is_left_open() -> None:
    first, claim, *_ = _verdict({"category": -0.1}, {"general": 0.0})
    lead = "DINO is ahead of CLIP by 10.0 points in the linear probe of category (95\u202f% interval 7.0 to 13.0)"
    assert first.startswith(lead)
    assert "no difference shows in the general questions" in first and "left open" in claim


def test_the_first_sentence_is_short_with_five_arms() -> None:
    words = {"dino": 0.3, "siglip": 0.0, "clip_lm": -0.3, "slip": 0.2}
    comparisons = [
        _comparison({"word": word, "object": 0.1, "style": 0.0}, {"ocr": word, "general": 0.0}, other=other)
        for other, word in words.items()
    ]
    headline, *details, _ = verdict(comparisons, 0.95)
    assert (
        headline == "On text, CLIP is ahead of DINO and SLIP; CLIP-LM is ahead of CLIP; no difference shows to SigLIP."
    )
    assert [sentence.partition(":")[0] for sentence in details] == [f"Against {arm_name(other)}" for other in words]
    assert "this is the paper's direction (CLIP ahead)" in details[0] and "gives no direction" in details[1]


def test_a_lead_in_part_is_a_lead_in_part() -> None:
    values = {"dino": (0.3, 0.0), "siglip": (-0.3, 0.0), "slip": (0.3, -0.3)}
    comparisons = [_comparison({"word": w}, {"ocr": q}, other=other) for other, (w, q) in values.items()]
    assert verdict(comparisons, 0.95)[0] == (
        "On text, CLIP is ahead of DINO in part; SigLIP is ahead of CLIP in part; CLIP and SLIP are each ahead in part."
    )


FACTORS = ("word", "text", "object", "category", "colour", "style", "count", "place")
GROUPS = ("ocr", "general", "reasoning", "spatial")
ARMS = ("clip", "dino", "siglip", "clip_lm", "slip", "mine")
NAMES = "|".join(sorted((arm_name(arm) for arm in ARMS), key=len, reverse=True))
CLAIM = re.compile(
    rf"(?P<ahead>{NAMES}) (?:is ahead of|leads on)"
    r"|(?P<even>no difference|neither)"
    rf"|(?P<name>\b(?:{'|'.join(FACTORS + GROUPS)})\b)"
)


def _claims(sentence: str) -> dict[str, str]:
    """Returns who a sentence says is ahead in each factor and group, or `nobody`."""
    claims, leader = {}, ""
    for found in CLAIM.finditer(sentence):
        if name := found["name"]:
            assert name not in claims, f"said twice: {name}"
            claims[name] = leader
        else:
            leader = found["ahead"] or "nobody"
    return claims


@pytest.mark.parametrize("seed", range(60))
def test_every_claim_is_the_sign_of_its_interval(seed: int) -> None:
    generator = np.random.default_rng(seed)
    others = generator.permutation(ARMS)[: generator.integers(2, 6)].tolist()
    first = others.pop()
    factors = generator.permutation(FACTORS)[: generator.integers(1, len(FACTORS) + 1)].tolist()
    groups = generator.permutation(GROUPS)[: generator.integers(1, len(GROUPS) + 1)].tolist()
    comparisons = [
        _comparison(
            *({name: generator.normal(0.0, 0.06) for name in names} for names in (factors, groups)),
            first=first,
            other=other,
            runs=3,
        )
        for other in others
    ]
    sentences = verdict(comparisons, 0.95)
    if len(comparisons) > 1:
        of_comparison = dict(zip(others, sentences[1:], strict=False))
    else:
        of_comparison = {others[0]: " ".join(s for s in sentences[:-1] if "the paper's claim about text" not in s)}
        of_comparison[others[0]] = of_comparison[others[0]].removeprefix("On text, ")
    for comparison in comparisons:
        leaders = {1: arm_name(first), -1: arm_name(comparison.other), 0: "nobody"}
        expected = {name: leaders[d.sign] for of in comparison.differences.values() for name, d in of.items()}
        sentence = of_comparison[comparison.other]
        sentence = sentence.removeprefix(f"Against {arm_name(comparison.other)}: ")
        sentence = re.sub(r"\(\w[\w-]* ahead\)|On text,|nothing was compared on text", "", sentence)
        assert _claims(sentence) == expected


@pytest.mark.parametrize("seed", range(60))
def test_the_headline_names_every_arm_once_and_only_leads_that_hold(seed: int) -> None:
    generator = np.random.default_rng(seed)
    others = ["dino", "siglip", "clip_lm", "slip"]
    pairs = generator.choice([-0.3, 0.0, 0.3], size=(len(others), 2)).tolist()
    comparisons = [_comparison({"word": w}, {"ocr": q}, other=o) for o, (w, q) in zip(others, pairs, strict=True)]
    headline = verdict(comparisons, 0.95)[0]
    parts = headline.removeprefix("On text, ").removesuffix(".").split("; ")
    for comparison in comparisons:
        signs = {d.sign for of in comparison.differences.values() for d in of.values()}
        (part,) = (p for p in parts if re.search(rf"\b{arm_name(comparison.other)}\b(?!-)", p))
        assert ("no difference" in part) == (signs == {0})
        assert part.startswith("CLIP is ahead of") == (signs in ({1}, {0, 1}))
        assert part.endswith(("ahead of CLIP", "ahead of CLIP in part")) == (signs in ({-1}, {-1, 0}))
        assert ("in part" in part) == (len(signs) > 1)


def test_every_sentence_ends_and_has_no_gap() -> None:
    for probe in ({"word": 0.3}, {"category": 0.3}, {"object": 0.0, "word": 0.0}, {"place": 0.0}):
        for vmc in ({}, {"general": 0.1}):
            for sentence in _verdict(probe, vmc):
                assert sentence.endswith(".") and "  " not in sentence and not re.search(r"[;,] ?[.;]", sentence)
