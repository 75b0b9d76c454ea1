# M train, N test, D width, F features and a constant, C classes, R draws, T pictures of a draw.
"""Few-shot accuracy: least squares on a few pictures of each class, the same settings for every encoder and set.

The protocol of big_vision's `fewshot_lsr` evaluator (Beyer et al.; Dosovitskiy et al., arXiv 2010.11929, section 4.1,
report it): the drawn pictures' features are standardised by their own mean and deviation, targets are +1 for the class
and -1 for all others, and ridge regression with a fixed L2 of 2^10, its bias as good as free, gives one score per
class. Nothing is tuned. The draws are nested: the pictures of 5 shots are among those of 10.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from components.core.evaluation.linear_head import LinearHead

SHOTS = (1, 5, 10, 25)  # P: big_vision's evaluators
L2 = 2.0**10  # P: fewshot_lsr
CONSTANT = 100.0  # P: fewshot_lsr; so large that the L2 hardly touches the bias
STD_OFFSET = 1e-5  # P: fewshot_lsr


def usable_shots(labels_M: Tensor, num_classes: int, shots: Sequence[int] = SHOTS) -> list[int]:
    """Returns the numbers of shots that every class has pictures for."""
    fewest = int(torch.bincount(labels_M, minlength=num_classes).min())
    return [n for n in shots if n <= fewest]


def predict(
    train_MD: Tensor,
    labels_M: Tensor,
    test_ND: Tensor,
    *,
    shots: Sequence[int],
    num_draws: int,
    num_classes: int,
    seed: int,
) -> dict[int, Tensor]:
    """Returns the predicted classes, (R, N) on the CPU, for each number of shots.

    Args:
        train_MD: Features to draw from.
        labels_M: Their classes; each has as many pictures as the greatest number of shots.
        test_ND: Features to classify.
        shots: Pictures of each class in a draw.
        num_draws: R.
        num_classes: C.
        seed: Decides the draws, all of them.
    """
    found: dict[int, list[Tensor]] = {n: [] for n in shots}
    for drawn in draws(labels_M, shots, num_draws, seed):
        for n, drawn_T in drawn.items():
            head = least_squares(train_MD[drawn_T], labels_M[drawn_T], num_classes)
            found[n].append(head.predict(test_ND))
    return {n: torch.stack(predictions) for n, predictions in found.items()}


def draws(labels_M: Tensor, shots: Sequence[int], num_draws: int, seed: int) -> Iterator[dict[int, Tensor]]:
    """Yields, R times, the numbers of the drawn pictures for each number of shots, class by class."""
    labels_M = labels_M.cpu()
    generator = torch.Generator().manual_seed(seed)
    sizes_C = torch.bincount(labels_M)
    starts_C = sizes_C.cumsum(0) - sizes_C
    for _ in range(num_draws):
        shuffled_M = torch.randperm(len(labels_M), generator=generator)
        ordered_M = shuffled_M[labels_M[shuffled_M].argsort(stable=True)]
        place_M = torch.arange(len(labels_M)) - starts_C[labels_M[ordered_M]]
        yield {n: ordered_M[place_M < n] for n in shots}


def least_squares(features_TD: Tensor, labels_T: Tensor, num_classes: int) -> LinearHead:
    """Returns the ridge regression from standardised features to +1 for the class and -1 for the others, in float64."""
    features_TD = features_TD.double()
    mean_D, std_D = features_TD.mean(dim=0), features_TD.std(dim=0, correction=0) + STD_OFFSET
    constant_T1 = features_TD.new_full((len(features_TD), 1), CONSTANT)
    inputs_TF = torch.cat([(features_TD - mean_D) / std_D, constant_T1], dim=1)
    targets_TC = 2 * torch.nn.functional.one_hot(labels_T, num_classes).double() - 1
    if len(inputs_TF) >= inputs_TF.shape[1]:
        weight_FC = torch.linalg.solve(_with_l2(inputs_TF.T @ inputs_TF), inputs_TF.T @ targets_TC)
    else:
        weight_FC = inputs_TF.T @ torch.linalg.solve(_with_l2(inputs_TF @ inputs_TF.T), targets_TC)
    return LinearHead(weight_FC[:-1], CONSTANT * weight_FC[-1], mean_D, std_D)


def _with_l2(gram_FF: Tensor) -> Tensor:
    gram_FF.diagonal().add_(L2)
    return gram_FF
