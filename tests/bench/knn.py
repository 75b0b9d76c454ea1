"""k-nearest-neighbour classification at all four k, beside scikit-learn and faiss's exact search."""

from collections.abc import Callable
from typing import Any

import numpy
import torch

from components.core.evaluation import knn
from tests.bench.measure import Contender, NotEqual, compare_pair, cost, peers_python

NUM_TRAIN, NUM_TEST, WIDTH, NUM_CLASSES, TEMPERATURE = 10_000, 2_000, 384, 100, 0.07
MIN_EQUAL = 0.999  # of the predictions; the rest are votes that tie but for rounding
WHAT = "k-NN, k of 10, 20, 100, 200"


def rows() -> None:
    """Prints a row per peer that predicts the same."""
    ours = Contender("ours", f"{__name__}:ours")
    expected = numpy.array(cost(ours).found)
    sklearn = Contender("scikit-learn, brute force", f"{__name__}:with_sklearn")
    faiss = Contender("faiss-cpu, IndexFlatIP", f"{__name__}:with_faiss", python=peers_python())
    for peer in (sklearn, faiss):
        share = (numpy.array(cost(peer).found) == expected).mean()
        if share < MIN_EQUAL:
            raise NotEqual(f"{peer.name} predicts the same for {share:.2%} only")
        compare_pair(WHAT, _silent(ours), _silent(peer))


def ours(is_silent: bool = False) -> Callable[[], list[list[int]]]:
    """Prepares ours."""
    train_MD, labels_M, test_ND = _data()
    settings = {"neighbours": knn.NEIGHBOURS, "num_classes": NUM_CLASSES, "temperature": TEMPERATURE}
    return lambda: _listed(knn.predict(train_MD, labels_M, test_ND, **settings), is_silent)


def with_sklearn(is_silent: bool = False) -> Callable[[], list[list[int]]]:
    """Prepares scikit-learn, a classifier per k."""
    from sklearn.neighbors import KNeighborsClassifier

    train_MD, labels_M, test_ND = (of.numpy() for of in _data())

    def weights(distance: numpy.ndarray) -> numpy.ndarray:
        return numpy.exp((1 - distance) / TEMPERATURE)

    def work() -> list[list[int]]:
        found = {}
        for k in knn.NEIGHBOURS:
            classifier = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
            found[k] = classifier.fit(train_MD, labels_M).predict(test_ND)
        return _listed(found, is_silent)

    return work


def with_faiss(is_silent: bool = False) -> Callable[[], list[list[int]]]:
    """Prepares faiss: its normalisation and index, one search for the largest k, and our votes."""
    import faiss

    faiss.omp_set_num_threads(1)
    train_MD, labels_M, test_ND = _data()

    def work() -> list[list[int]]:
        train, test = (of.numpy().copy() for of in (train_MD, test_ND))
        faiss.normalize_L2(train)
        faiss.normalize_L2(test)
        index = faiss.IndexFlatIP(WIDTH)
        index.add(train)
        similarity_NK, index_NK = (torch.from_numpy(of) for of in index.search(test, max(knn.NEIGHBOURS)))
        settings = {"neighbours": knn.NEIGHBOURS, "num_classes": NUM_CLASSES, "temperature": TEMPERATURE}
        return _listed(knn.vote(similarity_NK, labels_M[index_NK], **settings), is_silent)

    return work


def _silent(contender: Contender) -> Contender:
    """Returns the contender without its predictions, because near-ties may fall either way."""
    return Contender(contender.name, contender.work, (True,), contender.python)


def _listed(found: dict[int, Any], is_silent: bool) -> list[list[int]]:
    return [] if is_silent else [found[k].tolist() for k in knn.NEIGHBOURS]


def _data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns training vectors, their labels, and test vectors."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    train_MD, test_ND = (torch.randn(n, WIDTH, generator=generator) for n in (NUM_TRAIN, NUM_TEST))
    return train_MD, torch.randint(0, NUM_CLASSES, (NUM_TRAIN,), generator=generator), test_ND
