"""JPEGs that cost a decoder what photographs cost: smooth shapes, and a camera's noise over them."""

import io

import numpy
from PIL import Image

CELLS = 24  # on the short side, whatever the size: a larger picture is the same scene, sharper
NOISE_LEVELS = 6
_MARGIN = 64


class Camera:
    """Makes pictures of one size, each its own and the same each time.

    Args:
        width, height: In pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        shape = (height + _MARGIN, width + _MARGIN, 3)
        self._noise = numpy.random.default_rng(0).normal(0, NOISE_LEVELS, shape).astype(numpy.float32)

    def jpeg(self, number: int, quality: int = 90) -> bytes:
        """Returns picture `number` as a JPEG."""
        rng = numpy.random.default_rng(number)
        cell_px = min(self.width, self.height) / CELLS
        shape = (round(self.height / cell_px), round(self.width / cell_px), 3)
        cells = rng.integers(0, 256, shape, dtype=numpy.uint8)
        smooth = Image.fromarray(cells).resize((self.width, self.height), Image.Resampling.BICUBIC)
        top, left = rng.integers(0, _MARGIN, 2)
        noise = self._noise[top : top + self.height, left : left + self.width]
        pixels = (numpy.asarray(smooth) + noise).clip(0, 255).astype(numpy.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        return buffer.getvalue()
