"""One kind of pixels out of all the kinds that files hold, and the hashes of them."""

import hashlib

import numpy
from PIL import Image

_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I")
_CLEAR_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
_WHITE = (255, 255, 255, 255)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Returns 8-bit RGB: 16 bits divided by 257, what is transparent laid on white, CMYK without a colour profile.

    Raises:
        ValueError: Floating-point numbers, or integers beyond 16 bits, have no fixed range.
    """
    if picture.mode in _DEEP_MODES:
        picture = _to_8_bits(picture)
    if picture.mode == "F":
        raise ValueError("floating-point pictures have no fixed range")
    if picture.mode in _CLEAR_MODES or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, _WHITE), picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _to_8_bits(picture: Image.Image) -> Image.Image:
    deep = numpy.asarray(picture.convert("I"))
    if deep.min() < 0 or deep.max() > 65535:
        raise ValueError("integers beyond 16 bits have no fixed range")
    grey = Image.fromarray(numpy.rint(deep / 257).astype(numpy.uint8))
    if "transparency" in picture.info:
        grey.putalpha(Image.fromarray(deep != picture.info["transparency"]).convert("L"))
    return grey


def shrunk_size(size: tuple[int, int], short_side_px: int) -> tuple[int, int]:
    """Returns a picture's size with its short side at most `short_side_px` and the aspect kept."""
    short = min(size)
    if short <= short_side_px:
        return size
    width, height = (max(1, round(side * short_side_px / short)) for side in size)
    return width, height


def pixel_hash(picture: Image.Image) -> str:
    """Returns 32 hexadecimal digits over size and pixels, the beginning of a sha256."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()[:32]


def dhash(picture: Image.Image) -> int:
    """Returns 64 bits that differ little between pictures that look alike.

    One bit per step to the right on a grid of 9 x 8 grey pixels, row by row: 1 where it gets brighter (Krawetz,
    hackerfactor.com, "Kind of Like That", 2013).
    """
    grid = numpy.asarray(picture.convert("L").resize((9, 8), Image.Resampling.LANCZOS, reducing_gap=2.0))
    return int.from_bytes(numpy.packbits(grid[:, 1:] > grid[:, :-1]).tobytes(), "big")
