"""From the bytes of a file to what a shard stores, or to the reason why not. Cases are those of the list of faults."""

import dataclasses
import io
import resource
import struct
import time
import zlib
from collections.abc import Callable

import numpy
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from components.core.data.ingest import Limits, Reject, Stored, encode_png, normalise
from tests.core.data.limits import LIMITS

UPRIGHT: dict[int, Callable[[numpy.ndarray], numpy.ndarray]] = {  # EXIF 2.32, table 6
    1: lambda rows: rows,
    2: lambda rows: rows[:, ::-1],
    3: lambda rows: rows[::-1, ::-1],
    4: lambda rows: rows[::-1],
    5: lambda rows: rows.transpose(1, 0, 2),
    6: lambda rows: numpy.rot90(rows, -1),
    7: lambda rows: rows[::-1, ::-1].transpose(1, 0, 2),
    8: lambda rows: numpy.rot90(rows),
}


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Returns a smooth picture that no turn leaves as it is."""
    rows = numpy.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=numpy.uint8)
    return Image.fromarray(rows).resize(size, Image.Resampling.BICUBIC)


def pixels(stored: Stored) -> numpy.ndarray:
    return numpy.asarray(Image.open(io.BytesIO(stored.data)).convert("RGB"), dtype=int)


def reason(data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(Reject) as caught:
        normalise(data, limits)
    return caught.value.reason


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


JPEG = encode(scene((200, 150)), "JPEG", quality=95)
PROGRESSIVE = encode(scene((200, 150)), "JPEG", quality=95, progressive=True)
HALF = len(JPEG) // 2


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"<html><body>404 not found</body></html>", "not_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not_image"),
        (JPEG.replace(b"\xff\xdb", b"\xff\x02", 1), "decode"),
        (patched(JPEG, HALF, b"\xff\x05"), "decode"),
        (JPEG[:HALF], "truncated"),
        (JPEG[:-1], "truncated"),
        (JPEG[:200], "truncated"),
        (PROGRESSIVE[: len(PROGRESSIVE) // 2], "truncated"),
        (encode(scene())[:-100], "truncated"),
        (encode(scene(), "WEBP")[:-100], "decode"),
        (encode(Image.new("F", (16, 16)), "TIFF"), "decode"),
        (encode(scene((4, 32))), "too_small"),
        (encode(Image.new("RGB", (1, 1))), "too_small"),
        (encode(Image.new("RGB", (10_000, 5))), "too_small"),
        (encode(Image.new("RGB", (10_000, 50))), "aspect"),
        (encode(Image.new("1", (1100, 1000))), "too_large"),
    ],
)
def test_a_bad_picture_is_rejected_with_its_reason(data: bytes, expected: str) -> None:
    assert reason(data) == expected


@pytest.mark.parametrize("rest", [b"", JPEG[HALF + 2 :], bytes(1000) + b"\xff\xd9"])
def test_a_jpeg_that_ends_in_the_middle_is_not_filled_with_grey(rest: bytes) -> None:
    assert reason(JPEG[:HALF] + b"\xff\xd9" + rest) == "truncated"


def test_a_jpeg_with_a_hole_of_zeros_is_rejected() -> None:
    assert reason(patched(JPEG, HALF, bytes(len(JPEG) - HALF - 2))) == "truncated"


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_may_be_grey(mode: str) -> None:
    grey = encode(Image.new(mode, (32, 32), 128 if mode == "L" else (128, 128, 128)), "JPEG")
    assert normalise(grey, LIMITS).data == grey


def png_bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def bombs() -> dict[str, bytes]:
    jpeg, gif, bmp = encode(scene(), "JPEG"), encode(scene(), "GIF"), encode(Image.new("1", (16, 16)), "BMP")
    webp = encode(scene(), "WEBP", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    return {
        "PNG": png_bomb(),
        "JPEG": patched(jpeg, jpeg.index(b"\xff\xc0") + 5, b"\xc3\x50\xc3\x50"),
        "GIF": patched(gif, 6, b"\x50\xc3\x50\xc3"),
        "BMP": patched(bmp, 18, struct.pack("<ii", 50_000, 50_000)),
        "WEBP": patched(webp, 24, 2 * (16_383 - 1).to_bytes(3, "little")),
    }


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_a_bomb_is_rejected_from_its_header(kind: str) -> None:
    data = bombs()[kind]
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = []
    for _ in range(5):
        start = time.process_time()
        assert reason(data) == "too_large"
        took.append(time.process_time() - start)
    assert min(took) < 0.01
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < 200 * 1024


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_rgb_and_keeps_its_colours(mode: str) -> None:
    source = scene().convert(mode)
    stored = normalise(encode(source), LIMITS)
    assert stored.extension == "png"
    assert (pixels(stored) == numpy.asarray(source.convert("RGB"), dtype=int)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    if mode == "P":
        data = encode(Image.new("P", (16, 16), 0), transparency=0)
        expected = 255
    else:
        data = encode(Image.new("RGBA", (16, 16), (100, 100, 100, 51)).convert(mode))
        expected = round(0.2 * 100 + 0.8 * 255)
    assert (pixels(normalise(data, LIMITS)) == expected).all()


@pytest.mark.parametrize("transparency", [None, 0])
def test_16_bits_are_scaled_not_clipped(transparency: int | None) -> None:
    deep = numpy.linspace(0, 65535, 256 * 16).reshape(64, 64).astype(numpy.uint16)
    options = {} if transparency is None else {"transparency": transparency}
    found = pixels(normalise(encode(Image.fromarray(deep), **options), LIMITS))
    expected = numpy.rint(deep / 257).astype(int)
    expected[deep == transparency] = 255
    assert (found == expected[:, :, None]).all()


def test_integers_beyond_16_bits_are_rejected() -> None:
    assert reason(encode(Image.fromarray(numpy.full((16, 16), 70_000, dtype=numpy.int32)), "TIFF")) == "decode"


INKS = numpy.array([[200, 30, 90, 0], [0, 0, 0, 255], [0, 0, 0, 0], [10, 240, 20, 60]])


def cmyk_jpeg(inks: numpy.ndarray) -> bytes:
    """Returns a JPEG of 16-pixel squares, as Adobe writes it: the values of the inks inverted."""
    squares = numpy.kron(inks.astype(numpy.uint8)[None], numpy.ones((16, 16, 1), dtype=numpy.uint8))
    return encode(Image.fromarray(squares, "CMYK"), "JPEG", quality=100, subsampling=0)


def ycck_jpeg(inks: numpy.ndarray) -> bytes:
    """Returns the same with Adobe's transform 2: cyan, magenta and yellow as luma and chroma (ITU-T T.872, 6.5.3)."""
    to_ycc = numpy.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycc = inks[:, :3] @ to_ycc.T + (0, 128, 128)
    stored = numpy.concatenate([ycc, 255 - inks[:, 3:]], axis=1)
    data = cmyk_jpeg(255 - numpy.rint(stored))  # Pillow inverts as it writes
    return patched(data, data.index(b"Adobe") + 11, b"\x02")


@pytest.mark.parametrize("write", [cmyk_jpeg, ycck_jpeg])
def test_inks_become_the_light_they_leave(write: Callable[[numpy.ndarray], bytes]) -> None:
    stored = normalise(write(INKS), dataclasses.replace(LIMITS, jpeg_quality=100))
    expected = (255 - INKS[:, :3]) * (255 - INKS[:, 3:]) / 255
    assert stored.extension == "jpg"
    assert numpy.abs(pixels(stored)[8, 8::16] - expected).max() < 5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_turn_is_applied_once_and_its_tag_dropped(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = scene()
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = normalise(encode(source, kind, exif=exif, **options), LIMITS)
    expected = UPRIGHT[orientation](numpy.asarray(source, dtype=int))
    assert (stored.height, stored.width) == expected.shape[:2]
    assert numpy.abs(pixels(stored) - expected).mean() < (8 if kind == "JPEG" else 1e-9)  # another turn: over 40
    assert Image.open(io.BytesIO(stored.data)).getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken_or_nothing(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert numpy.abs(pixels(normalise(data, LIMITS)) - (255, 0, 0)).max() < 5
    refusing = dataclasses.replace(LIMITS, animated="reject")
    assert reason(data, refusing) == "animated"
    assert normalise(encode(frames[0], kind), refusing).width == 16


def test_a_cameras_jpeg_with_a_preview_is_no_animation() -> None:
    data = encode(scene(), "MPO", save_all=True, append_images=[scene((16, 12))])
    stored = normalise(data, dataclasses.replace(LIMITS, animated="reject"))
    assert (stored.extension, stored.width) == ("jpg", 40)
    assert b"MPF" not in stored.data


@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png")])
def test_a_small_jpeg_or_png_passes_byte_for_byte(kind: str, extension: str) -> None:
    for picture in (scene(), scene().convert("L")):
        data = encode(picture, kind)
        stored = normalise(data, LIMITS)
        assert (stored.data, stored.extension) == (data, extension)
    frames = [scene(), scene().transpose(Image.Transpose.ROTATE_180)]
    moving = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    clear = encode(scene(), transparency=scene().getpixel((0, 0)))
    assert all(normalise(data, LIMITS).data != data for data in (moving, clear))


def test_a_large_jpeg_shrinks() -> None:
    large = encode(scene((200, 150)), "JPEG", quality=95)
    stored = normalise(large, LIMITS)
    assert (stored.extension, stored.width, stored.height) == ("jpg", 85, 64)
    assert numpy.abs(pixels(stored) - numpy.asarray(scene((85, 64)), dtype=int)).mean() < 4


@pytest.mark.parametrize(("size", "short_side_px"), [((128, 128), 64), ((700, 555), 64), ((129, 200), 16)])
def test_decoding_at_a_fraction_of_the_size_shifts_nothing(size: tuple[int, int], short_side_px: int) -> None:
    data = encode(scene(size).convert("L"), "JPEG", quality=95)
    stored = normalise(data, dataclasses.replace(LIMITS, image_size_px=short_side_px, jpeg_quality=100))
    whole = Image.open(io.BytesIO(data)).resize((stored.width, stored.height), Image.Resampling.BOX)
    assert numpy.abs(pixels(stored)[..., 0] - numpy.asarray(whole, dtype=int)).mean() < 1


@pytest.mark.parametrize(
    ("data", "extension"),
    [
        (encode(scene(), "WEBP", quality=80), "jpg"),
        (encode(scene(), "WEBP", lossless=True), "png"),
        (encode(scene().convert("RGBA"), "WEBP", quality=80, exact=True, icc_profile=b"x" * 101), "jpg"),
        (encode(scene((200, 150))), "png"),
        (encode(scene(), "BMP"), "png"),
        (encode(scene(), "TIFF"), "png"),
    ],
)
def test_what_was_lossy_becomes_jpeg_and_the_rest_png(data: bytes, extension: str) -> None:
    stored = normalise(data, LIMITS)
    assert stored.extension == extension
    assert stored == normalise(data, LIMITS)


def test_nothing_but_pixels_is_kept_of_a_picture_that_changes() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "taken at home")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    png = encode(scene().convert("RGBA"), pnginfo=texts, icc_profile=profile)
    assert normalise(png, LIMITS).data == encode_png(scene())
    jpeg = encode(scene((200, 150)), "JPEG", comment=b"taken at home", icc_profile=profile)
    assert b"taken at home" not in normalise(jpeg, LIMITS).data


def test_the_hash_tells_pixels_and_the_perceptual_hash_looks() -> None:
    first = normalise(encode(scene()), LIMITS)
    assert normalise(encode(scene(), "BMP"), LIMITS).sha256 == first.sha256
    alike = normalise(encode(scene().resize((60, 45), Image.Resampling.BICUBIC), "JPEG", quality=60), LIMITS)
    other = normalise(encode(scene().transpose(Image.Transpose.ROTATE_180)), LIMITS)
    assert alike.sha256 != first.sha256 and len(first.sha256) == 32
    assert (alike.dhash ^ first.dhash).bit_count() <= 6 < 12 < (other.dhash ^ first.dhash).bit_count()
    ramp = normalise(encode(Image.linear_gradient("L").rotate(90)), LIMITS)
    assert ramp.dhash == 2**64 - 1
