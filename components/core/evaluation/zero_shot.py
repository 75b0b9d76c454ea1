# C classes, E joint embedding, N pictures.
"""Zero-shot classification by a language arm: a picture gets the class whose prompts are nearest.

Radford et al., arXiv 2103.00020, section 3.1: the unit embeddings of a class's prompts are averaged and normalised.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from components.core.models.encoder import TextSide


@torch.inference_mode()
def class_embeddings(side: TextSide, prompts: Sequence[Sequence[str]]) -> Tensor:
    """Returns one unit vector per class, (C, E), from each class's prompts, in the order of the classes."""
    rows = []
    for texts in prompts:
        embeddings_PE = F.normalize(side.tower(side.tokenizer(list(texts))).float(), dim=1)
        rows.append(F.normalize(embeddings_PE.mean(dim=0), dim=0))
    return torch.stack(rows)


def predict(images_NE: Tensor, classes_CE: Tensor) -> Tensor:
    """Returns the nearest class of each picture, (N,)."""
    return (F.normalize(images_NE, dim=1) @ classes_CE.T).argmax(dim=1)
