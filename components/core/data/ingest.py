"""From the bytes of a file to what a shard stores of it, or to the reason why not."""

import contextlib
import io
import itertools
import warnings
from dataclasses import dataclass

from PIL import AvifImagePlugin, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from components.core.data.picture_files import is_cut_short, is_lossy, looks_like_picture
from components.core.data.pixels import dhash, pixel_hash, shrunk_size, to_rgb

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")

_ = AvifImagePlugin, TiffImagePlugin, WebPImagePlugin  # else Pillow loads all its plugins to find these
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_PASSING = {"JPEG": "jpg", "PNG": "png"}
_MOVING_FORMATS = ("PNG", "WEBP", "GIF", "AVIF")  # in others, more pictures are pages or a camera's previews
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JOINERS = "\u200c\u200d"  # not printable, but Persian, Hindi and emoji need them


class Reject(Exception):
    """This input is left out; `reason` is the name under which it is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """What is accepted, and how it is stored.

    Attributes:
        image_size_px: Most pixels of the short side; larger pictures shrink.
        min_side_px: Fewest pixels of the short side.
        max_aspect: Most of long side by short side.
        max_pixels: Most pixels that a header may announce.
        jpeg_quality: Of lossy pictures that had to change.
        animated: `first_frame` takes it, `reject` rejects.
        caption_fallback_encoding: For captions that are not UTF-8; empty: they are rejected.
        caption_language: ISO 639-1 code of the only language; empty: any.
    """

    image_size_px: int
    min_side_px: int
    max_aspect: float
    max_pixels: int
    jpeg_quality: int
    animated: str
    max_caption_characters: int
    min_caption_characters: int
    caption_fallback_encoding: str
    caption_language: str


@dataclass(frozen=True)
class Stored:
    """A picture as a shard stores it.

    Attributes:
        extension: `jpg` or `png`, the kind of `data`.
        sha256: `pixel_hash` of its pixels (of a JPEG that was made here: before it was made).
        dhash: `dhash` of the same.
    """

    extension: str
    data: bytes
    width: int
    height: int
    sha256: str
    dhash: int


def normalise(data: bytes, limits: Limits) -> Stored:
    """Returns the picture upright, in 8-bit RGB, on white where it was transparent, no larger than asked for.

    Pictures shrink by area averaging, as img2dataset shrinks them, and by libjpeg's scaled DCT where that is exact.

    A JPEG or PNG that is all this already is stored byte for byte, after it was decoded whole. Of others nothing but
    the pixels is kept: as JPEG if the source was lossy, else as PNG. The same bytes give the same bytes.

    Raises:
        Reject: `empty`, `not_image`, `too_large`, `too_small`, `aspect`, `animated`, `truncated` or `decode`; all but
            the last two are told from the header alone.
    """
    if not data:
        raise Reject("empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large headers and broken tags; here they count, or don't
        try:
            file = _open(data)
            _check_header(file, limits)
            picture, is_changed = _decode(data, file, limits.image_size_px)
        except Reject:
            raise
        except Exception as error:  # Pillow's plugins raise whatever a broken file makes them raise
            raise Reject("truncated" if "truncated" in str(error).lower() else "decode") from error
    if not is_changed:
        extension, stored = _PASSING[str(file.format)], data
    elif is_lossy(str(file.format), data):
        extension, stored = "jpg", _encode_jpeg(picture, limits.jpeg_quality)
    else:
        extension, stored = "png", encode_png(picture)
    return Stored(extension, stored, picture.width, picture.height, pixel_hash(picture), dhash(picture))


def _open(data: bytes) -> ImageFile.ImageFile:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise Reject("too_large") from error
    except UnidentifiedImageError as error:
        raise Reject("decode" if looks_like_picture(data) else "not_image") from error


def _check_header(header: ImageFile.ImageFile, limits: Limits) -> None:
    short, long = sorted(header.size)
    if short * long > limits.max_pixels:
        raise Reject("too_large")
    if short < limits.min_side_px:
        raise Reject("too_small")
    if long > limits.max_aspect * short:
        raise Reject("aspect")
    if limits.animated == "reject" and header.format in _MOVING_FORMATS and getattr(header, "is_animated", False):
        raise Reject("animated")


def _decode(data: bytes, file: ImageFile.ImageFile, short_side_px: int) -> tuple[Image.Image, bool]:
    """Returns the normal picture, and whether it differs from the file's or the file is of another format."""
    size = shrunk_size(file.size, short_side_px)
    is_plain = file.mode in ("RGB", "L") and "transparency" not in file.info and not getattr(file, "is_animated", False)
    is_changed = file.format not in _PASSING or not is_plain or file.size != size
    scan = file.fp.tell() if file.fp else 0
    _, box = file.draft(None, size) or ("", None)  # libjpeg leaves out what is lost by halving anyway
    file.load()
    if file.format in ("JPEG", "MPO") and is_cut_short(data, scan, file, lambda longer: _draft(longer, size)):
        raise Reject("truncated")
    turn = _TURNS.get(file.getexif().get(_ORIENTATION, 1))
    picture = to_rgb(file)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BOX, box=box)
    if turn is not None:
        picture = picture.transpose(turn)
    picture.info = {}  # else a colour profile or a comment would be written with the pixels
    return picture, is_changed or turn is not None


def _draft(data: bytes, size: tuple[int, int]) -> Image.Image:
    file = _open(data)
    file.draft(None, size)
    return file


def encode_png(picture: Image.Image) -> bytes:
    """Returns the picture as PNG, the same bytes each time."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def _encode_jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def clean_caption(data: bytes | str, limits: Limits) -> str:
    """Returns the first line of a caption, its white space folded, control characters dropped, cut at the limit.

    Its language is a guess (py3langid's), and a poor one below four or five words.

    Raises:
        Reject: `caption_encoding`, `caption_empty`, `caption_short` or `caption_language`.
    """
    text = data if isinstance(data, str) else _decode_text(data, limits.caption_fallback_encoding)
    lines = text.strip("\x00 \t\r\n").splitlines()
    line = " ".join(lines[0].split()) if lines else ""
    readable = (c for c in line if c.isprintable() or c in _JOINERS)
    caption = " ".join("".join(itertools.islice(readable, limits.max_caption_characters)).split())
    if not caption.strip(_JOINERS):
        raise Reject("caption_empty")
    if len(caption) < limits.min_caption_characters:
        raise Reject("caption_short")
    if limits.caption_language and _language(caption) != limits.caption_language:
        raise Reject("caption_language")
    return caption


def _decode_text(data: bytes, fallback_encoding: str) -> str:
    for encoding in ("utf-8", fallback_encoding):
        with contextlib.suppress(UnicodeDecodeError):
            if encoding:
                return data.decode(encoding)
    raise Reject("caption_encoding")


def _language(text: str) -> str:
    import py3langid  # its model takes half a second to load

    return str(py3langid.classify(text)[0])
