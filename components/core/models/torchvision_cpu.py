"""Lets torchvision's CUDA wheel be imported beside a CPU-only torch.

timm, open_clip and transformers import torchvision, which registers fakes for its compiled operators. Beside
a torch without CUDA its extension does not load, and the import fails with `operator torchvision::nms does
not exist`. Declaring the operators first is enough, because nothing here calls them.
"""

from __future__ import annotations

import sys

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": (
        "(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
        "int sampling_ratio, bool aligned) -> Tensor"
    ),
}


def allow_torchvision_import() -> None:
    """Declares the operators that `import torchvision` looks for; call it before importing timm or open_clip.

    Does nothing where torch has CUDA (there the wheel's own operators load), where torchvision is imported
    already, or on a second call.
    """
    if torch.version.cuda is not None or "torchvision" in sys.modules:
        return
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema)
