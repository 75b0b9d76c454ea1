# B batch, C channels (RGB), H and W the stored image, S side of the view, L length of an axis, T trials,
# 4 = (top, left, height, width) of a box.
"""Random views of a batch, made on its device: crop and resize, flip, blur, and a colour matrix per sample.

Crop and bicubic resize with antialiasing are Pillow's `Image.crop(box).resize(size, BICUBIC)`. A CPU takes PyTorch's
kernel for 8 bits, sample by sample, which is several times faster than Pillow; an accelerator takes
one (S, L) matrix per axis and sample with Pillow's own weights. Each is equal to Pillow within its rounding, 2/255.
Brightness, contrast, saturation, hue and grey are affine maps of RGB, folded into one 3x4 matrix per sample, in a
random order as torchvision's ColorJitter. Two small differences follow and are meant: values are clamped once, after
the colour matrix, and the hue turns about the grey axis in YIQ, not in HSV.

All randomness is a pure function of (seed, sample id, epoch, view): no generator state, so that a view
depends neither on the batch, nor its order, nor the worker, rank or resumption that made it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from components.core.data.batch import stack_images

_NUM_TRIALS = 10  # torchvision's RandomResizedCrop: ten trials, then a centre crop
_RATIO = (3 / 4, 4 / 3)  # its aspect ratios
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's convert("L")
_BLUR_SIGMA = (0.1 / 224, 2.0 / 224)  # DINO: radius 0.1 to 2 pixels at 224, here as a fraction of the side
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


@dataclass(frozen=True, kw_only=True)
class View:
    """How one kind of view is drawn; the defaults change nothing but crop and size.

    Attributes:
        size_px: side of the view.
        scale_low, scale_high: range of the crop's share of the image's area.
        flip: probability of a left-right flip.
        jitter: probability of the colour jitter; brightness, contrast, saturation and hue are its torchvision
        strengths. grey, blur, solarise: probabilities.
    """

    size_px: int
    scale_low: float
    scale_high: float
    flip: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    solarise: float = 0.0


def make_view(
    images_BCHW: Tensor,
    sizes_B2: Tensor,
    ids_B: Tensor,
    epochs_B: Tensor,
    *,
    view: View,
    seed: int,
    index: int,
) -> Tensor:
    """Returns random views (B, C, S, S) in [0, 1].

    Args:
        images_BCHW: uint8 RGB, valid at the top left; fastest with channels last in memory.
        sizes_B2: valid (height, width) of each.
        ids_B: sample ids.
        epochs_B: epochs.
        view: what to draw.
        seed: seed of the run.
        index: which view of the sample this is; different views of a sample are independent.
    """
    draws = uniform(ids_B, epochs_B, seed=seed, view=index, num_draws=2 * _NUM_TRIALS + 16)
    crop_draws, draws = draws[:, : 2 * _NUM_TRIALS + 2], draws[:, 2 * _NUM_TRIALS + 2 :]
    boxes_B4 = random_boxes(sizes_B2, crop_draws, scale_low=view.scale_low, scale_high=view.scale_high)
    images_BCSS = crop_and_resize(images_BCHW, boxes_B4, view.size_px)
    if view.flip:
        is_flipped_B111 = (draws[:, 0] < view.flip)[:, None, None, None]
        images_BCSS = torch.where(is_flipped_B111, images_BCSS.flip(3), images_BCSS)
    if view.blur:
        low, high = (sigma * view.size_px for sigma in _BLUR_SIGMA)
        blur_BSS = _blur_weights(low + draws[:, 1] * (high - low), draws[:, 2] < view.blur, view.size_px)
        images_BCSS = blur_BSS[:, None] @ images_BCSS @ blur_BSS[:, None].mT
    if view.jitter or view.grey:
        matrix_B33, offset_B3 = _colour_matrix(images_BCSS.mean(dim=(2, 3)), draws[:, 3:10], view)
        flat = torch.baddbmm(offset_B3[:, :, None], matrix_B33, images_BCSS.flatten(2))
        images_BCSS = flat.view_as(images_BCSS).clamp_(0, 1)
    if view.solarise:
        is_solarised = ((draws[:, 10] < view.solarise)[:, None, None, None]) & (images_BCSS >= 128 / 255)
        images_BCSS = torch.where(is_solarised, 1 - images_BCSS, images_BCSS)
    return images_BCSS


def whole_view(images_BCHW: Tensor, sizes_B2: Tensor, size_px: int) -> Tensor:
    """Returns the largest centred square of each image, resized to (B, C, S, S) in [0, 1]; nothing random."""
    side_B = sizes_B2.min(dim=1).values
    top_left_B2 = (sizes_B2 - side_B[:, None]) // 2
    return crop_and_resize(images_BCHW, torch.cat([top_left_B2, side_B[:, None].expand(-1, 2)], dim=1), size_px)


def whole_views(pictures: Sequence[Image.Image], size_px: int) -> Tensor:
    """Returns `whole_view` of RGB pictures of any sizes, (B, C, S, S)."""
    return whole_view(*stack_images([numpy.asarray(picture) for picture in pictures]), size_px)


def uniform(ids_B: Tensor, epochs_B: Tensor, *, seed: int, view: int, num_draws: int) -> Tensor:
    """Returns (B, num_draws) float64 in [0, 1): a hash of (seed, id, epoch, view, number of the draw)."""
    key_B = _mix(_mix(_mix(_mix(torch.full_like(ids_B, seed)) + ids_B) + epochs_B) + view)
    draws = torch.arange(num_draws, device=ids_B.device, dtype=torch.int64)
    return _shift(_mix(key_B[:, None] + draws * _GOLDEN), 11).double() * 2.0**-53


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as int64; products wrap, which is what the hash wants


def _shift(bits: Tensor, places: int) -> Tensor:
    """Returns a logical right shift of int64."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """Returns one step of SplitMix64 (Steele, Lea, Flood 2014), in int64."""
    bits = bits + _GOLDEN
    bits = (bits ^ _shift(bits, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    bits = (bits ^ _shift(bits, 27)) * (0x94D049BB133111EB - 2**64)
    return bits ^ _shift(bits, 31)


def random_boxes(sizes_B2: Tensor, draws: Tensor, *, scale_low: float, scale_high: float) -> Tensor:
    """Returns integer boxes (B, 4), distributed as torchvision's RandomResizedCrop.

    Args:
        sizes_B2: (height, width) of the images.
        draws: (B, 2 * trials + 2) in [0, 1): area and ratio of each trial, then the place.
        scale_low: least share of the area.
        scale_high: greatest share of the area.
    """
    height_B1, width_B1 = sizes_B2.double().split(1, dim=1)
    num_trials = (draws.shape[1] - 2) // 2
    area_BT = height_B1 * width_B1 * (scale_low + draws[:, :num_trials] * (scale_high - scale_low))
    low, high = (math.log(ratio) for ratio in _RATIO)
    ratio_BT = torch.exp(low + draws[:, num_trials:-2] * (high - low))
    widths_BT = (area_BT * ratio_BT).sqrt().round()
    heights_BT = (area_BT / ratio_BT).sqrt().round()
    fits_BT = (widths_BT >= 1) & (widths_BT <= width_B1) & (heights_BT >= 1) & (heights_BT <= height_B1)
    first_B1 = fits_BT.int().argmax(dim=1, keepdim=True)
    fits_B1 = fits_BT.any(dim=1, keepdim=True)
    # none fits: the whole image, cut to the nearest ratio allowed
    fallback_width_B1 = torch.minimum(width_B1, (height_B1 * _RATIO[1]).round())
    fallback_height_B1 = torch.minimum(height_B1, (width_B1 / _RATIO[0]).round())
    box_width_B1 = torch.where(fits_B1, widths_BT.gather(1, first_B1), fallback_width_B1)
    box_height_B1 = torch.where(fits_B1, heights_BT.gather(1, first_B1), fallback_height_B1)
    top_B1 = (draws[:, -2:-1] * (height_B1 - box_height_B1 + 1)).floor()
    left_B1 = (draws[:, -1:] * (width_B1 - box_width_B1 + 1)).floor()
    top_B1 = torch.where(fits_B1, top_B1, ((height_B1 - box_height_B1) / 2).floor())
    left_B1 = torch.where(fits_B1, left_B1, ((width_B1 - box_width_B1) / 2).floor())
    return torch.cat([top_B1, left_B1, box_height_B1, box_width_B1], dim=1).long()


def crop_and_resize(images_BCHW: Tensor, boxes_B4: Tensor, size_px: int) -> Tensor:
    """Returns each image's box, resized to (B, C, S, S) in [0, 1]; clamped, because bicubic overshoots."""
    if images_BCHW.device.type != "cpu":
        rows_BSH = resize_weights(boxes_B4[:, 0], boxes_B4[:, 2], images_BCHW.shape[2], size_px)
        columns_BSW = resize_weights(boxes_B4[:, 1], boxes_B4[:, 3], images_BCHW.shape[3], size_px)
        return _resample(images_BCHW, rows_BSH, columns_BSW)
    resized = [
        F.interpolate(
            image_CHW[None, :, top : top + height, left : left + width],
            (size_px, size_px),
            mode="bicubic",
            antialias=True,
        )
        for image_CHW, (top, left, height, width) in zip(images_BCHW, boxes_B4.tolist(), strict=True)
    ]
    return torch.cat(resized).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def resize_weights(start_B: Tensor, length_B: Tensor, axis_length: int, size_px: int) -> Tensor:
    """Returns (B, S, L) float32 weights that cut [start, start + length) from an axis and resize it to
    size_px.

    Pillow's bicubic (a = -0.5), widened by the scale where it shrinks, cut at the box and normalised.
    """
    start_B11, length_B11 = start_B.double()[:, None, None], length_B.double()[:, None, None]
    scale_B11 = length_B11 / size_px
    out_S1 = torch.arange(size_px, device=start_B.device, dtype=torch.float64)[:, None]
    pixel_L = torch.arange(axis_length, device=start_B.device, dtype=torch.float64)
    offset_BSL = (pixel_L + 0.5 - start_B11 - (out_S1 + 0.5) * scale_B11) / scale_B11.clamp(min=1.0)
    distance_BSL = offset_BSL.abs()
    near = (1.5 * distance_BSL - 2.5) * distance_BSL**2 + 1
    far = ((-0.5 * distance_BSL + 2.5) * distance_BSL - 4) * distance_BSL + 2
    weights_BSL = torch.where(distance_BSL < 1, near, torch.where(distance_BSL < 2, far, 0.0))
    weights_BSL = weights_BSL * ((pixel_L >= start_B11) & (pixel_L < start_B11 + length_B11))
    return (weights_BSL / weights_BSL.sum(dim=2, keepdim=True)).float()


def _resample(images_BCHW: Tensor, rows_BSH: Tensor, columns_BSW: Tensor) -> Tensor:
    """Returns the images in [0, 1] with both axes resampled."""
    pixels = images_BCHW.to(rows_BSH.dtype, memory_format=torch.contiguous_format)
    narrow_BCHS = pixels.flatten(1, 2) @ columns_BSW.mT
    narrow_BCHS = narrow_BCHS.unflatten(1, pixels.shape[1:3])
    return (rows_BSH[:, None] @ narrow_BCHS).div_(255).clamp_(0, 1)


def _blur_weights(sigma_B: Tensor, is_blurred_B: Tensor, size_px: int) -> Tensor:
    """Returns (B, S, S) Gaussian weights, normalised at the borders; the identity where a sample is not
    blurred.
    """
    place = torch.arange(size_px, device=sigma_B.device, dtype=torch.float64)
    weights_BSS = torch.exp(-0.5 * ((place[:, None] - place) / sigma_B[:, None, None]) ** 2)
    weights_BSS = weights_BSS / weights_BSS.sum(dim=2, keepdim=True)
    identity_SS = torch.eye(size_px, device=sigma_B.device, dtype=torch.float64)
    return torch.where(is_blurred_B[:, None, None], weights_BSS, identity_SS).float()


def _colour_matrix(mean_B3: Tensor, draws_B7: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Returns (B, 3, 3) and (B, 3): jitter, then grey, as one affine map of RGB.

    Args:
        mean_B3: the view's mean colour, which contrast blends towards.
        draws_B7: in [0, 1): brightness, contrast, saturation, hue, whether to jitter, whether grey, order.
        view: strengths and probabilities.
    """
    draws_B7 = draws_B7.float()
    factors_B7 = 2 * draws_B7 - 1
    device = mean_B3.device
    eye_33 = torch.eye(3, device=device)
    luma_33 = torch.tensor(_LUMA, device=device).expand(3, 3)
    brightness_B = 1 + view.brightness * factors_B7[:, 0]
    contrast_B = 1 + view.contrast * factors_B7[:, 1]
    saturation_B11 = (1 + view.saturation * factors_B7[:, 2])[:, None, None]
    yiq_33 = torch.tensor(_RGB_TO_YIQ, device=device)
    angle_B = 2 * math.pi * view.hue * factors_B7[:, 3]
    cos_B, sin_B, zero_B = angle_B.cos(), angle_B.sin(), torch.zeros_like(angle_B)
    turn_B33 = torch.stack([zero_B + 1, zero_B, zero_B, zero_B, cos_B, -sin_B, zero_B, sin_B, cos_B], 1).view(-1, 3, 3)
    hue_B33 = torch.linalg.inv(yiq_33) @ turn_B33 @ yiq_33
    saturation_B33 = saturation_B11 * eye_33 + (1 - saturation_B11) * luma_33
    scale_B33 = [
        brightness_B[:, None, None] * eye_33,
        contrast_B[:, None, None] * eye_33,
        saturation_B33,
        hue_B33,
    ]
    steps_B433 = torch.stack(scale_B33, dim=1)
    # the order: ranks of four numbers hashed out of one draw
    keys_B4 = torch.frac(draws_B7[:, 6:7] * torch.tensor([1.0, 24.0, 576.0, 13824.0], device=device))
    order_B4 = keys_B4.argsort(dim=1)
    matrix_B33, offset_B3 = eye_33.expand(len(mean_B3), 3, 3), torch.zeros_like(mean_B3)
    for slot in range(4):
        which_B = order_B4[:, slot]
        step_B33 = steps_B433.gather(1, which_B[:, None, None, None].expand(-1, 1, 3, 3))[:, 0]
        now_B3 = (matrix_B33 @ mean_B3[:, :, None])[:, :, 0] + offset_B3
        pivot_B3 = (now_B3 @ luma_33.mT) * ((1 - contrast_B) * (which_B == 1))[:, None]
        matrix_B33 = step_B33 @ matrix_B33
        offset_B3 = (step_B33 @ offset_B3[:, :, None])[:, :, 0] + pivot_B3
    is_plain_B = draws_B7[:, 4] >= view.jitter
    matrix_B33 = torch.where(is_plain_B[:, None, None], eye_33, matrix_B33)
    offset_B3 = torch.where(is_plain_B[:, None], 0.0, offset_B3)
    is_grey_B = draws_B7[:, 5] < view.grey
    matrix_B33 = torch.where(is_grey_B[:, None, None], luma_33 @ matrix_B33, matrix_B33)
    offset_B3 = torch.where(is_grey_B[:, None], offset_B3 @ luma_33.mT, offset_B3)
    return matrix_B33, offset_B3
