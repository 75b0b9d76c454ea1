# M train, N test, D width, C classes, P classes that have training pictures, R draws.
"""The scores of one factor by every method, each choice made on training pictures alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from components.core.evaluation import few_shot, knn, linear_probe, logistic_regression, zero_shot
from components.core.evaluation.intervals import wilson
from components.core.evaluation.linear_probe import Recipe
from components.core.evaluation.seeds import accuracy
from components.core.evaluation.splits import validation_split
from components.evaluate.params import Params
from components.evaluate.subjects import Subject

REPORTED_K = 20  # DINO's protocol reports 20 neighbours
FEW_TEST_PICTURES = 100


@dataclass
class Scores:
    """What is found about one factor.

    Attributes:
        scores: By method; k-NN's by k, few-shot's by number of pictures per class.
        predictions: Classes of the test pictures, (N,), by method.
        warnings: What a reader of the scores must know.
    """

    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    predictions: dict[str, Tensor] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def score(subject: Subject, params: Params) -> Scores:
    """Returns the scores of a factor.

    A class without training pictures can't be predicted, save by zero-shot; its test pictures count as wrong.

    Raises:
        ValueError: There are no test pictures, or training pictures of fewer than two classes.
    """
    class_P, target_M = subject.labels_M.unique(return_inverse=True)
    if len(subject.labels_N) == 0 or len(class_P) < 2:
        raise ValueError(
            f"factor '{subject.factor}' has training pictures of {len(class_P)} and test pictures of "
            f"{len(subject.labels_N.unique())} classes, expected at least 2 and 1: give features of more pictures"
        )
    found = Scores(warnings=_coverage(subject))
    class_P = class_P.cpu()
    share_C = torch.bincount(subject.labels_M.cpu(), minlength=len(subject.names)).double() / len(target_M)
    chance = float(share_C[subject.labels_N].mean())

    def state(found_N: Tensor, **choices: Any) -> dict[str, Any]:
        num_right, n = int((found_N == subject.labels_N).sum()), len(found_N)
        low, high = wilson(num_right, n, params.confidence)
        return {"accuracy": num_right / n, "low": low, "high": high, "n": n, "chance": chance} | choices

    for method, head, choices in _probes(subject, target_M, len(class_P), params):
        found.predictions[method] = class_P[head.predict(subject.test_ND)]
        found.scores[method] = state(found.predictions[method], **choices)
        if not choices.get("is_converged", True):
            found.warnings.append(f"{method} stopped at {logistic_regression.MAX_ITERATIONS} iterations")
    neighbours = [k for k in knn.NEIGHBOURS if k <= len(target_M)]
    if neighbours:
        voted = knn.predict(
            subject.train_MD,
            target_M,
            subject.test_ND,
            neighbours=neighbours,
            num_classes=len(class_P),
            temperature=params.knn_temperature,
        )
        found.scores["knn"] = {str(k): state(class_P[found_N]) for k, found_N in voted.items()}
        found.predictions["knn"] = class_P[voted[max(k for k in neighbours if k <= REPORTED_K)]]
    if len(neighbours) < len(knn.NEIGHBOURS):
        found.warnings.append(f"k-NN with k above {len(target_M)}, the number of training pictures, is left out")
    _score_few_shot(subject, target_M, class_P, params, found)
    if subject.joint_NE is not None and subject.classes_CE is not None:
        found.predictions["zero_shot"] = zero_shot.predict(subject.joint_NE, subject.classes_CE)
        found.scores["zero_shot"] = state(found.predictions["zero_shot"], chance=1 / len(subject.names))
    found.predictions |= {"labels": subject.labels_N, "ids": subject.ids_N}
    return found


def _probes(subject: Subject, target_M: Tensor, num_classes: int, params: Params) -> list[tuple[str, Any, dict]]:
    """Returns method, head and choices of both linear probes."""
    split = validation_split(target_M, params.validation_fraction, params.seed)
    recipe = Recipe(
        learning_rates=params.grid("probe_learning_rates"),
        weight_decays=params.grid("probe_weight_decays"),
        epochs=params.probe_epochs,
        batch_size=params.probe_batch_size,
        seed=params.seed,
    )
    probe = linear_probe.fit(subject.train_MD, target_M, split, num_classes=num_classes, recipe=recipe)
    logistic = logistic_regression.fit(subject.train_MD, target_M, split, num_classes=num_classes)
    probe_choices = {
        "learning_rate": probe.learning_rate,
        "weight_decay": probe.weight_decay,
        "validation_accuracy": probe.validation_accuracy,
    }
    logistic_choices = {
        "inverse_strength": logistic.inverse_strength,
        "validation_accuracy": logistic.validation_accuracy,
        "is_converged": logistic.is_converged,
    }
    return [("probe", probe.head, probe_choices), ("logistic", logistic.head, logistic_choices)]


def _score_few_shot(subject: Subject, target_M: Tensor, class_P: Tensor, params: Params, found: Scores) -> None:
    shots = few_shot.usable_shots(target_M, len(class_P))
    if len(shots) < len(few_shot.SHOTS):
        found.warnings.append(f"few-shot with more than {shots[-1]} pictures of a class is left out: one has too few")
    draws = few_shot.predict(
        subject.train_MD,
        target_M,
        subject.test_ND,
        shots=shots,
        num_draws=params.few_shot_draws,
        num_classes=len(class_P),
        seed=params.seed,
    )
    chance = float(torch.isin(subject.labels_N, class_P).double().mean()) / len(class_P)
    found.scores["few_shot"] = {}
    for n, found_RN in draws.items():
        of = accuracy((class_P[found_RN] == subject.labels_N).numpy(), params.confidence)
        stated = {"accuracy": of.mean, "sd": of.sd, "low": of.low, "high": of.high, "n": of.n, "chance": chance}
        found.scores["few_shot"][str(n)] = stated


def _coverage(subject: Subject) -> list[str]:
    """Returns what is thin about the pictures."""
    num_C = [torch.bincount(of.cpu(), minlength=len(subject.names)) for of in (subject.labels_M, subject.labels_N)]
    untrained, untested = ([name for name, n in zip(subject.names, of, strict=True) if not n] for of in num_C)
    found = []
    if untrained:
        num_wrong = int(num_C[1][num_C[0] == 0].sum())
        found.append(f"{_named(untrained)} without training pictures: {num_wrong} test pictures count as wrong")
    if untested:
        found.append(f"{_named(untested)} without test pictures")
    if len(subject.labels_N) < FEW_TEST_PICTURES:
        found.append(f"only {len(subject.labels_N)} test pictures: the intervals are wide")
    return found


def _named(classes: Sequence[str]) -> str:
    """Returns how many classes they are, and the first of them."""
    shown = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
    return f"{len(classes)} {'class' if len(classes) == 1 else 'classes'} ({shown})"
