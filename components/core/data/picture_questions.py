"""Multiple-choice questions about a folder of pictures: which class, and which caption, belongs to a picture."""

import random
from collections.abc import Sequence

from components.core.data.pictures import Picture
from components.core.data.questions import LETTERS, Question

GROUP_OF_SET = {"PictureCategory": "general", "PictureCaption": "general"}
NUM_OPTIONS = len(LETTERS)


def ask_about_picture(picture: Picture, pool: Sequence[Picture], seed: int) -> list[Question]:
    """Returns up to two questions about a picture, a pure function of the arguments.

    Args:
        picture: What is asked about.
        pool: Pictures whose classes and captions serve as wrong options; a question needs three distinct ones.
        seed: Seed of the options.
    """
    rng = random.Random(f"ceteris picture {seed} {picture.sha256}")
    asked = (
        ("PictureCategory", "Which of these is the picture about?", picture.category, {p.category for p in pool}),
        ("PictureCaption", "Which of these describes the picture?", picture.caption, {p.caption for p in pool}),
    )
    questions = []
    for name, text, right, candidates in asked:
        wrong = sorted(candidates - {right, ""})
        if not right or len(wrong) < NUM_OPTIONS - 1:
            continue
        options = rng.sample(wrong, NUM_OPTIONS - 1)
        place = rng.randrange(NUM_OPTIONS)
        options.insert(place, right)
        a, b, c, d = options
        questions.append(Question(text, (a, b, c, d), LETTERS[place], name, GROUP_OF_SET[name]))
    return questions
