"""The projection keeps what varies most, and doesn't depend on the order of the pictures."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from components.core.evaluation import projection
from components.core.evaluation.pair_tiles import unit_rows


@pytest.fixture(name="rows_ND")
def _rows() -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((50, 6)) * np.arange(1, 7)).astype(np.float32)


def test_it_is_scikit_learns_up_to_the_sign(rows_ND: np.ndarray) -> None:
    expected_N2 = PCA(2).fit_transform(unit_rows(rows_ND).astype(float))
    np.testing.assert_allclose(np.abs(projection.project(rows_ND)), np.abs(expected_N2), atol=1e-6)


def test_the_order_of_the_pictures_changes_nothing(rows_ND: np.ndarray) -> None:
    order_N = np.random.default_rng(1).permutation(50)
    moved_N2 = projection.project(rows_ND[order_N])
    np.testing.assert_allclose(moved_N2, projection.project(rows_ND)[order_N], atol=1e-9)


def test_what_lies_on_a_line_has_one_coordinate() -> None:
    assert projection.project(np.ones((4, 1), np.float32)).tolist() == [[0, 0]] * 4
    assert projection.project(np.ones((1, 3), np.float32)).tolist() == [[0, 0]]
