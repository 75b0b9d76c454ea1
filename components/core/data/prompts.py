"""Texts that name the classes of a factor, for zero-shot evaluation."""

import dataclasses

from components.core.data.world import OBJECTS, TEMPLATES, WORDS, caption, sample_scene

GENERIC = ("{}", "a picture of {}", "this is {}")


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
