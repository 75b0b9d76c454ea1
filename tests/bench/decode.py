"""From a JPEG's bytes to a training batch on one core: ours for a whole batch, beside open_clip's way, one by one.

Both decode, crop 90 to 100 % of the area at random, resize to 224 px and normalise. Then: threads beside processes
for the reader's decoding, where the decoded pictures have to come back to the process that batches them.
"""

import io
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy
import torch
from PIL import Image

from components.core.data.augment import View, crop_and_resize, make_view
from components.core.data.batch import stack_images
from components.core.data.shard_samples import decode
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.runtime.process import keep_freed_memory
from tests.bench.measure import CPU, WALL, Contender, NotEqual, compare, compare_pair, rounds
from tests.bench.photographs import Camera

SIZE_PX = 224
DECODE_PX = 2 * SIZE_PX
BATCH = 64
NUM_PICTURES = {256: 512, 500: 256, 1000: 128}  # by the short side
VIEW = View(size_px=SIZE_PX, scale_low=0.9, scale_high=1.0)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # open_clip's
MOST_LEVELS_APART = 2


def rows() -> None:
    """Prints a row per size, and two for the reader's workers."""
    for short_px, num_pictures in NUM_PICTURES.items():
        _check(short_px)
        arguments = (short_px, num_pictures)
        peer = Contender("open_clip's transform", f"{__name__}:peer", arguments)
        compare_pair(f"decode + augment, {short_px} px", Contender("ours", f"{__name__}:ours", arguments), peer)
    threads, processes = (Contender(kind, f"{__name__}:workers", (kind,)) for kind in ("2 threads", "2 processes"))
    costs = rounds([threads, processes])
    for unit in (WALL, CPU):
        compare("decode 500 px in 2 threads", costs[threads.name], costs[processes.name], processes.name, unit)


def ours(short_px: int, num_pictures: int) -> Callable[[], list[int]]:
    """Prepares ours, as a stage's process does."""
    pictures = _prepare(short_px, num_pictures)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def work() -> list[int]:
        shape = torch.Size()
        for start in range(0, num_pictures, BATCH):
            pixels = [numpy.asarray(decode(data, DECODE_PX)) for data in pictures[start : start + BATCH]]
            images, sizes = stack_images(pixels)
            ids = torch.arange(start, start + len(pixels))
            views = make_view(images, sizes, ids, torch.zeros_like(ids), view=VIEW, seed=0, index=0)
            shape = ((views - mean) / std).shape
        return list(shape)

    work()
    return work


def peer(short_px: int, num_pictures: int) -> Callable[[], list[int]]:
    """Prepares open_clip's training transform, picture by picture, stacked to batches as its loader does."""
    allow_torchvision_import()
    import open_clip

    pictures = _prepare(short_px, num_pictures)
    transform = open_clip.image_transform(SIZE_PX, is_train=True)

    def work() -> list[int]:
        shape = torch.Size()
        for start in range(0, num_pictures, BATCH):
            views = [transform(Image.open(io.BytesIO(data))) for data in pictures[start : start + BATCH]]
            shape = torch.stack(views).shape
        return list(shape)

    work()
    return work


def workers(kind: str) -> Callable[[], int]:
    """Prepares two workers that decode for this process, in pieces of eight as the reader's do."""
    pictures = _prepare(500, NUM_PICTURES[500])
    pool: Executor = ThreadPoolExecutor(2) if kind == "2 threads" else ProcessPoolExecutor(2)
    list(pool.map(_pixels, pictures[:16], chunksize=8))

    def work() -> int:
        with pool:  # ended processes' CPU seconds count
            return sum(int(pixels.shape[0]) for pixels in pool.map(_pixels, pictures, chunksize=8))

    return work


def _pixels(data: bytes) -> Any:
    return numpy.asarray(decode(data, DECODE_PX))


def _prepare(short_px: int, num_pictures: int) -> list[bytes]:
    torch.set_num_threads(1)
    keep_freed_memory()
    return _pictures(short_px, num_pictures)


def _pictures(short_px: int, num_pictures: int) -> list[bytes]:
    """Returns JPEGs in three shapes, a batch never of one alone."""
    shots = [partial(Camera(*size).jpeg) for size in _sizes(short_px)]
    return [shots[number % len(shots)](number % 48) for number in range(num_pictures)]


def _sizes(short_px: int) -> list[tuple[int, int]]:
    long_px = short_px * 4 // 3
    return [(long_px, short_px), (short_px, long_px), (short_px, short_px)]


def _check(short_px: int) -> None:
    """Compares ours with Pillow on the same crop: all of the picture, at the view's size."""
    for data in _pictures(short_px, 6):
        images, sizes = stack_images([_pixels(data)])
        box = torch.cat([torch.zeros_like(sizes), sizes], dim=1)
        found = crop_and_resize(images, box, SIZE_PX)[0].permute(1, 2, 0).numpy() * 255
        whole = Image.open(io.BytesIO(data)).convert("RGB")
        expected = numpy.asarray(whole.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC), dtype=numpy.float32)
        apart = float(numpy.abs(found - expected).mean())
        if apart > MOST_LEVELS_APART:
            raise NotEqual(f"at {short_px} px the views are {apart:.1f} of 255 levels apart")
