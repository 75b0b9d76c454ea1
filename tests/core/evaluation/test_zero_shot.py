"""Zero-shot classification."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from components.core.data.prompts import world_prompts
from components.core.data.tokenizer import build_tokenizer
from components.core.data.world import OBJECTS, WORDS
from components.core.evaluation.zero_shot import class_embeddings, logits, predict
from components.core.models.encoder import TextSide
from components.core.models.text_tower import TextTower
from components.core.models.torchvision_cpu import allow_torchvision_import


class Side(NamedTuple):
    """Another library's text tower and tokenizer."""

    tower: Callable[[Tensor], Tensor]
    tokenizer: Callable[[list[str]], Tensor]


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


def test_logits_are_open_clips_own() -> None:
    allow_torchvision_import()
    import open_clip

    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    texts = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    model = open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=texts).eval()
    tokenizer = open_clip.SimpleTokenizer(context_length=12)
    names, templates = ["red fox", "box", "ball", "owl", "hat"], ["a photo of a {}.", "a drawing of a {}.", "{}"]
    classifier = open_clip.build_zero_shot_classifier(model, tokenizer, names, templates, num_classes_per_batch=2)
    with torch.inference_mode():
        images = model.encode_image(torch.randn(20, 3, 32, 32))
        expected = 100.0 * F.normalize(images, dim=-1) @ classifier

    ours = class_embeddings(Side(model.encode_text, tokenizer), [[t.format(name) for t in templates] for name in names])
    torch.testing.assert_close(logits(images, ours), expected, atol=1e-4, rtol=1e-5)
    assert torch.equal(predict(images, ours), expected.argmax(dim=1))
    assert len(set(expected.argmax(dim=1).tolist())) > 1


def test_the_worlds_prompts_name_their_class_and_no_other() -> None:
    prompts = world_prompts()
    for factor, names in (("object", OBJECTS), ("word", WORDS)):
        assert tuple(prompts[factor]) == names
        for name, texts in prompts[factor].items():
            assert texts
            for text in texts:
                assert [other for other in names if other in text.replace("hourglass", "hour glass").split() or
                        any(word.startswith(other) for word in text.split())] == [name]  # fmt: skip
