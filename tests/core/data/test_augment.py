"""Batched views: Pillow's resize, torchvision's distribution of boxes, and randomness that depends on the
sample only.
"""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from components.core.data.augment import (
    View,
    _colour_matrix,
    _resample,
    crop_and_resize,
    make_view,
    random_boxes,
    resize_weights,
    uniform,
    whole_view,
)
from components.core.data.batch import stack_images

STRONG = View(
    size_px=32,
    scale_low=0.2,
    scale_high=1.0,
    flip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    grey=0.2,
    blur=0.5,
    solarise=0.2,
)


def _random_images(num_images: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_images, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("box", "size_px"), [((3, 5, 40, 31), 24), ((0, 0, 17, 20), 48), ((10, 2, 30, 44), 30)])
def test_crop_and_resize_equal_pillow_within_two_levels(box: tuple[int, int, int, int], size_px: int) -> None:
    image_CHW = _random_images(1, 50, 48)[0]
    top, left, height, width = box
    rows = resize_weights(torch.tensor([top]), torch.tensor([height]), 50, size_px)[0]
    columns = resize_weights(torch.tensor([left]), torch.tensor([width]), 48, size_px)[0]
    ours = (rows @ (image_CHW.float() @ columns.T)).clamp(0, 255)
    picture = Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
    theirs = np.asarray(picture.resize((size_px, size_px), Image.Resampling.BICUBIC), dtype=np.float32)
    # Pillow rounds and clips between its two passes; where bicubic overshoots noise, that clip is the
    # difference
    smooth = np.abs(ours.permute(1, 2, 0).numpy() - theirs)
    assert np.median(smooth) < 0.6
    assert np.quantile(smooth, 0.9) < 2.0


def test_crop_and_resize_of_a_photograph_like_image_equal_pillow_within_two_levels() -> None:
    gradient = np.add.outer(np.linspace(20, 200, 60), np.linspace(0, 35, 60))
    array = np.stack([gradient, gradient.T, 255 - gradient], axis=2).round().astype(np.uint8)
    ours = whole_view(torch.from_numpy(array).permute(2, 0, 1)[None], torch.tensor([[60, 60]]), 33)[0]
    theirs = np.asarray(Image.fromarray(array).resize((33, 33), Image.Resampling.BICUBIC), dtype=np.float32)
    assert np.abs(ours.permute(1, 2, 0).numpy() * 255 - theirs).max() <= 2


BOXES = torch.tensor([[3, 5, 40, 31], [0, 0, 50, 48], [10, 2, 12, 9]])


@pytest.mark.parametrize("size_px", [16, 33, 64])
def test_a_cpu_crops_and_resizes_as_pillow_within_one_level(size_px: int) -> None:
    images = _random_images(3, 50, 48) // 2 + 64  # bicubic never leaves 0 to 255, where the order of passes would tell
    ours = crop_and_resize(images, BOXES, size_px)
    for image_CHW, (top, left, height, width), found in zip(images, BOXES.tolist(), ours, strict=True):
        picture = Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
        theirs = np.asarray(picture.resize((size_px, size_px), Image.Resampling.BICUBIC), dtype=np.float32)
        assert np.abs(found.permute(1, 2, 0).numpy() * 255 - theirs).round().max() <= 1


def test_an_accelerators_matrices_agree_with_the_cpus_kernel_within_two_levels_on_smooth_pictures() -> None:
    """The batched product runs here too: an accelerator is the same code on another device."""
    gradient = torch.arange(50.0)[:, None] * 2 + torch.arange(48.0) * 2
    images = torch.stack([gradient, gradient.flip(0), 220 - gradient]).byte()[None].expand(3, -1, -1, -1)
    rows = resize_weights(BOXES[:, 0], BOXES[:, 2], 50, 24)
    columns = resize_weights(BOXES[:, 1], BOXES[:, 3], 48, 24)
    difference = (_resample(images, rows, columns) - crop_and_resize(images, BOXES, 24)).abs() * 255
    assert difference.max() <= 2


def test_a_view_does_not_depend_on_batch_or_position() -> None:
    images, ids = _random_images(6, 40, 44), torch.arange(100, 106)
    sizes, epochs = torch.tensor([[40, 44]] * 6), torch.full((6,), 3)
    whole = make_view(images, sizes, ids, epochs, view=STRONG, seed=1, index=2)
    order = torch.tensor([4, 0, 5])
    part = make_view(images[order], sizes[order], ids[order], epochs[order], view=STRONG, seed=1, index=2)
    torch.testing.assert_close(part, whole[order], rtol=0, atol=1e-6)


def test_a_view_does_not_depend_on_padding() -> None:
    small = _random_images(1, 20, 30)
    padded, sizes = stack_images([image[0].permute(1, 2, 0).numpy() for image in (small, _random_images(1, 40, 44))])
    ids, epochs = torch.tensor([7, 8]), torch.zeros(2, dtype=torch.int64)
    alone = make_view(small, sizes[:1], ids[:1], epochs[:1], view=STRONG, seed=0, index=0)
    together = make_view(padded, sizes, ids, epochs, view=STRONG, seed=0, index=0)
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-6)


def test_seed_sample_epoch_and_view_each_change_the_draws() -> None:
    ids, epochs = torch.tensor([5]), torch.tensor([0])
    base = uniform(ids, epochs, seed=0, view=0, num_draws=4)
    for other in (
        uniform(ids, epochs, seed=1, view=0, num_draws=4),
        uniform(ids + 1, epochs, seed=0, view=0, num_draws=4),
        uniform(ids, epochs + 1, seed=0, view=0, num_draws=4),
        uniform(ids, epochs, seed=0, view=1, num_draws=4),
    ):
        assert (other != base).all()


def test_draws_are_uniform_and_uncorrelated() -> None:
    draws = uniform(torch.arange(20_000), torch.zeros(20_000, dtype=torch.int64), seed=0, view=0, num_draws=6)
    assert draws.min() >= 0 and draws.max() < 1
    torch.testing.assert_close(draws.mean(dim=0), torch.full((6,), 0.5).double(), rtol=0, atol=0.01)
    correlation = torch.corrcoef(draws.T) - torch.eye(6)
    assert correlation.abs().max() < 0.03


def test_boxes_lie_in_the_image_and_have_the_asked_share_of_it() -> None:
    sizes = torch.tensor([[60, 80]]).expand(5000, 2)
    draws = uniform(torch.arange(5000), torch.zeros(5000, dtype=torch.int64), seed=0, view=0, num_draws=22)
    top, left, height, width = random_boxes(sizes, draws, scale_low=0.4, scale_high=1.0).unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 60).all() and (left + width <= 80).all()
    share = (height * width) / 4800
    assert share.min() > 0.37 and share.max() <= 1.0


def test_an_extreme_shape_falls_back_to_a_centre_crop() -> None:
    draws = uniform(torch.arange(50), torch.zeros(50, dtype=torch.int64), seed=0, view=0, num_draws=22)
    boxes = random_boxes(torch.tensor([[10, 300]]).expand(50, 2), draws, scale_low=0.9, scale_high=1.0)
    assert (boxes == torch.tensor([0, 143, 10, 13])).all()


def test_a_view_without_strengths_is_a_crop_only() -> None:
    images = _random_images(2, 24, 24)
    plain = View(size_px=24, scale_low=1.0, scale_high=1.0)
    ids = torch.arange(2)
    boxes = random_boxes(
        torch.tensor([[24, 24]] * 2),
        uniform(ids, torch.zeros_like(ids), seed=0, view=0, num_draws=38)[:, :22],
        scale_low=1.0,
        scale_high=1.0,
    )
    views = make_view(images, torch.tensor([[24, 24]] * 2), ids, torch.zeros_like(ids), view=plain, seed=0, index=0)
    for image, box, view in zip(images, boxes, views, strict=True):
        top, left, height, width = box.tolist()
        rows = resize_weights(box[None, 0], box[None, 2], 24, 24)[0]
        columns = resize_weights(box[None, 1], box[None, 3], 24, 24)[0]
        assert height <= 24 and width <= 24 and top >= 0 and left >= 0
        torch.testing.assert_close(view, (rows @ (image.float() @ columns.T) / 255).clamp(0, 1))


@pytest.mark.parametrize(("draw", "enhance"), [(0, "Brightness"), (1, "Contrast"), (2, "Color")])
def test_jitter_equals_pillows_enhancers(draw: int, enhance: str) -> None:
    from PIL import ImageEnhance

    gradient = np.add.outer(np.linspace(60, 120, 20), np.linspace(0, 30, 20))
    array = np.stack([gradient, gradient.T, 180 - gradient], axis=2).round().astype(np.uint8)
    draws = torch.full((1, 7), 0.5)
    draws[0, draw], draws[0, 4], draws[0, 5] = 0.8, 0.0, 1.0  # factor 1 + 0.4 * 0.6; jittered; not grey
    view = View(size_px=20, scale_low=1, scale_high=1, jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.4)
    pixels = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    matrix, offset = _colour_matrix(pixels.mean(dim=(1, 2))[None], draws, view)
    ours = (matrix[0] @ pixels.flatten(1) + offset[0][:, None]).view_as(pixels) * 255
    theirs = np.asarray(getattr(ImageEnhance, enhance)(Image.fromarray(array)).enhance(1.24), dtype=np.float32)
    assert np.abs(ours.permute(1, 2, 0).numpy() - theirs).max() <= 1.5


def test_grey_equals_pillows_luma() -> None:
    pixels = _random_images(1, 8, 8)[0]
    draws = torch.zeros(1, 7)
    draws[0, 4] = 1.0  # no jitter; grey, because 0 < 1
    matrix, offset = _colour_matrix(torch.zeros(1, 3), draws, View(size_px=8, scale_low=1, scale_high=1, grey=1.0))
    ours = (matrix[0] @ pixels.float().flatten(1) + offset[0][:, None]).view(3, 8, 8)
    theirs = np.asarray(ImageOps.grayscale(Image.fromarray(pixels.permute(1, 2, 0).numpy())), dtype=np.float32)
    assert np.abs(ours[1].numpy() - theirs).max() <= 1
    torch.testing.assert_close(ours[0], ours[2])
