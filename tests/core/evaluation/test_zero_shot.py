"""Zero-shot classification."""

import torch
import torch.nn.functional as F

from components.core.data.prompts import world_prompts
from components.core.data.tokenizer import build_tokenizer
from components.core.data.world import OBJECTS, WORDS
from components.core.evaluation.zero_shot import class_embeddings, predict
from components.core.models.encoder import TextSide
from components.core.models.text_tower import TextTower


def side(captions: list[str]) -> TextSide:
    tokenizer = build_tokenizer("words", captions, context_length=12)
    tower = TextTower(
        vocab_size=tokenizer.vocab_size, context_length=12, width=16, depth=1, num_heads=2, embedding_dim=8, seed=0
    )
    return TextSide(tower.eval(), tokenizer, torch.eye(8), torch.tensor(1.0))


def test_a_class_is_the_normalised_mean_of_its_unit_prompts_in_the_order_given() -> None:
    text = side(["a red ball", "a box"])
    found = class_embeddings(text, [["a box"], ["a red ball", "a ball"]])
    with torch.inference_mode():
        box, red_ball, ball = F.normalize(text.tower(text.tokenizer(["a box", "a red ball", "a ball"])), dim=1)
    torch.testing.assert_close(found, torch.stack([box, F.normalize((red_ball + ball) / 2, dim=0)]))


def test_a_picture_gets_the_class_with_the_greatest_cosine() -> None:
    classes = F.normalize(torch.tensor([[1.0, 0.2], [0.0, 1.0]]), dim=1)
    assert predict(torch.tensor([[5.0, 1.0], [0.1, 0.2]]), classes).tolist() == [0, 1]


def test_the_worlds_prompts_name_their_class_and_no_other() -> None:
    prompts = world_prompts()
    for factor, names in (("object", OBJECTS), ("word", WORDS)):
        assert tuple(prompts[factor]) == names
        for name, texts in prompts[factor].items():
            assert texts
            for text in texts:
                assert [other for other in names if other in text.replace("hourglass", "hour glass").split() or
                        any(word.startswith(other) for word in text.split())] == [name]  # fmt: skip
