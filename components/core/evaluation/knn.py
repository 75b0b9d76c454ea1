# M train, N test, D width, C classes, K neighbours, S members of a group, W groups, J candidates.
"""k-NN classification of frozen features, by DINO's protocol.

Caron et al., arXiv 2104.14294, after Wu et al., arXiv 1805.01978: l2-normalised features, and among the K nearest
training pictures by cosine similarity a vote weighted by exp(similarity / T). The search is exact, and in tiles: of the
similarities only a tile is ever in memory.
"""

import math
from collections.abc import Sequence

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = (10, 20, 100, 200)  # P: facebookresearch/dino eval_knn.py
TRAIN_CHUNK, TEST_CHUNK = 65_536, 512


def predict(
    train_MD: Tensor,
    labels_M: Tensor,
    test_ND: Tensor,
    *,
    neighbours: Sequence[int],
    num_classes: int,
    temperature: float,
) -> dict[int, Tensor]:
    """Returns the predicted classes (N,), on the CPU, for each number of neighbours.

    All of them come from one search for the largest K. A K above the number of training pictures is left out.

    Raises:
        ValueError: There is no K that the training set suffices for.
    """
    usable = sorted(k for k in neighbours if k <= len(train_MD))
    if not usable:
        raise ValueError(f"k-NN with k={min(neighbours)} needs as many training pictures; there are {len(train_MD)}.")
    similarity_NK, index_NK = nearest(train_MD, test_ND, usable[-1])
    labels_NK = labels_M.cpu()[index_NK]
    return vote(similarity_NK, labels_NK, neighbours=usable, num_classes=num_classes, temperature=temperature)


def nearest(
    train_MD: Tensor, test_ND: Tensor, k: int, *, train_chunk: int = TRAIN_CHUNK, test_chunk: int = TEST_CHUNK
) -> tuple[Tensor, Tensor]:
    """Returns the K greatest cosines of each test picture, descending, and whose they are, (N, K) each, on the CPU.

    Args:
        train_MD: Features to search, at least K.
        test_ND: Features to search for.
        k: K.
        train_chunk: Width of a tile.
        test_chunk: Height of a tile.
    """
    test_ND = F.normalize(test_ND.float(), dim=1)
    best: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(train_MD), train_chunk):
        part_MD = F.normalize(train_MD[start : start + train_chunk].float(), dim=1)
        for number, rows_ND in enumerate(test_ND.split(test_chunk)):
            similarity_NK, index_NK = _greatest(rows_ND @ part_MD.T, min(k, len(part_MD)))
            if start == 0:
                best.append((similarity_NK, index_NK))
                continue
            similarity_NJ = torch.cat([best[number][0], similarity_NK], dim=1)
            index_NJ = torch.cat([best[number][1], index_NK + start], dim=1)
            top = similarity_NJ.topk(min(k, similarity_NJ.shape[1]), dim=1, sorted=False)
            best[number] = top.values, index_NJ.gather(1, top.indices)
    similarity_NK, index_NK = (torch.cat(parts).cpu() for parts in zip(*best, strict=True))
    order_NK = torch.from_numpy(numpy.argsort(-similarity_NK.numpy(), axis=1))  # a quarter of the time of torch.sort
    return similarity_NK.gather(1, order_NK), index_NK.gather(1, order_NK)


def vote(
    similarity_NK: Tensor, labels_NK: Tensor, *, neighbours: Sequence[int], num_classes: int, temperature: float
) -> dict[int, Tensor]:
    """Returns the class (N,) that the first k neighbours vote for, for each k.

    Args:
        similarity_NK: Cosine similarities, descending.
        labels_NK: The neighbours' classes.
        neighbours: The k, ascending, none above K.
        num_classes: C.
        temperature: T. Votes are relative to the nearest neighbour's, so that no small T overflows.
    """
    weight_NK = ((similarity_NK - similarity_NK[:, :1]) / temperature).exp()
    votes_NC = weight_NK.new_zeros(len(weight_NK), num_classes)
    predictions, counted = {}, 0
    for k in neighbours:
        votes_NC.scatter_add_(1, labels_NK[:, counted:k], weight_NK[:, counted:k])
        predictions[k], counted = votes_NC.argmax(dim=1), k
    return predictions


def _greatest(values_NM: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns what `topk` does, in any order, and in a fraction of its time where K is far below M.

    Each of the K greatest lies in one of the K groups with the greatest maxima, so only their members are candidates;
    groups of sqrt(M / K) balance the two searches. A group has one column out of each of S spans of W columns; the few
    columns that are left over are candidates too.
    """
    num_columns = values_NM.shape[1]
    size = math.isqrt(num_columns // k)
    if size < 2:
        top = values_NM.topk(k, dim=1, sorted=False)
        return top.values, top.indices
    width = num_columns // size
    grouped_NSW = values_NM[:, : size * width].unflatten(1, (size, width))
    group_NK = grouped_NSW.amax(dim=1).topk(k, dim=1, sorted=False).indices
    members_NSK = grouped_NSW.gather(2, group_NK[:, None].expand(-1, size, -1))
    top = torch.cat([members_NSK.flatten(1), values_NM[:, size * width :]], dim=1).topk(k, dim=1, sorted=False)
    column_NK = group_NK.gather(1, top.indices % k) + top.indices // k * width
    return top.values, torch.where(top.indices < size * k, column_NK, top.indices + size * (width - k))
