"""What Pillow does not say of a picture's file: its kind when it can't be opened, what it lost, where it broke off."""

from collections.abc import Callable

from PIL import Image

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\x00", b"MM\x00*")
_JPEG_END = b"\xff\xd9"
_MORE_SCAN = b"\x35\xac" * 64  # entropy-coded data that decode to some pixels or other
_UNREAD = {127, 128}  # of every component, the upper one where CMYK is inverted


def looks_like_picture(data: bytes) -> bool:
    """Returns whether a file begins like one of the formats that `ingest` reads, whatever its name says."""
    is_webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    is_avif = data[4:12] in (b"ftypavif", b"ftypavis")
    return is_webp or is_avif or data.startswith(_SIGNATURES)


def is_lossy(kind: str, data: bytes) -> bool:
    """Returns whether a file of Pillow's format `kind` has lost details to its compression."""
    return kind in ("JPEG", "MPO", "AVIF") or (kind == "WEBP" and b"VP8L" not in _webp_chunks(data))


def _webp_chunks(data: bytes) -> list[bytes]:
    """Returns the names of a WebP's chunks (RFC 9649, section 2.3)."""
    names, start = [], 12
    while start + 8 <= len(data):
        names.append(data[start : start + 4])
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        start += 8 + size + size % 2
    return names


def is_cut_short(data: bytes, scan: int, picture: Image.Image, decode: Callable[[bytes], Image.Image]) -> bool:
    """Returns whether a JPEG's end mark comes before its last pixel.

    libjpeg fills what is missing with mid-grey and Pillow says nothing. A grey corner may also be the picture's own:
    then more data in front of the end mark change no pixel.

    Args:
        scan: Where the entropy-coded data begin.
        picture: What `decode` makes of the data.
    """
    corner = picture.getpixel((picture.width - 1, picture.height - 1))
    if not _UNREAD.issuperset(corner if isinstance(corner, tuple) else (corner,)):
        return False
    end = data.find(_JPEG_END, scan)
    return decode(data[:end] + _MORE_SCAN + data[end:]).tobytes() != picture.tobytes()
