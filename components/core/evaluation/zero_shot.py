# C classes, E joint embedding, N pictures.
"""Zero-shot classification by a language arm: a picture gets the class whose prompts are nearest.

Radford et al., arXiv 2103.00020, section 3.1: the unit embeddings of a class's prompts are averaged and normalised.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE = 100.0  # the greatest logit scale that CLIP allows, and what open_clip evaluates with
CHUNK = 16_384


class TextEncoder(Protocol):
    """A text tower with the tokenizer that was made for it."""

    @property
    def tower(self) -> Callable[[Tensor], Tensor]: ...

    @property
    def tokenizer(self) -> Callable[[list[str]], Tensor]: ...


@torch.inference_mode()
def class_embeddings(side: TextEncoder, prompts: Sequence[Sequence[str]]) -> Tensor:
    """Returns one unit vector per class, (C, E), from each class's prompts, in the order of the classes."""
    rows = []
    for texts in prompts:
        embeddings_PE = F.normalize(side.tower(side.tokenizer(list(texts))).float(), dim=1)
        rows.append(F.normalize(embeddings_PE.mean(dim=0), dim=0))
    return torch.stack(rows)


def logits(images_NE: Tensor, classes_CE: Tensor) -> Tensor:
    """Returns the scaled cosine of each picture with each class, (N, C): open_clip's `100 * image @ classifier`."""
    return SCALE * F.normalize(images_NE, dim=1) @ classes_CE.T


def predict(images_NE: Tensor, classes_CE: Tensor) -> Tensor:
    """Returns the nearest class of each picture, (N,), on the CPU."""
    return torch.cat([logits(part_NE, classes_CE).argmax(dim=1).cpu() for part_NE in images_NE.split(CHUNK)])
