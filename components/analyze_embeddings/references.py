"""What the encoders' similarities are compared with: colour, style, text and category of the same pictures."""

# N pictures, H bins

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from components.core.data.shard_samples import Sample
from components.core.evaluation import references
from components.core.evaluation.rsa import usable

COLOUR, STYLE, TEXTURE, TEXT, CATEGORY = "colour_histogram", "style", "texture", "text", "category"
STYLE_FACTOR, TEXT_FACTOR, CATEGORY_FACTOR = "style", "word", "object"
LOOKS = ("colour", "background", "count", "position")  # factors that say how a picture looks, not what it shows


@dataclasses.dataclass(frozen=True)
class Look:
    """What is kept of a picture: its histograms of colours and of texture, [H] each."""

    colour_H: np.ndarray
    texture_H: np.ndarray


@dataclasses.dataclass(frozen=True)
class Compared:
    """Reference similarities [N, N] by name, what each is about, and why others are left out."""

    similarities: dict[str, np.ndarray]
    about: dict[str, str]
    left_out: dict[str, str]


def look(sample: Sample) -> Look:
    """Returns what is kept of a picture."""
    return Look(references.colour_histogram(sample.image), references.texture_histogram(sample.image))


def category_factor(factors: Sequence[str]) -> str:
    """Returns the factor that says what a picture shows; empty where there is none."""
    others = [factor for factor in factors if factor not in (*LOOKS, STYLE_FACTOR, TEXT_FACTOR)]
    return CATEGORY_FACTOR if CATEGORY_FACTOR in factors else next(iter(others), "")


def labelled_factors(factors: Sequence[str]) -> list[str]:
    """Returns the factors that can be references."""
    return [f for f in (STYLE_FACTOR, TEXT_FACTOR, category_factor(factors)) if f in factors]


def compared(looks: Sequence[Look], labels: Mapping[str, np.ndarray], classes: Mapping[str, Sequence[str]]) -> Compared:
    """Returns the references that these pictures have.

    Args:
        looks: Of the pictures.
        labels: Class index per factor [N]; a factor that not all of these pictures have is no reference.
        classes: Names of the classes per factor.
    """
    labels = {factor: labels_N for factor, labels_N in labels.items() if (labels_N >= 0).all()}
    similarities = {COLOUR: references.intersection(np.stack([of.colour_H for of in looks]))}
    about = {COLOUR: "intersection of colour histograms, 4 x 4 x 4 bins of red, green and blue"}
    left_out = {}
    if STYLE_FACTOR in labels:
        similarities[STYLE] = references.same_label(labels[STYLE_FACTOR])
        about[STYLE] = f"equal label of the factor {STYLE_FACTOR}"
    else:
        similarities[TEXTURE] = references.intersection(np.stack([of.texture_H for of in looks]))
        about[TEXTURE] = "intersection of histograms of gradient orientations at three scales; stands for style"
    if TEXT_FACTOR in labels:
        letters_CC = references.same_letters(classes[TEXT_FACTOR])
        similarities[TEXT] = letters_CC[np.ix_(labels[TEXT_FACTOR], labels[TEXT_FACTOR])]
        about[TEXT] = f"1 minus the edit distance of the factor {TEXT_FACTOR} over the longer string's length"
    else:
        left_out[TEXT] = "the pictures' text is not known"
    category = category_factor(list(labels))
    if category:
        similarities[CATEGORY] = references.same_label(labels[category])
        about[CATEGORY] = f"equal label of the factor {category}"
    else:
        left_out[CATEGORY] = "there is no label for what the pictures show"
    for name, is_usable in usable(similarities).items():
        if not is_usable:
            left_out[name] = "it is the same for all pairs, or follows from the others"
            del similarities[name], about[name]
    return Compared(similarities, about, left_out)
