"""Similarities of pictures that no encoder is needed for: their colours, texture, words and labels."""

# N pictures, H bins of a histogram, L letters

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.spatial.distance import cdist

COLOUR_LEVELS = 4  # per channel: 64 bins
ORIENTATIONS = 8
SCALES = 3  # octaves
MAX_SIDE_PX = 128


def colour_histogram(picture: Image.Image) -> np.ndarray:
    """Returns the share of the picture in each of 4 x 4 x 4 bins of red, green and blue, [64]."""
    levels = np.asarray(_reduced(picture).convert("RGB")).reshape(-1, 3).astype(np.int64) * COLOUR_LEVELS // 256
    bins = (levels * COLOUR_LEVELS ** np.arange(3)).sum(axis=1)
    return np.bincount(bins, minlength=COLOUR_LEVELS**3) / len(bins)


def texture_histogram(picture: Image.Image) -> np.ndarray:
    """Returns how strongly brightness changes, by orientation and scale, as shares of all change, [24].

    Gradients of the grey picture, without their sign, in 8 orientations at full, half and quarter size; a picture
    without any change has equal shares.
    """
    grey = _reduced(picture).convert("L")
    shares = []
    for scale in range(SCALES):
        size = [max(2, side >> scale) for side in grey.size]
        down, across = np.gradient(np.asarray(grey.resize((size[0], size[1]), Image.Resampling.BOX), np.float64))
        angles = np.mod(np.arctan2(down, across), np.pi) * ORIENTATIONS / np.pi
        bins = np.minimum(angles.astype(np.int64), ORIENTATIONS - 1).ravel()
        strength = np.hypot(down, across).ravel() / down.size
        shares.append(np.bincount(bins, strength, minlength=ORIENTATIONS))
    found = np.concatenate(shares)
    return found / found.sum() if found.sum() > 0 else np.full(len(found), 1 / len(found))


def intersection(histograms_NH: np.ndarray) -> np.ndarray:
    """Returns the share that each two histograms have in common, [N, N] (Swain and Ballard 1991)."""
    return 1 - cdist(histograms_NH, histograms_NH, "cityblock") / 2


def same_label(labels_N: np.ndarray) -> np.ndarray:
    """Returns 1 where two labels are equal, else 0, [N, N]."""
    return (labels_N[:, None] == labels_N[None, :]).astype(np.float64)


def same_letters(strings: Sequence[str]) -> np.ndarray:
    """Returns 1 minus the edit distance over the length of the longer one, for each two strings, [N, N]."""
    lengths_N = np.array([len(string) for string in strings])
    longest = max(1, int(lengths_N.max(initial=0)))
    letters_NL = np.array([[ord(letter) for letter in string.ljust(longest)] for string in strings])
    first_N1, second_1N = lengths_N[:, None], lengths_N[None, :]
    zeros_NN = np.zeros((len(strings), len(strings)), np.int64)
    above = [zeros_NN + column for column in range(longest + 1)]  # distances of no letter from the first ones
    distances_NN = np.where(first_N1 == 0, zeros_NN + second_1N, 0)
    for row in range(1, longest + 1):
        here = [zeros_NN + row]
        for column in range(1, longest + 1):
            is_other_NN = letters_NL[:, None, row - 1] != letters_NL[None, :, column - 1]
            here.append(np.minimum(np.minimum(above[column], here[-1]) + 1, above[column - 1] + is_other_NN))
        for column, found_NN in enumerate(here):
            distances_NN = np.where((first_N1 == row) & (second_1N == column), found_NN, distances_NN)
        above = here
    return 1 - distances_NN / np.maximum(1, np.maximum(first_N1, second_1N))


def _reduced(picture: Image.Image) -> Image.Image:
    small = picture.copy()
    small.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.BOX)
    return small
