# M train, N test, D width, C classes, K neighbours.
"""k-NN classification of frozen features, by DINO's protocol.

Caron et al., arXiv 2104.14294, after Wu et al., arXiv 1805.01978: l2-normalised features, and among the K nearest
training pictures by cosine similarity a vote weighted by exp(similarity / T).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = (10, 20, 100, 200)  # P: facebookresearch/dino eval_knn.py
CHUNK = 2048


def predict(
    train_MD: Tensor,
    labels_M: Tensor,
    test_ND: Tensor,
    *,
    neighbours: Sequence[int],
    num_classes: int,
    temperature: float,
) -> dict[int, Tensor]:
    """Returns the predicted classes (N,) for each number of neighbours.

    All of them come from one search for the largest K. A K above the number of training pictures is left out.

    Raises:
        ValueError: There is no K that the training set suffices for.
    """
    usable = sorted(k for k in neighbours if k <= len(train_MD))
    if not usable:
        raise ValueError(f"k-NN with k={min(neighbours)} needs as many training pictures; there are {len(train_MD)}.")
    train_MD = F.normalize(train_MD.float(), dim=1)
    predictions: dict[int, list[Tensor]] = {k: [] for k in usable}
    for chunk_ND in F.normalize(test_ND.float(), dim=1).split(CHUNK):
        similarity_NK, index_NK = (chunk_ND @ train_MD.T).topk(usable[-1], dim=1)
        votes_NK = (similarity_NK / temperature).exp()
        one_hot_NKC = F.one_hot(labels_M[index_NK], num_classes) * votes_NK[..., None]
        for k in usable:
            predictions[k].append(one_hot_NKC[:, :k].sum(dim=1).argmax(dim=1))
    return {k: torch.cat(parts) for k, parts in predictions.items()}
