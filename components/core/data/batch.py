# B batch, C channels (RGB), H height, W width, 2 = (height, width).
"""What a training step receives: decoded images and captions, before augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Decoded samples of one step, in the order that is the same for every arm.

    Attributes:
        images_BCHW: uint8 RGB, zero-padded at the right and bottom to the largest of the batch.
        sizes_B2: int64, the valid (height, width) of each image.
        ids_B: int64 sample ids, the index in the manifest.
        epochs_B: int64, the epoch in which each sample is drawn.
        captions: one per sample.
    """

    images_BCHW: torch.Tensor
    sizes_B2: torch.Tensor
    ids_B: torch.Tensor
    epochs_B: torch.Tensor
    captions: list[str]

    def __post_init__(self) -> None:
        num_samples = self.images_BCHW.shape[0]
        assert self.images_BCHW.dtype == torch.uint8 and self.images_BCHW.shape[1] == 3, "images: uint8 RGB"
        assert self.sizes_B2.shape == (num_samples, 2), "sizes: one (height, width) per image"
        assert self.ids_B.shape == self.epochs_B.shape == (num_samples,), "ids, epochs: one per image"
        assert len(self.captions) == num_samples, "captions: one per image"

    def __len__(self) -> int:
        return len(self.captions)

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch with its tensors on a device; itself where they are there already."""
        if self.images_BCHW.device == torch.device(device):
            return self
        return replace(
            self,
            images_BCHW=self.images_BCHW.to(device, non_blocking=True),
            sizes_B2=self.sizes_B2.to(device, non_blocking=True),
            ids_B=self.ids_B.to(device, non_blocking=True),
            epochs_B=self.epochs_B.to(device, non_blocking=True),
        )


def stack_images(images: Sequence[NDArray[numpy.uint8]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (images_BCHW, sizes_B2) of uint8 (H, W, C) pictures, zero-padded at the right and bottom.

    In memory the channels stay last, as Pillow decodes them. It is NumPy's work, because a thread that prepares
    batches would otherwise start PyTorch's own team of threads beside the one that trains.
    """
    sizes_B2 = numpy.array([image.shape[:2] for image in images], dtype=numpy.int64)
    height, width = sizes_B2.max(axis=0).tolist()
    images_BHWC = numpy.empty((len(images), height, width, 3), dtype=numpy.uint8)
    for image_HWC, padded_HWC, (rows, columns) in zip(images, images_BHWC, sizes_B2.tolist(), strict=True):
        padded_HWC[:rows, :columns] = image_HWC
        padded_HWC[:rows, columns:] = 0
        padded_HWC[rows:] = 0
    return torch.from_numpy(images_BHWC).permute(0, 3, 1, 2), torch.from_numpy(sizes_B2)
