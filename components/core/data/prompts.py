"""Texts that name the classes of a factor, for zero-shot evaluation."""

import dataclasses
import re
from collections.abc import Sequence

from components.core.data import class_names
from components.core.data.world import OBJECTS, TEMPLATES, WORDS, caption, sample_scene

GENERIC = ("{}", "a picture of {}", "this is {}")
_LOW_RESOLUTION = tuple(
    f"a {quality}photo of {article} {{}}."
    for article in ("a", "the")
    for quality in ("", "blurry ", "low resolution ", "bad ", "good ")
)
OF_SET = {  # in the manner of Radford et al., arXiv 2103.00020, section 3.1.4: the domain is named, views vary
    "cifar10": _LOW_RESOLUTION,
    "cifar10.1": _LOW_RESOLUTION,
    "cifar100": _LOW_RESOLUTION,
    "cub200": ("a photo of a {}, a type of bird.", "a close-up photo of a {}, a type of bird."),
    "flowers102": ("a photo of a {}, a type of flower.", "a close-up photo of a {}, a type of flower."),
    "cars": ("a photo of a {}.", "a photo of the {}.", "a photo of my new {}.", "a photo of a {}, a type of car."),
}
IMAGENETS = ("imagenet", "imagenetv2")
_NUMBER = re.compile(r"\d+|n\d{8}")  # of a class, or of its set of synonyms in WordNet


def world_prompts() -> dict[str, dict[str, list[str]]]:
    """Returns the synthetic world's own captions that name each object and each word, its two spoken factors."""
    scene = sample_scene(0, 0)

    def texts(objects: tuple[str, ...], words: tuple[str, ...], template_names: str) -> list[str]:
        scenes = (
            dataclasses.replace(scene, object=name, word=word, template=template)
            for name in objects
            for word in words
            for template, text in enumerate(TEMPLATES)
            if template_names in text
        )
        return [caption(scene) for scene in scenes]

    return {
        "object": {name: texts((name,), WORDS, "{objects}") for name in OBJECTS},
        "word": {word: texts(OBJECTS, (word,), "{word}") for word in WORDS},
    }


def generic_prompts(names: list[str]) -> dict[str, list[str]]:
    """Returns a few neutral sentences around each class name."""
    return {name: [prompt.format(name) for prompt in GENERIC] for name in names}


def set_prompts(labelled_set: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Returns sentences around the class names of a published set; nothing where the classes only have numbers.

    Classes of one name have the same sentences. Those of ImageNet are open_clip's.

    Raises:
        ModuleNotFoundError: They are open_clip's, and it isn't installed.
    """
    if all(_NUMBER.fullmatch(name) for name in names):
        return {}
    if labelled_set in IMAGENETS:
        return {name: [template(name) for template in class_names.imagenet_templates()] for name in names}
    return {name: [template.format(name) for template in OF_SET[labelled_set]] for name in names}
