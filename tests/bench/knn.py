"""k-nearest-neighbour classification at all four k, beside scikit-learn."""

from collections.abc import Callable

import numpy
import torch
from sklearn.neighbors import KNeighborsClassifier

from components.core.evaluation import knn
from tests.bench.measure import Contender, NotEqual, compare_pair


def rows() -> None:
    """Prints the row, once both agree in over 99.5 % of the predictions, the rest being ties."""
    data = _data()
    found, expected = _predict(*data), _predict_with_sklearn(*data)
    if not all((found[k].numpy() == expected[k]).mean() > 0.995 for k in knn.NEIGHBOURS):
        raise NotEqual("the predictions differ")
    peer = Contender("scikit-learn, brute force", f"{__name__}:peer")
    compare_pair("k-NN, k of 10, 20, 100, 200", Contender("ours", f"{__name__}:ours"), peer)


def ours() -> Callable[[], None]:
    """Prepares ours."""
    data = _data()
    return lambda: _ignore(_predict(*data))


def peer() -> Callable[[], None]:
    """Prepares the peer."""
    data = _data()
    return lambda: _ignore(_predict_with_sklearn(*data))


def _ignore(found: object) -> None:
    """Returns nothing, because ties may fall either way."""


def _data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns 10,000 training vectors, their labels, and 2,000 test vectors."""
    generator = torch.Generator().manual_seed(0)
    train, test = (
        torch.nn.functional.normalize(torch.randn(n, 384, generator=generator), dim=1) for n in (10_000, 2_000)
    )
    return train, torch.randint(0, 100, (10_000,), generator=generator), test


def _predict(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor) -> dict[int, torch.Tensor]:
    return knn.predict(train, labels, test, neighbours=knn.NEIGHBOURS, num_classes=100, temperature=0.07)


def _predict_with_sklearn(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor) -> dict[int, numpy.ndarray]:
    def weights(distance: numpy.ndarray) -> numpy.ndarray:
        return numpy.exp((1 - distance) / 0.07)

    settings = {"metric": "cosine", "algorithm": "brute", "weights": weights}
    return {
        k: KNeighborsClassifier(k, **settings).fit(train.numpy(), labels.numpy()).predict(test.numpy())
        for k in knn.NEIGHBOURS
    }
