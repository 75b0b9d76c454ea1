"""The trunk: the same bits for every arm, and tokens that mean what they say."""

import pytest
import torch

from components.core.models.trunk import Trunk, weights_sha256

SMALL = {"image_size_px": 32, "patch_size_px": 8, "width": 24, "depth": 3, "num_heads": 2}


def test_the_init_is_the_same_bits_whatever_was_drawn_before() -> None:
    first = Trunk(**SMALL, seed=5)
    torch.rand(7)
    second = Trunk(**SMALL, seed=5)
    assert weights_sha256(first) == weights_sha256(second)
    assert weights_sha256(first) != weights_sha256(Trunk(**SMALL, seed=6))


def test_building_a_trunk_leaves_the_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Trunk(**SMALL, seed=5)
    assert torch.equal(torch.rand(1), expected)


def test_forward_equals_the_cls_of_tokens_and_timms_own_features() -> None:
    trunk = Trunk(**SMALL, seed=0).eval()
    images = torch.rand(2, 3, 32, 32)
    tokens = trunk.tokens(images)
    theirs = trunk.vit.forward_features((images - trunk.mean_C11) / trunk.std_C11)
    torch.testing.assert_close(trunk(images), theirs[:, 0])
    torch.testing.assert_close(tokens.cls_BD, theirs[:, 0])
    torch.testing.assert_close(tokens.patches_BND, theirs[:, 1:])


def test_the_penultimate_tokens_leave_the_second_to_last_block() -> None:
    trunk = Trunk(**SMALL, seed=0).eval()
    images = torch.rand(2, 3, 32, 32)
    tokens = trunk.tokens(images)
    theirs = trunk.vit.forward_intermediates(
        (images - trunk.mean_C11) / trunk.std_C11,
        indices=[1],
        norm=False,
        output_fmt="NLC",
        intermediates_only=True,
    )
    torch.testing.assert_close(tokens.penultimate_BND, theirs[0])


def test_small_crops_pass_through_an_interpolated_position_embedding() -> None:
    trunk = Trunk(**SMALL, seed=0)
    assert trunk(torch.rand(2, 3, 16, 16)).shape == (2, 24)
    assert trunk.num_patches == 16


def test_a_size_that_is_no_multiple_of_the_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size_px=30 is not a multiple"):
        Trunk(**{**SMALL, "image_size_px": 30}, seed=0)


def test_cls_alone_has_the_gradients_that_all_tokens_give() -> None:
    trunk, images = Trunk(**SMALL, seed=0).double(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    direction_D = torch.rand(24, dtype=torch.float64)
    found = torch.autograd.grad((trunk(images) @ direction_D).sum(), trunk.parameters())
    expected = torch.autograd.grad((trunk.tokens(images).cls_BD @ direction_D).sum(), trunk.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
