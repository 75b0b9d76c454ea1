"""The linear probe's grid in one pass, beside the same settings trained one after the other by torch's own parts.

5 learning rates x 5 weight decays, chosen on a validation split, then trained again on all of the training pictures.
Two sizes: the laptop preset's, where a step is small, and that of CIFAR-10's first pictures before a ViT-S, where the
products, which are the same for both, take most of the time.
"""

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F

from components.core.evaluation import linear_probe
from components.core.evaluation.linear_head import standardisation
from components.core.evaluation.linear_probe import Recipe
from components.core.evaluation.splits import validation_split
from tests.bench.measure import Contender, NotEqual, compare_pair, cost

LEARNING_RATES, WEIGHT_DECAYS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (0.0, 1e-3, 1e-2, 1e-1, 1.0)
MAX_DIFFERENCE = 0.001  # of the test accuracy


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a set of features is, and how it is trained on."""

    num_train: int
    width: int
    num_classes: int
    batch_size: int
    epochs: int


SIZES = {
    "probe sweep, 25 settings, 3,000 x 64": Size(3_000, 64, 10, 512, 50),
    "probe sweep, 25 settings, 5,000 x 384": Size(5_000, 384, 10, 512, 20),
}


def rows() -> None:
    """Prints a row per size, once both sides choose from equal validation accuracies and test equally well."""
    for what, size in SIZES.items():
        arguments = (dataclasses.astuple(size),)
        ours = Contender("ours, one pass", f"{__name__}:ours", arguments)
        peer = Contender("torch AdamW, a head at a time", f"{__name__}:one_by_one", arguments)
        (our_validation, our_test), (validation, test) = cost(ours).found, cost(peer).found
        if max(abs(our_validation - validation), abs(our_test - test)) > MAX_DIFFERENCE:
            raise NotEqual(f"{what}: validation {our_validation} and {validation}, test {our_test} and {test}")
        silent = (
            dataclasses.replace(contender, arguments=(*arguments, True)) for contender in (ours, peer)
        )  # near-ties of the validation accuracy may fall either way
        compare_pair(what, *silent)


def ours(size: tuple[int, ...], is_silent: bool = False) -> Callable[[], list[float]]:
    """Prepares ours."""
    features_ND, labels_N, test_ND, truth_N = _data(Size(*size))
    recipe = _recipe(Size(*size))

    def work() -> list[float]:
        split = validation_split(labels_N, 0.2, seed=0)
        probe = linear_probe.fit(features_ND, labels_N, split, num_classes=Size(*size).num_classes, recipe=recipe)
        accuracy = float((probe.head.predict(test_ND) == truth_N).double().mean())
        return [] if is_silent else [probe.validation_accuracy, accuracy]

    return work


def one_by_one(size: tuple[int, ...], is_silent: bool = False) -> Callable[[], list[float]]:
    """Prepares separate runs, with torch's fused AdamW, its fastest on a CPU."""
    features_ND, labels_N, test_ND, truth_N = _data(Size(*size))
    _train_alone(features_ND[:8], labels_N[:8], (0.1, 0.0), Size(*size))  # torch imports its compiler on first use

    def work() -> list[float]:
        split = validation_split(labels_N, 0.2, seed=0)
        validation = {}
        for setting in _recipe(Size(*size)).grid:
            mean_D, std_D = standardisation(features_ND[split.kept])
            scaled_ND = (features_ND - mean_D) / std_D
            head = _train_alone(scaled_ND[split.kept], labels_N[split.kept], setting, Size(*size))
            validation[setting] = _accuracy(head, scaled_ND[split.held_out], labels_N[split.held_out])
        best = max(validation, key=lambda setting: validation[setting])
        mean_D, std_D = standardisation(features_ND)
        head = _train_alone((features_ND - mean_D) / std_D, labels_N, best, Size(*size))
        return [] if is_silent else [validation[best], _accuracy(head, (test_ND - mean_D) / std_D, truth_N)]

    return work


def _train_alone(
    features_ND: torch.Tensor, labels_N: torch.Tensor, setting: tuple[float, float], size: Size
) -> torch.nn.Linear:
    head = torch.nn.Linear(size.width, size.num_classes)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=setting[0], weight_decay=setting[1], fused=True)
    num_steps = size.epochs * -(-len(features_ND) // size.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(size.epochs):
        for index_B in torch.randperm(len(features_ND), generator=generator).split(size.batch_size):
            loss = F.cross_entropy(head(features_ND[index_B]), labels_N[index_B])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head


@torch.inference_mode()
def _accuracy(head: torch.nn.Linear, features_ND: torch.Tensor, labels_N: torch.Tensor) -> float:
    return float((head(features_ND).argmax(dim=1) == labels_N).double().mean())


def _recipe(size: Size) -> Recipe:
    return Recipe(
        learning_rates=LEARNING_RATES,
        weight_decays=WEIGHT_DECAYS,
        epochs=size.epochs,
        batch_size=size.batch_size,
        seed=0,
    )


def _data(size: Size) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns features and labels of training and of test pictures: overlapping clouds, one per class."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    centres_CD = 4 / size.width**0.5 * torch.randn(size.num_classes, size.width, generator=generator)
    parts = []
    for n in (size.num_train, 2_000):
        labels_N = torch.randint(0, size.num_classes, (n,), generator=generator)
        parts += [centres_CD[labels_N] + torch.randn(n, size.width, generator=generator), labels_N]
    return parts[0], parts[1], parts[2], parts[3]
