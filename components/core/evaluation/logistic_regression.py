# N pictures, D features, F features and a constant, C classes.
"""Multinomial logistic regression on frozen features by L-BFGS, its L2 strength chosen on a validation split.

The convex counterpart of the AdamW probe, as in Radford et al., arXiv 2103.00020, appendix A.3: full batch, at most
1,000 iterations, L2 strengths over decades. It minimises what scikit-learn's LogisticRegression does,

    mean cross-entropy + |W|^2 / (2 C N),

in float64, the biases free. Along the grid each fit starts where the one before it, regularised more, has ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from components.core.evaluation.linear_head import CHUNK, LinearHead, standardisation
from components.core.evaluation.splits import Split

INVERSE_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)  # of equally good ones the first is taken
MAX_ITERATIONS = 1000  # P: Radford et al.
TOLERANCE = 1e-4  # greatest element of the gradient; scikit-learn's default


@dataclass(frozen=True)
class Logistic:
    """A chosen and fitted logistic regression.

    Attributes:
        inverse_strength: The grid's choice of C; greater is less regularised.
        validation_accuracy: Of the choice, on the validation split.
        is_converged: Whether the last fit ended before the limit of iterations.
        head: Fitted with it on all of the training pictures.
    """

    inverse_strength: float
    validation_accuracy: float
    is_converged: bool
    head: LinearHead


def fit(
    features_ND: Tensor,
    labels_N: Tensor,
    split: Split,
    *,
    num_classes: int,
    inverse_strengths: Sequence[float] = INVERSE_STRENGTHS,
    tolerance: float = TOLERANCE,
) -> Logistic:
    """Returns the fit that does best on the validation split, fitted again on all of the training pictures.

    Args:
        features_ND: Training features; they are standardised.
        labels_N: Classes.
        split: Where C is chosen.
        num_classes: C of the shapes.
        inverse_strengths: The grid, ascending.
        tolerance: Greatest element of the gradient at which a fit ends.
    """
    truth_N = labels_N[split.held_out].cpu()
    best: tuple[float, float, Tensor] | None = None
    weight_FC = features_ND.new_zeros(features_ND.shape[1] + 1, num_classes, dtype=torch.float64)
    kept_ND, kept_labels_N = features_ND[split.kept], labels_N[split.kept]
    for inverse_strength in inverse_strengths:
        head, weight_FC, _ = solve(kept_ND, kept_labels_N, inverse_strength, weight_FC, tolerance)
        accuracy = float((head.predict(features_ND[split.held_out]) == truth_N).double().mean())
        if best is None or accuracy > best[0]:
            best = accuracy, inverse_strength, weight_FC
    assert best is not None, "the grid is empty"
    accuracy, inverse_strength, weight_FC = best
    head, _, is_converged = solve(features_ND, labels_N, inverse_strength, weight_FC, tolerance)
    return Logistic(inverse_strength, accuracy, is_converged, head)


def solve(
    features_ND: Tensor, labels_N: Tensor, inverse_strength: float, start_FC: Tensor, tolerance: float
) -> tuple[LinearHead, Tensor, bool]:
    """Returns the fit for one C, its weights (F, C) to start the next one from, and whether it converged.

    Args:
        features_ND: Features, standardised here by their own mean and deviation.
        labels_N: Classes.
        inverse_strength: C.
        start_FC: Where to begin, float64; the last row are the biases.
        tolerance: Greatest element of the gradient at which the fit ends.
    """
    mean_D, std_D = standardisation(features_ND)
    scaled_ND = (features_ND - mean_D) / std_D

    def objective(flat: numpy.ndarray) -> tuple[float, numpy.ndarray]:
        weight_FC = torch.from_numpy(flat).to(features_ND.device).view_as(start_FC)
        loss, gradient_FC = _cross_entropy(scaled_ND, labels_N, weight_FC)
        strength = 1 / (inverse_strength * len(labels_N))
        loss += strength / 2 * float(weight_FC[:-1].square().sum())
        gradient_FC[:-1] += strength * weight_FC[:-1]
        return loss, gradient_FC.flatten().cpu().numpy()

    options = {"maxiter": MAX_ITERATIONS, "gtol": tolerance, "ftol": 64 * numpy.finfo(float).eps, "maxls": 50}
    # SciPy's part are products of short vectors: several threads would spend their time on waiting for each other
    with threadpool_limits(1, user_api="blas"):
        found = minimize(objective, start_FC.flatten().cpu().numpy(), jac=True, method="L-BFGS-B", options=options)
    weight_FC = torch.from_numpy(found.x).to(features_ND.device).view_as(start_FC)
    head = LinearHead(weight_FC[:-1], weight_FC[-1], mean_D, std_D)
    return head, weight_FC, found.nit < MAX_ITERATIONS


def _cross_entropy(scaled_ND: Tensor, labels_N: Tensor, weight_FC: Tensor) -> tuple[float, Tensor]:
    """Returns the mean cross-entropy and its gradient (F, C), chunk by chunk."""
    loss, gradient_FC = 0.0, torch.zeros_like(weight_FC)
    for part_ND, truth_N in zip(scaled_ND.split(CHUNK), labels_N.split(CHUNK), strict=True):
        part_ND = part_ND.double()
        log_share_NC = torch.addmm(weight_FC[-1], part_ND, weight_FC[:-1]).log_softmax(dim=1)
        loss -= float(log_share_NC.gather(1, truth_N[:, None]).sum())
        error_NC = log_share_NC.exp_()
        error_NC.scatter_add_(1, truth_N[:, None], error_NC.new_full((1, 1), -1.0).expand(len(truth_N), 1))
        gradient_FC[:-1].addmm_(part_ND.T, error_NC)
        gradient_FC[-1] += error_NC.sum(dim=0)
    return loss / len(labels_N), gradient_FC.div_(len(labels_N))
