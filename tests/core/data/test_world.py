"""The synthetic world: pure, independent of what it should be independent of, and silent about what it should
not say.
"""

import numpy as np

from components.core.data.world import BACKGROUNDS, COLOURS, FACTORS, STYLES, caption, draw, sample_scene


def test_a_scene_is_a_pure_function_of_seed_and_index() -> None:
    assert sample_scene(3, 17) == sample_scene(3, 17)
    assert sample_scene(3, 17) != sample_scene(4, 17)
    assert sample_scene(3, 17) != sample_scene(3, 18)


def test_a_picture_is_a_pure_function_of_scene_and_size() -> None:
    scene = sample_scene(0, 5)
    picture = draw(scene, 48)
    assert picture.mode == "RGB" and picture.size == (48, 48)
    assert picture.tobytes() == draw(sample_scene(0, 5), 48).tobytes()


def test_captions_never_name_colour_background_or_style() -> None:
    forbidden = {*COLOURS, *BACKGROUNDS, *STYLES}
    captions = [caption(sample_scene(0, index)) for index in range(500)]
    assert not any(forbidden & set(text.split()) for text in captions)


def test_captions_always_name_the_word_and_half_of_them_the_object() -> None:
    num_naming_it = 0
    for index in range(400):
        scene = sample_scene(1, index)
        words = caption(scene).split()
        assert scene.word in words
        named = [name for name in FACTORS["object"] if any(word.startswith(name) for word in words)]
        assert named in ([], [scene.object])
        num_naming_it += len(named)
    assert 150 < num_naming_it < 250


def test_factors_are_uniform_and_pairwise_independent() -> None:
    scenes = [sample_scene(0, index) for index in range(4000)]
    codes = {
        name: np.array([values.index(getattr(scene, name)) for scene in scenes]) for name, values in FACTORS.items()
    }
    names = list(FACTORS)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            rows, columns = len(FACTORS[first]), len(FACTORS[second])
            table = np.bincount(codes[first] * columns + codes[second], minlength=rows * columns)
            expected = len(scenes) / (rows * columns)
            freedom = rows * columns - 1
            chi2 = ((table - expected) ** 2 / expected).sum()
            assert chi2 < freedom + 5 * np.sqrt(2 * freedom), f"{first} and {second}"
