"""From the bytes of a file to a picture that training can use, or to the reason why not."""

import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
MAX_CAPTION_CHARACTERS = 2000
CAPTION_SUFFIX = ".txt"


class Reject(Exception):
    """This input is left out; `reason` is the name under which it is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_picture(data: bytes, *, min_side_px: int, max_aspect: float, max_pixels: int) -> Image.Image:
    """Returns an upright 8-bit RGB picture; transparency is laid on white.

    Raises:
        Reject: `empty`, `not_image`, `too_large`, `too_small`, `aspect`, `truncated` or `decode`; the first five
            are told from the header alone.
    """
    if not data:
        raise Reject("empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides
            picture = Image.open(io.BytesIO(data))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise Reject("too_large" if isinstance(error, Image.DecompressionBombError) else "not_image") from error
    except Exception as error:  # Pillow's plugins raise whatever a broken header makes them raise
        raise Reject("decode") from error
    short, long = sorted(picture.size)
    if short * long > max_pixels:
        raise Reject("too_large")
    if short < min_side_px:
        raise Reject("too_small")
    if long > max_aspect * short:
        raise Reject("aspect")
    try:
        picture.load()
        return _to_rgb(ImageOps.exif_transpose(picture))
    except Exception as error:
        raise Reject("truncated" if "truncated" in str(error) else "decode") from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
        picture = picture.convert("I").point(lambda value: value / 257).convert("L")
    if picture.mode == "F":
        raise ValueError("floating-point pictures have no fixed range")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def shrink(picture: Image.Image, short_side_px: int) -> Image.Image:
    """Returns the picture with its short side at most `short_side_px`, the aspect kept; smaller ones as they are."""
    short = min(picture.size)
    if short <= short_side_px:
        return picture
    width, height = (max(1, round(side * short_side_px / short)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def encode_png(picture: Image.Image) -> bytes:
    """Returns the picture as PNG, the same bytes each time."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def clean_caption(data: bytes) -> str:
    """Returns the first line of a caption file, its white space folded and control characters dropped.

    Raises:
        Reject: `caption_encoding` when it is not UTF-8, `caption_empty` when nothing is left.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Reject("caption_encoding") from error
    lines = text.strip("\x00 \t\r\n").splitlines()
    line = "".join(c for c in lines[0] if c.isprintable() or c.isspace()) if lines else ""
    caption = " ".join(line.split())[:MAX_CAPTION_CHARACTERS].strip()
    if not caption:
        raise Reject("caption_empty")
    return caption
