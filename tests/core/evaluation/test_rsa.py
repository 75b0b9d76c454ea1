"""Partial RSA against residual regression and SciPy, and its intervals against resampling with new ranks."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from components.core.evaluation import rsa

N = 60
UPPER = np.triu_indices(N, 1)


def _matrix(values_P: np.ndarray) -> np.ndarray:
    matrix_NN = np.zeros((N, N))
    matrix_NN[UPPER] = values_P
    return matrix_NN + matrix_NN.T


@pytest.fixture(name="found")
def _found() -> dict[str, np.ndarray]:
    """Returns an encoder that follows colour and, weakly, style; text goes with colour, the encoder ignores it."""
    generator = np.random.default_rng(0)
    colour, style, text, noise = (generator.standard_normal((N, 3)) for _ in range(4))
    near = [-np.linalg.norm(f[:, None] - f[None, :], axis=2) for f in (colour, style, text, noise)]
    same = (generator.integers(4, size=N)[:, None] == np.arange(4)).astype(float)
    return {
        "encoder": near[0] + 0.4 * near[1] + 0.5 * near[3],
        "colour": near[0],
        "style": near[1],
        "text": near[0] + near[2],
        "category": same @ same.T,
    }


def _residual(values_P: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    design = np.stack([np.ones(len(values_P)), *others], axis=1)
    return values_P - design @ np.linalg.lstsq(design, values_P)[0]


def test_the_partial_correlation_is_that_of_the_residuals(found: dict[str, np.ndarray]) -> None:
    encoder_NN = found.pop("encoder")
    results = rsa.References(found, num_resamples=50, seed=0, confidence=0.95).compare([encoder_NN])
    ranks = {name: rankdata(matrix_NN[UPPER]) for name, matrix_NN in found.items()}
    for name, result in results.items():
        assert result.rsa == pytest.approx(spearmanr(encoder_NN[UPPER], found[name][UPPER]).statistic)
        others = [ranks[other] for other in ranks if other != name]
        own, reference = (_residual(r, others) for r in (rankdata(encoder_NN[UPPER]), ranks[name]))
        assert result.partial == pytest.approx(np.corrcoef(own, reference)[0, 1])
        assert result.per_replicate == [result.partial]
    assert results["text"].rsa > 0.4 and abs(results["text"].partial) < 0.15  # it only went with colour
    assert results["colour"].partial_low > 0.5 and results["style"].partial_low > 0


def test_two_variables_have_no_third_to_hold_fixed() -> None:
    covariance = np.array([[[4.0, 1.2], [1.2, 1.0]]])
    plain, partial = rsa.partial_correlations(covariance)
    assert plain == partial == pytest.approx(0.6)


def test_the_interval_is_that_of_resampled_pictures(found: dict[str, np.ndarray]) -> None:
    """A slow bootstrap that repeats rows and columns, leaves out pictures paired with themselves, and ranks anew."""
    encoder_NN = found.pop("encoder")
    results = rsa.References(found, num_resamples=400, seed=0, confidence=0.95).compare([encoder_NN])
    generator = np.random.default_rng(1)
    drawn = []
    for _ in range(400):
        picked = np.sort(generator.integers(N, size=N))
        is_pair = picked[UPPER[0]] != picked[UPPER[1]]
        columns = [m[np.ix_(picked, picked)][UPPER][is_pair] for m in (encoder_NN, *found.values())]
        precision = np.linalg.inv(np.corrcoef([rankdata(column) for column in columns]))
        drawn.append(-precision[0, 1:] / np.sqrt(precision[0, 0] * np.diagonal(precision)[1:]))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    for index, result in enumerate(results.values()):
        assert result.partial_high - result.partial_low == pytest.approx(high[index] - low[index], rel=0.25)
        assert [result.partial_low, result.partial_high] == pytest.approx([low[index], high[index]], abs=0.03)


def test_an_unrelated_reference_is_within_the_interval_at_its_rate() -> None:
    generator = np.random.default_rng(3)
    covers = []
    for seed in range(60):
        references = {name: _unrelated(generator) for name in ("colour", "style")}
        results = rsa.References(references, num_resamples=100, seed=seed, confidence=0.95).compare(
            [_unrelated(generator)]
        )
        covers += [result.partial_low <= 0 <= result.partial_high for result in results.values()]
    assert np.mean(covers) > 0.88


def _unrelated(generator: np.random.Generator) -> np.ndarray:
    rows_ND = generator.standard_normal((N, 4))
    return rows_ND @ rows_ND.T


def test_replicates_are_averaged_over_the_same_resamples(found: dict[str, np.ndarray]) -> None:
    encoder_NN = found.pop("encoder")
    other_NN = encoder_NN + _matrix(np.random.default_rng(4).standard_normal(len(UPPER[0])))
    references = rsa.References(found, num_resamples=50, seed=0, confidence=0.95)
    both, one, other = (references.compare(e) for e in ([encoder_NN, other_NN], [encoder_NN], [other_NN]))
    for name, result in both.items():
        assert result.per_replicate == pytest.approx([one[name].partial, other[name].partial])
        assert result.partial == pytest.approx(np.mean(result.per_replicate))
        assert result.rsa == pytest.approx((one[name].rsa + other[name].rsa) / 2)
    twice = references.compare([encoder_NN, encoder_NN])
    assert [r.partial_low for r in twice.values()] == pytest.approx([r.partial_low for r in one.values()])


def test_references_that_say_nothing_of_their_own_are_found(found: dict[str, np.ndarray]) -> None:
    references = {
        "colour": found["colour"],
        "constant": np.ones((N, N)),
        "again": 2 * found["colour"] + 1,
        "text": found["text"],
    }
    assert rsa.usable(references) == {"colour": True, "constant": False, "again": False, "text": True}
