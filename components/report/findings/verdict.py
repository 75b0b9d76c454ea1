"""The study's outcome in sentences; the words follow from the intervals of the differences and from nothing else."""

from collections.abc import Callable, Sequence

from components.core.evaluation.seeds import Difference
from components.report.findings.comparisons import Comparison
from components.report.wording import arm_name, capital, count, joined, level, number, span

TEXT_FACTORS = ("word", "text", "letter")
TEXT_GROUPS = ("ocr",)
SUBJECT_FACTORS = ("object", "category")  # the counterpart of ImageNet's classes
LANGUAGE_ARMS = ("clip", "siglip", "clip_lm", "slip")
IMAGE_ARMS = ("dino",)
OPEN = "Nothing that was tested here is text, so the paper's claim about text is left open."

Evidence = Sequence[tuple[str, Difference]]


def verdict(comparisons: Sequence[Comparison], confidence: float) -> list[str]:
    """Returns who is ahead on text, the paper's claim; then what each comparison found; then what intervals cover.

    The first sentence is short however many arms there are. Where no text was tested, it is about the pictures'
    subject, and the paper's claim is left open.

    Args:
        comparisons: Of the first arm to each other one.
        confidence: Coverage of their intervals.
    """
    is_text = any(_text(c) for c in comparisons)
    lead = _text if is_text else _subject
    interval = f"{level(confidence)} interval "
    if len(comparisons) == 1:
        sentences = _of_two_arms(comparisons[0], lead, is_text, interval)
    else:
        sentences = [_headline(comparisons, lead, is_text)]
        sentences += [_against(c, lead, is_text, interval) for c in comparisons]
        sentences += [] if is_text else [OPEN]
    return [*sentences, _covered(comparisons)]


def expected_sign(comparison: Comparison) -> int:
    """Returns 1 where the paper has the first arm ahead on text, -1 for the other, 0 where it compares neither."""
    arms = (comparison.first, comparison.other)
    sides = [1 if arm in LANGUAGE_ARMS else -1 if arm in IMAGE_ARMS else 0 for arm in arms]
    return (sides[0] - sides[1]) // 2 if 0 not in sides else 0


def _of_two_arms(
    comparison: Comparison, lead: Callable[[Comparison], Evidence], is_text: bool, interval: str
) -> list[str]:
    found = _clauses(lead(comparison), comparison, interval)
    if not is_text:
        rest = _rest(comparison, lead(comparison))
        return [f"{capital(found)}.", OPEN, *([f"Elsewhere, {rest}."] if rest else [])]
    elsewhere = _elsewhere(comparison, lead(comparison))
    return [
        f"On text, {found}.",
        f"{capital(_paper(comparison))}.",
        *([f"Elsewhere, {elsewhere}."] if elsewhere else []),
    ]


def _against(comparison: Comparison, lead: Callable[[Comparison], Evidence], is_text: bool, interval: str) -> str:
    found = _clauses(lead(comparison), comparison, interval) or "nothing was compared on text"
    more = [_paper(comparison), _elsewhere(comparison, lead(comparison))] if is_text else []
    more = more or [_rest(comparison, lead(comparison))]
    return f"Against {arm_name(comparison.other)}: {'; '.join(part for part in (found, *more) if part)}."


def _headline(comparisons: Sequence[Comparison], lead: Callable[[Comparison], Evidence], is_text: bool) -> str:
    """Returns one sentence about all arms, without numbers."""
    first = arm_name(comparisons[0].first)
    groups: dict[tuple[int, ...], list[str]] = {}
    for comparison in comparisons:
        signs = tuple(sorted({found.sign for _, found in lead(comparison)}))
        groups.setdefault(signs, []).append(arm_name(comparison.other))
    parts = []
    for signs, words in (
        ((1,), "{first} is ahead of {others}"),
        ((0, 1), "{first} is ahead of {others} in part"),
        ((-1,), "{others} {are} ahead of {first}"),
        ((-1, 0), "{others} {are} ahead of {first} in part"),
        ((-1, 1), "{first} and {others} are each ahead in part"),
        ((-1, 0, 1), "{first} and {others} are each ahead in part"),
        ((0,), "no difference shows to {others}"),
        ((), "nothing was compared to {others}"),
    ):
        if others := groups.get(signs):
            are = "is" if len(others) == 1 else "are"
            parts.append(words.format(first=first, others=joined(others), are=are))
    about = "text" if is_text else joined([_short(name) for name, _ in lead(comparisons[0])])
    return f"On {about}, {'; '.join(parts)}."


def _text(comparison: Comparison) -> Evidence:
    probe, asked = _probed(comparison), _asked(comparison)
    return [
        *((_probe_of(f), d) for f, d in probe.items() if f.lower() in TEXT_FACTORS),
        *((_questions_of(g), d) for g, d in asked.items() if g.lower() in TEXT_GROUPS),
    ]


def _subject(comparison: Comparison) -> Evidence:
    probe = _probed(comparison)
    chosen = [f for f in probe if f.lower() in SUBJECT_FACTORS] or list(probe)[:1]
    groups = list(_asked(comparison).items())[:1]
    return [*((_probe_of(f), probe[f]) for f in chosen), *((_questions_of(g), d) for g, d in groups)]


def _clauses(evidence: Evidence, comparison: Comparison, interval: str = "") -> str:
    """Returns who is ahead by how much with intervals, then where no difference shows."""
    ahead, behind = arm_name(comparison.first), arm_name(comparison.other)
    clauses = []
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


def _paper(comparison: Comparison) -> str:
    """Returns how the paper's claim about text fares."""
    expected = expected_sign(comparison)
    signs = [found.sign for _, found in _text(comparison)]
    if expected == 0:
        return "the paper gives no direction for this pair"
    claim = f"the paper's direction ({arm_name(comparison.first if expected > 0 else comparison.other)} ahead)"
    in_part = " in part" if len(set(signs)) > 1 else ""
    if -expected in signs:
        return f"this contradicts {claim}{in_part}"
    if expected in signs:
        return f"this is {claim}{in_part}"
    return f"{claim} is not found"


def _elsewhere(comparison: Comparison, named: Evidence) -> str:
    subject = [(_probe_of(f), d) for f, d in _probed(comparison).items() if f.lower() in SUBJECT_FACTORS]
    parts = [_clauses(subject, comparison), _rest(comparison, [*named, *subject])]
    return "; ".join(part for part in parts if part)


def _rest(comparison: Comparison, named: Evidence) -> str:
    """Returns the leaders on everything not yet named, with the size of each lead."""
    names = {name for name, _ in named}
    parts = []
    for place, found, full in (
        ("probes", _probed(comparison), _probe_of),
        ("questions", _asked(comparison), _questions_of),
    ):
        left = [(name, d) for name, d in found.items() if full(name) not in names]
        if left:
            parts.append(f"in the {'other ' * (len(left) < len(found))}{place} {_leaders(left, comparison)}")
    return "; ".join(parts)


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


def _covered(comparisons: Sequence[Comparison]) -> str:
    """Returns what the intervals say nothing about, where there is one run of each arm, or what they cover."""
    found = [d for c in comparisons for of_kind in c.differences.values() for d in of_kind.values()]
    pictures = max((d.n for c in comparisons for d in _probed(c).values()), default=0)
    questions = max(sum(d.n for d in _asked(c).values()) for c in comparisons)
    items = f"{count(pictures)} pictures and {count(questions)} questions"
    num_runs = min(d.num_runs for d in found)
    if num_runs > 1:
        return f"The intervals are over {num_runs} seeds, {items}."
    runs = "these two runs" if len(comparisons) == 1 else f"these {len(comparisons) + 1} runs, one of each arm"
    return (
        f"This compares {runs}: the intervals are over {items}, and how far another seed alone would move the numbers "
        "is not known."
    )


def _probed(comparison: Comparison) -> dict[str, Difference]:
    return comparison.differences.get("probe", {})


def _asked(comparison: Comparison) -> dict[str, Difference]:
    return comparison.differences.get("vmc", {})


def _probe_of(factor: str) -> str:
    return f"the linear probe of {factor}"


def _questions_of(group: str) -> str:
    return f"the {group} questions"


def _short(name: str) -> str:
    return name.removeprefix("the linear probe of ")
