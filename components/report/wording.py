"""How numbers and names stand in the report."""

from collections.abc import Sequence

NAMES = {"clip": "CLIP", "dino": "DINO", "siglip": "SigLIP", "clip_lm": "CLIP-LM", "slip": "SLIP"}
MINUS, EN_DASH, THIN = "\u2212", "\u2013", "\u202f"


def arm_name(arm: str) -> str:
    """Returns the arm as it is written in prose."""
    return NAMES.get(arm, arm)


def number(value: float, digits: int = 1) -> str:
    """Returns a rounded number with a true minus sign, thousands grouped, and no negative zero."""
    text = f"{round(value, digits) + 0.0:,.{digits}f}"
    return text.replace("-", MINUS)


def count(value: float) -> str:
    """Returns a whole number with its thousands grouped."""
    return number(value, 0)


def percent(share: float) -> str:
    """Returns a share in per cent, without the sign."""
    return number(100 * share)


def signed_points(difference: float) -> str:
    """Returns a difference of two shares in percentage points, always with its sign."""
    text = number(100 * difference)
    return text if text.startswith(MINUS) or text == "0.0" else f"+{text}"


def span(low: float, high: float) -> str:
    """Returns an interval of shares, in per cent."""
    return f"{percent(low)} to {percent(high)}"


def between(low: float, high: float) -> str:
    """Returns an interval of shares, in per cent, as it stands in a table."""
    return f"{percent(low)}{EN_DASH}{percent(high)}" if low >= 0 else span(low, high)


def range_of(numbers: Sequence[int]) -> str:
    """Returns whole numbers as one, or as from the least to the largest."""
    low, high = (min(numbers), max(numbers)) if numbers else (0, 0)
    return count(low) if low == high else f"{count(low)} to {count(high)}"


def capital(text: str) -> str:
    """Returns the text with its first letter raised."""
    return text[:1].upper() + text[1:]


def mean(values: Sequence[float]) -> float:
    """Returns the mean of one value or more."""
    return sum(values) / len(values)


def level(confidence: float) -> str:
    """Returns a confidence such as 95 %."""
    return f"{100 * confidence:g}{THIN}%"


def compact(value: float, unit: str = "") -> str:
    """Returns a large number with a prefix, such as 1.23 T."""
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def in_one_unit(values: Sequence[float], units: Sequence[tuple[float, str]]) -> tuple[str, list[str]]:
    """Returns the unit that suits the median of the values, and all of them in it with three significant digits.

    Args:
        values: What is written; equal units make a column that can be compared by eye.
        units: Size and name of each unit, the largest first.
    """
    middle = abs(sorted(values)[len(values) // 2]) if values else 0.0
    size, unit = next((of for of in units if middle >= of[0]), units[-1])
    top = max((abs(value) / size for value in values), default=0.0)
    digits = 0 if top >= 100 else 1 if top >= 10 else 2
    return unit, [number(value / size, digits) for value in values]


def short_hash(digest: str) -> str:
    """Returns as much of a hash as is compared by eye."""
    return digest[:12]


def joined(parts: Sequence[str]) -> str:
    """Returns a list in prose: a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
