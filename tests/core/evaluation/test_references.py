"""Similarities of pictures that no encoder is needed for, on pictures whose answer is known."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from components.core.evaluation import references

NOISE = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8))


def _stripes(angle: float) -> Image.Image:
    down, across = np.mgrid[:48, :48]
    return _picture(127 + 120 * np.sin(0.8 * (across * np.cos(angle) + down * np.sin(angle)))).convert("RGB")


def test_a_colour_histogram_counts_colours_wherever_they_are() -> None:
    red, half = np.zeros((10, 10, 3)), np.zeros((10, 10, 3))
    red[..., 0] = 255
    half[:5, :, 0] = 255
    half[5:, :, 2] = 200
    pictures = [_picture(red), _picture(half), _picture(half[::-1]), _picture(np.zeros((10, 10, 3)))]
    histograms = np.stack([references.colour_histogram(picture) for picture in pictures])
    assert histograms.shape == (4, 64) and histograms.sum(axis=1) == pytest.approx(1)
    expected = [[1, 0.5, 0.5, 0], [0.5, 1, 1, 0], [0.5, 1, 1, 0], [0, 0, 0, 1]]
    assert references.intersection(histograms) == pytest.approx(np.array(expected))


def test_texture_is_orientation_and_scale_but_not_colour_or_place() -> None:
    across, along, fine = _stripes(0.0), _stripes(np.pi / 2), _picture(NOISE).convert("RGB")
    coarse = fine.filter(ImageFilter.GaussianBlur(3))
    histograms = np.stack([references.texture_histogram(p) for p in (across, along, fine, coarse)])
    assert histograms.shape == (4, 24) and histograms.sum(axis=1) == pytest.approx(1)
    alike = references.intersection(histograms)
    assert alike[0, 1] < 0.2 and alike[2, 3] < 0.8
    shifted = references.texture_histogram(_picture(np.roll(np.asarray(across), 5, axis=1)))
    assert references.intersection(np.stack([shifted, histograms[0]]))[0, 1] > 0.9


def test_a_picture_without_texture_has_equal_shares() -> None:
    assert references.texture_histogram(Image.new("RGB", (30, 20))) == pytest.approx(np.full(24, 1 / 24))


def test_letters_are_compared_by_edit_distance() -> None:
    strings = ["kitten", "sitting", "", "kit", "kitten"]
    found = references.same_letters(strings)
    assert found[0].tolist() == pytest.approx([1, 1 - 3 / 7, 0, 0.5, 1])
    assert (found == found.T).all() and found[2, 2] == 1


def test_labels_are_the_same_or_not() -> None:
    assert references.same_label(np.array([1, 2, 1])).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
