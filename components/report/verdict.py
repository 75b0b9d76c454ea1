"""The study's outcome in two sentences; the words follow from the paired intervals and from nothing else."""

from collections.abc import Sequence

from components.core.evaluation.intervals import PairedDifference
from components.report.comparisons import Comparison
from components.report.study import Study
from components.report.wording import arm_name, count, joined, level, number, span

TEXT_FACTORS = ("word", "text", "letter")
TEXT_GROUPS = ("ocr",)
SUBJECT_FACTORS = ("object", "category")  # the counterpart of ImageNet's classes
LANGUAGE_ARMS = ("clip", "siglip", "clip_lm")
IMAGE_ARMS = ("dino",)

Evidence = Sequence[tuple[str, PairedDifference]]


def verdict(study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """Returns two sentences: what was found about text, the paper's claim, and what was found elsewhere."""
    confidence = level(study.confidence)
    has_text = any(_text(c) for c in comparisons)
    if has_text:
        first = [f"{_clauses(_text(c), c, confidence)}, {_against_paper(c)}" for c in comparisons]
        many = len(comparisons) > 1
        second = [f"against {arm_name(c.other)}, " * many + _elsewhere(c) for c in comparisons]
        return [f"On text, {'; '.join(first)}.", f"{_capital('; '.join(second))} ({_size(study)})."]
    first = [_clauses(_subject(c), c, confidence) for c in comparisons]
    named = {name for c in comparisons for name, _ in _subject(c)}
    return [
        f"{_capital('; '.join(first))}.",
        "Nothing that was tested here is text, so the paper's claim about text is left open"
        + "".join(f"; {rest}" for c in comparisons if (rest := _rest(c, named)))
        + f" ({_size(study)}).",
    ]


def expected_sign(comparison: Comparison) -> int:
    """Returns 1 where the paper has the first arm ahead on text, -1 for the other, 0 where it compares neither."""
    arms = (comparison.first, comparison.other)
    sides = [1 if arm in LANGUAGE_ARMS else -1 if arm in IMAGE_ARMS else 0 for arm in arms]
    return (sides[0] - sides[1]) // 2 if 0 not in sides else 0


def _text(comparison: Comparison) -> Evidence:
    probe = [(f"the linear probe of {f}", d) for f, d in comparison.probe.items() if f.lower() in TEXT_FACTORS]
    return probe + [(f"the {g} questions", d) for g, d in comparison.vmc.items() if g.lower() in TEXT_GROUPS]


def _subject(comparison: Comparison) -> Evidence:
    probe = [(f"the linear probe of {f}", d) for f, d in comparison.probe.items() if f.lower() in SUBJECT_FACTORS]
    chosen = probe or [(f"the linear probe of {f}", d) for f, d in list(comparison.probe.items())[:1]]
    return chosen + [(f"the {g} questions", d) for g, d in list(comparison.vmc.items())[:1]]


def _clauses(evidence: Evidence, comparison: Comparison, confidence: str) -> str:
    """Returns who is ahead by how much with intervals, then where no difference shows."""
    ahead, behind = arm_name(comparison.first), arm_name(comparison.other)
    clauses, interval = [], f"{confidence} interval "
    for sign, leader, follower in ((1, ahead, behind), (-1, behind, ahead)):
        items = []
        for name, found in evidence:
            if found.sign == sign:
                low, high = sorted((sign * found.low, sign * found.high))
                items.append(f"by {number(100 * abs(found.difference))} points in {name} ({interval}{span(low, high)})")
                interval = ""
        if items:
            clauses.append(f"{leader} is ahead of {follower} {joined(items)}")
    even = []
    for name, found in evidence:
        if found.sign == 0:
            even.append(f"in {name} ({interval}{span(found.low, found.high)} points)")
            interval = ""
    if even:
        between = "" if clauses else f" between {ahead} and {behind}"
        clauses.append(f"no difference{between} shows {joined(even)}")
    return "; ".join(clauses)


def _against_paper(comparison: Comparison) -> str:
    expected = expected_sign(comparison)
    if expected == 0:
        return "a pair for which the paper gives no direction"
    leader = arm_name(comparison.first if expected > 0 else comparison.other)
    signs = [found.sign for _, found in _text(comparison)]
    if all(sign == expected for sign in signs):
        return f"which is the paper's direction ({leader} ahead)"
    if -expected in signs:
        return f"which contradicts the paper's direction ({leader} ahead)" + (" in part" if expected in signs else "")
    if expected in signs:
        return f"which is the paper's direction ({leader} ahead) in part"
    return f"so the paper's direction ({leader} ahead) is not found"


def _elsewhere(comparison: Comparison) -> str:
    subject = [(f, d) for f, d in comparison.probe.items() if f.lower() in SUBJECT_FACTORS]
    ahead, behind = arm_name(comparison.first), arm_name(comparison.other)
    parts = []
    for name, found in subject:
        if found.sign == 0:
            shown = f"no difference shows ({span(found.low, found.high)} points)"
        else:
            leader, follower = (ahead, behind) if found.sign > 0 else (behind, ahead)
            low, high = sorted((found.sign * found.low, found.sign * found.high))
            points = number(100 * abs(found.difference))
            shown = f"{leader} is ahead of {follower} by {points} points ({span(low, high)})"
        parts.append(f"on {name}, {shown}")
    rest = _rest(comparison, {f"the linear probe of {f}" for f, _ in subject} | {name for name, _ in _text(comparison)})
    return "; ".join([*parts, rest] if rest else parts) or f"nothing else was compared between {ahead} and {behind}"


def _rest(comparison: Comparison, named: set[str]) -> str:
    """Returns the leaders on everything not yet named, with the size of each lead."""
    probe = [(f, d) for f, d in comparison.probe.items() if f"the linear probe of {f}" not in named]
    asked = [(g, d) for g, d in comparison.vmc.items() if f"the {g} questions" not in named]
    places = [
        ("in the other probes" if len(probe) < len(comparison.probe) else "in the probes", probe),
        ("in the other questions" if len(asked) < len(comparison.vmc) else "in the questions", asked),
    ]
    return "; ".join(f"{place} {_leaders(items, comparison)}" for place, items in places if items)


def _leaders(items: Evidence, comparison: Comparison) -> str:
    parts = []
    for sign, leader in ((1, comparison.first), (-1, comparison.other)):
        leads = sorted((-abs(found.difference), name) for name, found in items if found.sign == sign)
        led = [f"{name} ({number(-100 * lead)})" for lead, name in leads]
        if led:
            parts.append(f"{arm_name(leader)} leads on {joined(led)}")
    even = [name for name, found in items if found.sign == 0]
    if even:
        parts.append(f"{'neither' if parts else 'neither arm leads'} on {joined(even)}")
    return joined(parts)


def _size(study: Study) -> str:
    pictures = max(len(is_right) for is_right in study.first.is_right.values())
    seeds = sorted({arm.checkpoint.params["seed"] for arm in study.arms})
    seed = f"seed{'s' if len(seeds) > 1 else ''} {joined([str(s) for s in seeds])}"
    return f"n = {count(pictures)} pictures and {count(len(study.first.answers))} questions, {seed}"


def _capital(text: str) -> str:
    """Returns the sentence with its first letter raised."""
    return text[:1].upper() + text[1:]
