"""Multiple-choice questions about a folder of pictures: which class, and which caption, belongs to a picture."""

import random
from collections.abc import Sequence

from components.core.data.questions import LETTERS, Question

GROUP_OF_SET = {"PictureCategory": "general", "PictureCaption": "general"}
NUM_WRONG = len(LETTERS) - 1


def ask_about_picture(
    sha256: str, category: str, caption: str, *, categories: Sequence[str], captions: Sequence[str], seed: int
) -> list[Question]:
    """Returns up to two questions about a picture, a pure function of the arguments.

    Args:
        sha256: Hash of the picture.
        category: Its class; empty: none.
        caption: Its caption; empty: none.
        categories: All distinct classes, sorted; a question needs three wrong ones.
        captions: All distinct captions, sorted.
        seed: Seed of the options.
    """
    rng = random.Random(f"ceteris picture {seed} {sha256}")
    asked = (
        ("PictureCategory", "Which of these is the picture about?", category, categories),
        ("PictureCaption", "Which of these describes the picture?", caption, captions),
    )
    questions = []
    for name, text, right, candidates in asked:
        if not right or len(candidates) <= NUM_WRONG:
            continue
        drawn = rng.sample(candidates, NUM_WRONG + 1)
        options = [option for option in drawn if option != right][:NUM_WRONG]
        place = rng.randrange(NUM_WRONG + 1)
        options.insert(place, right)
        a, b, c, d = options
        questions.append(Question(text, (a, b, c, d), LETTERS[place], name, GROUP_OF_SET[name]))
    return questions
