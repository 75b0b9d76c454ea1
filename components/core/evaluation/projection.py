"""Pictures as points in the plane, by the two directions in which an encoder's features differ most."""

# N pictures, D features

import numpy as np

from components.core.evaluation.pair_tiles import unit_rows

METHOD = "PCA"


def project(rows_ND: np.ndarray) -> np.ndarray:
    """Returns the first two principal components of the features at unit length, [N, 2].

    A component's sign is the one that makes its largest weight positive; a direction that doesn't exist is zero.
    """
    unit_ND = unit_rows(rows_ND).astype(np.float64)
    centred_ND = unit_ND - unit_ND.mean(axis=0)
    _, _, directions_DD = np.linalg.svd(centred_ND, full_matrices=False)
    directions_2D = np.zeros((2, rows_ND.shape[1]))
    found_2D = directions_DD[:2]
    largest_2 = np.abs(found_2D).argmax(axis=1)
    directions_2D[: len(found_2D)] = found_2D * np.sign(found_2D[np.arange(len(found_2D)), largest_2])[:, None]
    return centred_ND @ directions_2D.T
