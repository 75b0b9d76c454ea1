"""From the bytes of a file to a picture, or to the reason why not."""

import io
import struct
import zlib

import numpy
import pytest
from PIL import Image

from components.core.data.ingest import Reject, clean_caption, decode_picture, encode_png, shrink

LIMITS = {"min_side_px": 8, "max_aspect": 4.0, "max_pixels": 10**6}


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    random = numpy.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)).convert(mode)


def bomb() -> bytes:
    """Returns a PNG of a kilobyte whose header announces 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html><body>not found</body></html>", "not_image"),
        (encode(noise((64, 64)), "JPEG")[:-900], "truncated"),
        (encode(noise((4, 32))), "too_small"),
        (encode(noise((100, 10))), "aspect"),
        (encode(noise((1100, 1000))), "too_large"),
        (bomb(), "too_large"),
    ],
)
def test_a_bad_picture_is_rejected_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Reject) as caught:
        decode_picture(data, **LIMITS)
    assert caught.value.reason == reason


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(numpy.full((16, 16), 128 * 257, dtype=numpy.uint16))
    else:
        picture = Image.new("RGB", (16, 16), (128, 128, 128)).convert(mode)
    found = decode_picture(encode(picture, "TIFF" if mode == "CMYK" else "PNG"), **LIMITS)
    assert found.mode == "RGB" and found.size == (16, 16)
    if mode not in ("1", "P", "CMYK"):
        assert found.getpixel((3, 3)) == (128, 128, 128)


def test_transparency_is_laid_on_white() -> None:
    picture = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert decode_picture(encode(picture), **LIMITS).getpixel((0, 0)) == (255, 255, 255)


def test_an_exif_rotation_is_applied_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = decode_picture(encode(noise((32, 16)), "JPEG", exif=exif), **LIMITS)
    assert picture.size == (16, 32)
    assert 0x0112 not in picture.getexif()


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_picture(data, **LIMITS).getpixel((0, 0)) == (255, 0, 0)


def test_only_pictures_that_are_too_large_shrink() -> None:
    assert shrink(noise((40, 20)), 16).size == (32, 16)
    assert shrink(noise((40, 12)), 16).size == (40, 12)


def test_encoding_is_deterministic_and_lossless() -> None:
    picture = noise((20, 20))
    assert encode_png(picture) == encode_png(picture.copy())
    assert Image.open(io.BytesIO(encode_png(picture))).tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        (b"A red ball.\nfr=Un ballon rouge", "A red ball."),
        (b"\xef\xbb\xbfwith a byte-order mark", "with a byte-order mark"),
        (b"  two \t words\x07\r\n", "two words"),
        ("größer, 大きい".encode(), "größer, 大きい"),
        (b"x" * 10**6, "x" * 2000),
    ],
)
def test_a_caption_is_its_first_line_cleaned(data: bytes, caption: str) -> None:
    assert clean_caption(data) == caption


@pytest.mark.parametrize(
    ("data", "reason"), [(b"caf\xe9", "caption_encoding"), (b"", "caption_empty"), (b" \x00\n ", "caption_empty")]
)
def test_a_caption_without_text_is_rejected(data: bytes, reason: str) -> None:
    with pytest.raises(Reject) as caught:
        clean_caption(data)
    assert caught.value.reason == reason
