"""Multiple-choice questions about the synthetic world, in the form of VMCBench, and conversations to learn
from.

VMCBench (arXiv 2501.03225) asks with four options, A to D, in sets that belong to four groups. Here a set
asks about one factor, and the groups keep their meaning: what is seen, how things are arranged, what is
written, what a labelled figure says. Sets have names of their own, so that no score of the synthetic world
passes for one of VMCBench.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from components.core.data.world import FACTORS, Scene

LETTERS = "ABCD"
GROUPS = ("general", "reasoning", "ocr", "doc & chart")


@dataclass(frozen=True)
class _Set:
    """One set of questions: its group, its wording, the right answer, and all answers there are."""

    group: str
    question: Callable[[Scene], str]
    answer: Callable[[Scene], str]
    answers: tuple[str, ...]


def _sorted_answers(answer: Callable[[str], str]) -> tuple[str, ...]:
    return tuple(sorted({answer(word) for word in FACTORS["word"]}))


SETS: dict[str, _Set] = {
    "WorldObject": _Set(
        "general",
        lambda scene: "What is shown several times in the image?",
        lambda scene: scene.object,
        FACTORS["object"],
    ),
    "WorldColour": _Set(
        "general",
        lambda scene: f"What colour is the {scene.object}?",
        lambda scene: scene.colour,
        FACTORS["colour"],
    ),
    "WorldBackground": _Set(
        "general",
        lambda scene: "What is the background like?",
        lambda scene: scene.background,
        FACTORS["background"],
    ),
    "WorldStyle": _Set(
        "general",
        lambda scene: f"In which style is the {scene.object} drawn?",
        lambda scene: scene.style,
        FACTORS["style"],
    ),
    "WorldCount": _Set(
        "reasoning",
        lambda scene: f"How many times is the {scene.object} shown?",
        lambda scene: scene.count,
        FACTORS["count"],
    ),
    "WorldPosition": _Set(
        "reasoning",
        lambda scene: "In which corner of the image is the sign?",
        lambda scene: scene.position,
        FACTORS["position"],
    ),
    "WorldWord": _Set(
        "ocr", lambda scene: "Which word is written on the sign?", lambda scene: scene.word, FACTORS["word"]
    ),
    "WorldFirstLetter": _Set(
        "doc & chart",
        lambda scene: "With which letter does the label begin?",
        lambda scene: scene.word[0].upper(),
        _sorted_answers(lambda word: word[0].upper()),
    ),
    "WorldLabel": _Set(
        "doc & chart",
        lambda scene: "What do the things and the label of the figure read together?",
        lambda scene: f"{scene.object}, {scene.word}",
        (),
    ),
}

GROUP_OF_SET = {name: entry.group for name, entry in SETS.items()}


@dataclass(frozen=True)
class Question:
    """One question with four options.

    Attributes:
        question: its text.
        options: the four options, A to D.
        answer: the letter of the right one.
        category: its set, a key of SETS.
        group: the set's group, one of GROUPS.
    """

    question: str
    options: tuple[str, str, str, str]
    answer: str
    category: str
    group: str

    def prompt(self) -> str:
        """Returns the prompt of VMCBench."""
        return vmcbench_prompt(self.question, self.options)


def vmcbench_prompt(question: str, options: Sequence[str]) -> str:
    """Returns the prompt in which VMCBench (arXiv 2501.03225) asks a question with its options, at most four."""
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS[: len(options)], options, strict=True))
    return (
        f"Question: {question}\nOptions:\n{listed}\nAnswer with the option's letter from the given choices directly.\n"
    )


def ask(scene: Scene, category: str, *, seed: int, index: int) -> Question:
    """Returns the question of a set about a scene: a pure function of its arguments.

    The right answer is at each letter with equal chance; the wrong ones are drawn without repetition.

    Args:
        scene: what is asked about.
        category: a key of SETS.
        seed: seed of the options.
        index: number of the scene; another index shuffles anew.
    """
    entry = SETS[category]
    rng = random.Random(f"ceteris question {seed} {index} {category}")
    right = entry.answer(scene)
    wrong = _wrong_labels(scene, rng) if category == "WorldLabel" else _wrong(entry.answers, right, rng)
    place = rng.randrange(4)
    wrong.insert(place, right)
    first, second, third, fourth = wrong
    options = (first, second, third, fourth)
    return Question(entry.question(scene), options, LETTERS[place], category, entry.group)


def ask_all(scene: Scene, *, seed: int, index: int) -> list[Question]:
    """Returns one question of each set about a scene."""
    return [ask(scene, category, seed=seed, index=index) for category in SETS]


def _wrong(answers: tuple[str, ...], right: str, rng: random.Random) -> list[str]:
    return rng.sample([answer for answer in answers if answer != right], 3)


def _wrong_labels(scene: Scene, rng: random.Random) -> list[str]:
    """Returns three pairs, of which one has the right object only, one the right word only, and one
    neither.
    """
    other_object, another_object = _wrong(FACTORS["object"], scene.object, rng)[:2]
    other_word, another_word = _wrong(FACTORS["word"], scene.word, rng)[:2]
    pairs = [(scene.object, other_word), (other_object, scene.word), (another_object, another_word)]
    rng.shuffle(pairs)
    return [f"{name}, {word}" for name, word in pairs]
